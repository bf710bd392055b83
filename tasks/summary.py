"""What a run came to: one dictionary for programs, one page of markdown for people."""

from __future__ import annotations

from typing import Any

from prefect.artifacts import create_markdown_artifact

from aesc.files import read_json, write_atomically
from tasks.detectability import detectability_of
from tasks.model_card import description, write_card
from tasks.pages import interval, number
from tasks.registry import describe_version, model_name, model_uri
from tasks.retries import retried_task
from tasks.run_folder import RunFolder
from tasks.settings import Settings
from tasks.tracking import finish_run
from tasks.training import slug

SHOWN = {
    "image_auroc": "image AUROC",
    "image_average_precision": "image average precision",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_average_precision": "pixel average precision",
    "aupro": "AUPRO",
}


def summarise(run: RunFolder) -> dict[str, Any]:
    """The headline of a registered run, JSON-ready; a metric that is not available is None."""
    from aesc.operating_point import OperatingPoint

    state, metrics = run.state, read_json(run.metrics)
    point = OperatingPoint.load(run.detector)
    overall = metrics["metrics"][0]
    return {
        "category": state["category"],
        "preset": state["preset"],
        "data_version": metrics["data_version"],
        "data_version_kind": state["data_version"]["kind"],
        "git_commit": state["commit"],
        "model": model_name(state["category"]),
        "model_version": state.get("model_version"),
        "aliases": state.get("aliases", []),
        "strategy": point.strategy,
        "strategy_reason": point.choice.reason if point.choice else "set by detection.strategy",
        "residual": point.detection.residual,
        "residual_reason": point.residual_choice.reason if point.residual_choice else "set by detection.residual",
        "image_score": metrics["image_score"],
        "threshold": point.promise.threshold,
        **{name: overall[name] for name in SHOWN},
        "image_auroc_residual_l2": metrics["image_auroc_by_score"]["residual"]["l2"],
        "image_auroc_by_strategy": {name: table[0]["image_auroc"] for name, table in metrics["strategies"].items()},
        "confidence": run.params().evaluation.confidence,
        "intervals": {name: [overall[f"{name}_low"], overall[f"{name}_high"]] for name in SHOWN},
        "metrics_by_defect": metrics["metrics"][1:],
        "n": metrics["n"],
        "synthetic_defects": metrics["synthetic_defects"],
        "promise": point.promise.model_dump(),
        "abstention": point.abstention.model_dump(),
        "pixel_promise": point.pixel_promise.model_dump(),
        **{key: value for key, value in metrics["alarms"][point.strategy].items() if key != "threshold"},
        "weights_sha256": point.weights_sha256,
        "seed": point.seed,
        "metric_version": metrics["metric_version"],
        "detectability": detectability_of(run),
        "turned_by": run.turned_by,
        "device": state["device"]["device"],
        "seconds": round(sum(state["seconds"].values()), 2),
        "seconds_by_stage": state["seconds"],
        "mlflow_run_id": state.get("mlflow_run_id"),
        "tracking_uri": Settings().mlflow_uri,
        "run_folder": str(run.path),
    }


def to_markdown(summary: dict[str, Any]) -> str:
    """The summary as a page for Prefect, MLflow and the run folder."""
    n, promise = summary["n"], summary["promise"]
    rows = [
        f"| {label} | {number(summary[name])} | {interval(summary['intervals'][name])} |"
        for name, label in SHOWN.items()
    ]
    defects = [
        f"| {row['defect']} | {row['n_defective']} | {number(row['image_auroc'])} | {number(row['pixel_auroc'])} | "
        f"{number(row['aupro'])} |"
        for row in summary["metrics_by_defect"]
    ]
    uri = model_uri(summary["category"], str(summary["model_version"]))
    kept = "The promise is kept" if promise["kept"] else "**The wished promise cannot be given**"
    notes = []
    if summary["synthetic_defects"]:
        notes.append("**There are no defective test images: detection was measured on held-out corruptions.**")
    if len(summary["turned_by"]) > 1:
        degrees = ", ".join(map(str, summary["turned_by"]))
        notes.append(
            f"The clean images look alike turned, so the network learnt from them turned by {degrees} degrees."
        )
    if n["test_defective_without_mask"]:
        notes.append(f"{n['test_defective_without_mask']} defective images have no mask: not in the pixel metrics.")
    return "\n".join(
        [
            f"# {summary['category']}: {summary['model']} version {summary['model_version']}"
            f" ({', '.join(summary['aliases']) or 'no alias'})",
            "",
            f"Strategy **{summary['strategy']}** by `{summary['image_score']}`: {summary['strategy_reason']}. "
            f"Residual **{summary['residual']}**: {summary['residual_reason']}.",
            "",
            *(note + "\n" for note in notes),
            f"| metric | value | {100 * summary['confidence']:g} % interval |",
            "|---|---|---|",
            *rows,
            "",
            f"Test set: {n['test_good']} good, {n['test_defective']} defective images; seed {summary['seed']}; "
            f"data version `{summary['data_version']}`; metric version {summary['metric_version']}.",
            "",
            "| defect type | images | image AUROC | pixel AUROC | AUPRO |",
            "|---|---|---|---|---|",
            *defects,
            "",
            "## The promise",
            "",
            f"{kept}: {promise['message']}.",
            "",
            f"Threshold {summary['threshold']:.6g}. On {summary['clean_images']} clean test images it raised "
            f"{summary['false_alarms']} false alarms ({summary['false_alarms_allowed']} or fewer are within what the "
            f"promise allows at 95 % confidence); it found {summary['detected']} of {summary['defective_images']} "
            "defective images.",
            "",
            f"Abstention: {summary['abstention']['message']}. On the test set it left "
            f"{summary['abstained_clean']} of {summary['clean_images']} clean and {summary['abstained_defective']} of "
            f"{summary['defective_images']} defective images to a person; they are counted above by their score.",
            "",
            "## Detectability",
            "",
            _detectability(summary["detectability"]),
            "",
            "## Where it is",
            "",
            f"- model: `{uri}` at `{summary['tracking_uri']}`",
            f"- MLflow run: `{summary['mlflow_run_id']}`",
            f"- run folder: `{summary['run_folder']}`",
            f"- weights' sha256: `{summary['weights_sha256']}`",
            f"- {summary['seconds']:.0f} s on {summary['device']}: "
            + ", ".join(f"{name} {value:.0f}" for name, value in summary["seconds_by_stage"].items()),
            "",
        ]
    )


@retried_task(task_run_name="summarise {category}")
def publish_summary(category: str, run_folder: str) -> str:
    """Write summary.md, finish the MLflow run with it and show it in Prefect's UI; its path."""
    run = RunFolder(run_folder)
    text = complete_run(run)
    create_markdown_artifact(markdown=text, key=f"retrain-{slug(category)}", description=f"retrain {category}")
    return str(run.summary)


def complete_run(run: RunFolder) -> str:
    """Write summary.md and the model card, and finish the registered run; the summary."""
    summary = summarise(run)
    text = to_markdown(summary)
    write_atomically(run.summary, lambda path: path.write_text(text, encoding="utf-8"))
    describe_version(run, description(write_card(run, summary, shown=SHOWN)))
    if not run.state["finished"]:
        finish_run(run)
    return text


def _detectability(found: dict[str, Any] | None) -> str:
    if found is None:
        return "Not measured: too few calibration images pass."
    words = str(found["words"])
    return f"{words[0].upper()}{words[1:]}. See `figures/detectability.png`."
