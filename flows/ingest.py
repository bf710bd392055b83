"""The ingest flow: what arrived as clean is copied, judged, quarantined or taken in, and perhaps retrained on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from aesc.errors import AescError
from aesc.presets import DEFAULT_PRESET
from flows.one_at_a_time import DATA_LIMIT, one_at_a_time
from flows.tagging import tag_flow_run
from flows.timing import timed
from tasks.acceptance import accept_arrivals
from tasks.arrival_batch import unfinished_batch
from tasks.arrivals import arrival_place, arriving_categories
from tasks.data_lock import INGEST, hold
from tasks.ingest_report import combine, finish_batch
from tasks.judging import judge_arrivals
from tasks.quarantine import quarantine_arrivals
from tasks.retraining_rule import announce_retraining
from tasks.settings import Settings, prepare_environment
from tasks.staging import list_arrivals, stage_arrivals
from tasks.versioning import ensure_data

LOGGER = logging.getLogger("aesc")


def _run_name() -> str:
    return f"ingest {flow_run.parameters.get('category') or 'all categories'}"


@flow(name="ingest", flow_run_name=_run_name, log_prints=False)
def ingest(
    category: str | None = None, source: str | None = None, preset: str = DEFAULT_PRESET, params_file: str | None = None
) -> dict[str, Any]:
    """Take in what arrived as clean images, guarded, and decide whether retraining is worth it.

    Args:
        category: whose images arrive; by default each folder directly below the source is a category.
        source: s3://bucket/prefix or a folder; by default `<AESC_ARRIVALS>/<category>`.
        preset: whose limits and rules apply, and which a retraining will use.
        params_file: by default the project's params.yaml.

    Returns:
        `categories`: one report a category, with counts, reasons, data version, commit, and the retraining decision;
        none where neither an argument nor AESC_ARRIVALS says what to look at.

    Raises:
        AescError: a category could not be ingested; the others were.
    """
    if LOGGER.level == logging.NOTSET:  # under a worker nobody else asks for the stages' lines
        LOGGER.setLevel(logging.INFO)
    settings = Settings()
    prepare_environment(settings)
    if category is None and source is None and settings.arrivals is None:
        # A schedule that nobody has set up yet: not a failure every 15 minutes.
        LOGGER.info("nothing to do: AESC_ARRIVALS, the place that has a folder for each category, is not set")
        return {"categories": []}
    parameters = str(params_file or settings.root / "params.yaml")
    places = _places(category, source, settings)
    tag_flow_run(*places)
    reports: list[dict[str, Any]] = []
    faults: dict[str, Exception] = {}
    with one_at_a_time(DATA_LIMIT), hold(INGEST, settings):
        # Interrupted ones first: what one of them has placed in the data would stop the others.
        for name, place in sorted(places.items(), key=lambda item: unfinished_batch(settings, item[0]) is None):
            try:
                reports.append(_ingest(name, place, preset=preset, params_file=parameters, settings=settings))
            except Exception as error:
                if len(places) == 1:
                    raise
                LOGGER.error("%s: %s", name, error)
                faults[name] = error
    if faults:
        raise AescError(
            "ingest",
            f"{len(faults)} of {len(places)} categories failed: "
            + "; ".join(f"{name}: {str(error).splitlines()[0]}" for name, error in faults.items()),
            todo="mend what is named and run it again; the other categories are done",
        )
    return {"categories": reports}


def _places(category: str | None, source: str | None, settings: Settings) -> dict[str, str]:
    """Where the images of each category arrive."""
    base = arrival_place(source, settings)
    if category is not None:
        return {category: base if source else f"{base.rstrip('/')}/{category}"}
    found = arriving_categories(base, settings=settings)
    LOGGER.info("%d categories arrive at %s", len(found), base)
    return {name: f"{base.rstrip('/')}/{name}" for name in found}


def _ingest(category: str, source: str, *, preset: str, params_file: str, settings: Settings) -> dict[str, Any]:
    from aesc.layout import require_category_name
    from aesc.params_file import load_params

    require_category_name(category)
    params = load_params(Path(params_file), preset=preset, category=category)
    data_root = str(settings.data)
    ensure_data(settings)
    batches = []
    interrupted = True
    while interrupted:  # such a batch is ended first; then what is new at the source is looked at, once
        interrupted = unfinished_batch(settings, category) is not None
        if batch := list_arrivals(category, source, preset, params.arrivals.settle_seconds):
            batches.append(process_batch(category, batch, params_file=params_file, settings=settings))
    decision = announce_retraining(category, data_root, params_file, preset)
    return {**combine(category, source, batches), "retraining": decision}


def process_batch(category: str, batch: str, *, params_file: str, settings: Settings) -> dict[str, Any]:
    """Bring a batch to its end, from wherever it is; its report."""
    seconds: dict[str, float] = {}
    with timed(seconds, "copy"):
        stage_arrivals(category, batch)
    with timed(seconds, "judge"):
        judge_arrivals(category, str(settings.data), batch, params_file)
    with timed(seconds, "quarantine"):
        quarantine_arrivals(category, batch)
    with timed(seconds, "accept"):
        accept_arrivals(category, batch)
    with timed(seconds, "finish"):
        report = finish_batch(category, batch)
    return {**report, "seconds": seconds}
