"""The inspection flow: what `aesc inspect` does, as a run that can be sent to a worker.

The file is not named inspect.py: Prefect puts a flow's folder on the import path, where it would hide Python's own
`inspect` from every process that the run starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run
from tqdm import tqdm

from aesc.params import Strategy
from flows.task_runner import run_all, task_runner, workers
from tasks.inspection import planned
from tasks.inspection_folder import InspectionFolder
from tasks.inspection_results import finish
from tasks.inspection_task import inspect_shard
from tasks.progress import ProgressArtifact
from tasks.settings import Settings, prepare_environment
from tasks.training import slug

SHOWN = 50  # images that did not pass in the artifact; the gallery has more, the tables have all


def _run_name() -> str:
    return f"inspect {flow_run.parameters.get('category') or flow_run.parameters.get('source')}"


@flow(name="inspect", flow_run_name=_run_name, log_prints=False)
def inspect(
    source: str,
    category: str | None = None,
    model: str = "champion",
    out: str | None = None,
    strategy: Strategy | None = None,
    all_scores: bool = False,
) -> dict[str, Any]:
    """Say of each image whether it passes; results as Parquet and CSV, heatmaps of those that do not, and a page.

    Any number of images: they are listed a page at a time and read a few at a time. Killed, the same call goes on with
    the shards that are missing. Shards run on threads, or on a Ray cluster (AESC_TASK_RUNNER=ray, AESC_RAY_ADDRESS).

    Args:
        source: an image or a folder of images on the worker's machine, or s3://bucket/prefix.
        category: whose detector; by default that of the only registered model.
        model: alias or version number, or the folder of a saved detector.
        out: the folder for the results; by default one below .aesc/inspections.
        strategy: residual, uncertainty or combined; by default the calibrated choice.
        all_scores: every strategy's score of every image, also where the verdict does not need it: that is slower.

    Returns:
        The counts of verdicts, where table and gallery are, and which model of which data said so.
    """
    report = inspect_by_shards(source, category, model, out, strategy, all_scores=all_scores)
    create_markdown_artifact(
        markdown=to_markdown(report, source=source),
        key=f"inspect-{slug(report['category'])}",
        description=f"inspect {source}",
    )
    return {key: value for key, value in report.items() if key != "images"}


def inspect_by_shards(
    source: str, category: str | None, model: str, out: str | None, strategy: Strategy | None, *, all_scores: bool
) -> dict[str, Any]:
    """Do all shards that are missing on the task runner; the report with its images. Inside a flow run only."""
    settings = Settings()
    prepare_environment(settings)
    with planned(
        source,
        category=category,
        model=model,
        out=Path(out) if out else None,
        settings=settings,
        strategy=strategy,
        all_scores=all_scores,
    ) as (folder, name):
        _run_shards(folder, settings)
        return finish(folder, model=name, settings=settings)


def _run_shards(folder: InspectionFolder, settings: Settings) -> None:
    missing, total = folder.missing(), len(folder.results())
    if not missing:
        return
    progress = ProgressArtifact("inspection", f"shards of {folder.path.name}", total)
    with tqdm(total=total, initial=total - len(missing), unit="shard", desc="inspect", disable=None) as bar:

        def one_more() -> None:
            bar.update()
            progress.update(int(bar.n) if not bar.disable else total - len(folder.missing()))

        pieces = [{"folder": str(folder.path), "number": number} for number in missing]
        with task_runner(settings) as runner:
            run_all(runner, inspect_shard, pieces, at_a_time=workers(settings), on_done=one_more)


def to_markdown(report: dict[str, Any], *, source: str) -> str:
    """The report as a page for Prefect's UI: the counts, and the images that did not pass."""
    counts = report["counts"]
    found = [row for row in report["images"] if row["verdict"] != "pass"]
    all_found = sum(count for verdict, count in counts.items() if verdict != "pass")
    rows = [
        f"| {_cell(row['path'])} | {row['verdict']} | "
        + (_cell(row["error"]) if row["score"] is None else f"{row['score']:.6g} of {row['threshold']:.6g}")
        + " |"
        for row in found[:SHOWN]
    ]
    more = [f"\n... and {all_found - len(rows)} more"] if all_found > len(rows) else []
    return "\n".join(
        [
            f"# {report['category']}: {counts['reject']} of {sum(counts.values())} images rejected",
            "",
            f"{counts['abstain']} abstained (a person should look), {counts['pass']} passed, "
            f"{counts['error']} unreadable, in `{source}`. "
            f"By `{report['model']}`, data version `{report['data_version']}`.",
            "",
            f"Promise: {report['promise']['message']}; {report['abstention']['message']}.",
            "",
            f"Heatmaps and gallery: `{report['gallery']}`",
            *(["", "| image | verdict | score |", "|---|---|---|", *rows, *more] if rows else []),
            "",
        ]
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
