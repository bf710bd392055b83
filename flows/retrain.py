"""The retraining flow: validate, pin the data version, train, evaluate, calibrate, register."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from aesc.presets import DEFAULT_PRESET
from flows.starts import require_few_starts
from flows.tagging import tag_flow_run
from flows.timing import timed
from tasks.announcement import announce_version
from tasks.calibration import calibrate_threshold, draw_figures
from tasks.data_lock import DATA, hold
from tasks.detectability import measure_detectability
from tasks.evaluation import evaluate_detector
from tasks.preparation import prepare_run, release_run
from tasks.registry import register_model
from tasks.run_folder import RunFolder
from tasks.settings import Settings, prepare_environment
from tasks.storage import check_stores
from tasks.suite_worker import start_suite_worker
from tasks.summary import publish_summary, summarise
from tasks.training import train_network
from tasks.validation import validate_data
from tasks.versioning import pin_version

LOGGER = logging.getLogger("aesc")


def _run_name() -> str:
    asked = flow_run.parameters
    return f"retrain {asked.get('category')} ({asked.get('preset') or DEFAULT_PRESET})"


@flow(name="retrain", flow_run_name=_run_name, log_prints=False)
def retrain(
    category: str,
    preset: str = DEFAULT_PRESET,
    data: str | None = None,
    params_file: str | None = None,
    overrides: Sequence[str] = (),
    resume: str = "auto",
) -> dict[str, Any]:
    """Train, measure, calibrate and register a detector for one category.

    Args:
        category: a folder below the data folder, in MVTec layout.
        preset: which preset of params.yaml.
        data: the folder of categories; by default the DVC-tracked `data`.
        params_file: by default the project's params.yaml.
        overrides: `section.key=value` strings.
        resume: "auto" takes up an interrupted run with the same data, parameters and code; "off"; or a run folder.

    Returns:
        The run's headline: category, data version, model version, residual, strategy, threshold, metrics, weights'
        sha256, seed, seconds, promise and places.
    """
    if LOGGER.level == logging.NOTSET:  # under a worker nobody else asks for the stages' lines
        LOGGER.setLevel(logging.INFO)
    require_few_starts()
    settings = Settings()
    prepare_environment(settings)
    if done := _done_before(category):
        return done
    start_suite_worker()  # where no command has: under a worker of Prefect's
    tag_flow_run(category, preset)
    data_root = str(Path(data).resolve() if data else settings.data)
    seconds: dict[str, float] = {}
    run_folder = None
    try:
        with hold(DATA, settings):  # from the listing to the pin an ingest must not change the data
            with timed(seconds, "prepare"):
                run_folder = prepare_run(
                    category,
                    preset=preset,
                    data_root=data_root,
                    params_file=str(params_file or settings.root / "params.yaml"),
                    overrides=list(overrides),
                    resume=resume,
                )
            run = RunFolder(run_folder)
            with timed(seconds, "validate"):
                validate_data(category, data_root, run_folder)
            with timed(seconds, "pin"):
                check_stores(category)
                pin_version(category, data_root, run_folder)
        with timed(seconds, "train"):
            train_network(category, data_root, run_folder)
        with timed(seconds, "evaluate"):
            evaluate_detector(category, data_root, run_folder)
        with timed(seconds, "calibrate"):
            calibrate_threshold(category, run_folder)
            draw_figures(category, run_folder)
            measure_detectability(category, data_root, run_folder)
        run.update(seconds=seconds)
        with timed(seconds, "register"):
            register_model(category, run_folder)
        run.update(seconds=seconds)
        publish_summary(category, run_folder)
        announce_version(category, run_folder)
    finally:
        if run_folder is not None:
            release_run(run_folder)
    return summarise(run)


def _done_before(category: str) -> dict[str, Any] | None:
    """What this very flow run came to, if it had ended when it was put back.

    A server that is too busy to keep up with its events can miss that a run has completed, and take its silence for
    death: the same model is not made twice for that.
    """
    if (flow_run.run_count or 0) < 2 or not flow_run.id:
        return None
    from tasks.registry import finished_by

    found = finished_by(category, flow_run.id)
    if found is None:
        return None
    LOGGER.info("this flow run was finished before it was started again: it has made version %s", found[0])
    return {"category": category, "model_version": found[0], **found[1]}
