"""`aesc params`, `aesc retrain`, `aesc register`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from aesc.presets import DEFAULT_PRESET
from flows.commands.shell import Category, DataFolder, Json, ParamsFile, Preset, Report, Set, command, quiet_settings

# What a retraining imports beside the usual.
HEAVY = (
    *("flows.retrain", "dvc.repo", "torch", "torch._dynamo"),  # the last by its optimisers
    *("scipy.stats", "scipy.optimize", "sklearn.metrics", "matplotlib.figure"),
)


@command
def params(
    preset: Preset = DEFAULT_PRESET,
    category: Annotated[str | None, typer.Option("--category", "-c", help="Apply this category's overrides.")] = None,
    params_file: ParamsFile = None,
    overrides: Set = None,
    as_json: Json = False,
) -> Report:
    """Show the parameters that a run would use.

    Example: `aesc params --preset paper --set training.epochs=150`
    """
    from aesc.params_file import load_params
    from tasks.settings import Settings

    path = params_file or Settings().root / "params.yaml"
    flat = load_params(path, preset=preset, category=category, overrides=overrides or []).flat()
    return Report(flat, "\n".join(f"{key} = {value}" for key, value in flat.items()))


@command
def retrain(
    category: Category,
    preset: Preset = DEFAULT_PRESET,
    data: DataFolder = None,
    params_file: ParamsFile = None,
    overrides: Set = None,
    resume: Annotated[
        str, typer.Option(help="auto takes an interrupted run up again; off starts anew; or a run folder.")
    ] = "auto",
    as_json: Json = False,
) -> Report:
    """Validate, pin the data version, train, evaluate, calibrate and register a detector.

    Examples:

    `aesc retrain --category gasket --preset demo`

    `aesc retrain --category bottle --data ~/mvtec --set training.seed=2 --json`
    """
    from aesc.manifest import require_category
    from aesc.params_file import load_params

    settings = quiet_settings()
    # What a person can get wrong is checked before the heavy libraries are loaded.
    load_params(
        params_file or settings.root / "params.yaml", preset=preset, category=category, overrides=overrides or []
    )
    require_category(data or settings.data, category)

    from tasks.suite_worker import start_suite_worker

    start_suite_worker()  # before this process begins to import

    from flows.embedded_server import start_embedded_server

    start_embedded_server(meanwhile=HEAVY)
    from flows.retrain import retrain as flow

    summary: dict[str, Any] = flow(
        category,
        preset=preset,
        data=str(data.resolve()) if data else None,
        params_file=str(params_file.resolve()) if params_file else None,
        overrides=overrides or [],
        resume=resume if resume in ("auto", "off") else str(Path(resume).resolve()),
    )
    return Report(summary, _headline(summary))


@command
def register(
    run_folder: Annotated[Path, typer.Argument(help="Folder of a finished run, below .aesc/runs.")],
    as_json: Json = False,
) -> Report:
    """Register a trained run whose registration failed, for instance because MLflow was away.

    Example: `aesc register .aesc/runs/bottle/20260101T120000-quick-s1-0123abcd`
    """
    from tasks.settings import Settings, prepare_environment

    prepare_environment(Settings())

    from tasks.run_folder import RunFolder

    run = RunFolder(run_folder.resolve())
    logging.getLogger("aesc").info("registering %s ...", run.state["category"])

    from tasks.registry import register_run
    from tasks.summary import complete_run, summarise

    lock = run.hold()
    try:
        register_run(run)
        complete_run(run)
    finally:
        lock.release()
    summary = summarise(run)
    return Report(summary, _headline(summary))


def _headline(summary: dict[str, Any]) -> str:
    def number(name: str) -> str:
        value = summary[name]
        return "not available" if value is None else f"{value:.4f}"

    n = summary["n"]
    made_up = " (held-out corruptions: there are no defective test images)" if summary["synthetic_defects"] else ""
    return "\n".join(
        [
            f"{summary['model']} version {summary['model_version']} ({', '.join(summary['aliases']) or 'no alias'})",
            f"  residual      {summary['residual']}: {summary['residual_reason']}",
            f"  strategy      {summary['strategy']}: {summary['strategy_reason']}",
            f"  image AUROC   {number('image_auroc')}, pixel AUROC {number('pixel_auroc')}, AUPRO {number('aupro')}",
            f"                on {n['test_good']} good and {n['test_defective']} defective test images{made_up},"
            f" seed {summary['seed']}, data {summary['data_version'][:16]}",
            f"  promise       {summary['promise']['message']}",
            f"  threshold     {summary['threshold']:.6g}: {summary['false_alarms']} of {summary['clean_images']} clean"
            f" test images rejected (up to {summary['false_alarms_allowed']} are within the promise),"
            f" {summary['detected']} of {summary['defective_images']} defects found",
            f"  abstention    {summary['abstention']['message']}",
            f"  weights       sha256 {summary['weights_sha256']}",
            f"  took          {summary['seconds']:.0f} s on {summary['device']}",
            f"  files         {summary['run_folder']}",
        ]
    )
