"""The monitoring flow: are recent scores those of the calibration, and does the champion still see what it saw."""

from __future__ import annotations

import logging
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from aesc.errors import AescError
from aesc.presets import DEFAULT_PRESET
from flows.tagging import tag_flow_run
from tasks.data_lock import hold
from tasks.monitor_report import publish_look
from tasks.monitoring import compare_recent_scores, remeasure_detectability
from tasks.registry import watched_categories
from tasks.settings import Settings, prepare_environment
from tasks.training import slug

LOGGER = logging.getLogger("aesc")


def _run_name() -> str:
    return f"monitor {flow_run.parameters.get('category') or 'all categories'}"


@flow(name="monitor", flow_run_name=_run_name, log_prints=False)
def monitor(
    category: str | None = None, source: str | None = None, preset: str = DEFAULT_PRESET, params_file: str | None = None
) -> dict[str, Any]:
    """Compare recent scores with those of the calibration, and measure anew which stains the champion finds.

    Args:
        category: whose champion; by default every category that has one.
        source: s3://bucket/prefix or a folder whose newest images are looked at; by default what was inspected last and
            what was accepted last.
        preset: whose rules apply (monitoring in params.yaml), and which a retraining would use.
        params_file: by default the project's params.yaml.

    Returns:
        `categories`: one report each, with status "waiting" (too few new images), "unchanged", "changed" (scores or
        alarms) or "degraded" (detectability), the comparisons and the detectability.

    Raises:
        AescError: a category could not be looked at; the others were.
    """
    if LOGGER.level == logging.NOTSET:  # under a worker nobody else asks for the stages' lines
        LOGGER.setLevel(logging.INFO)
    settings = Settings()
    prepare_environment(settings)
    if category is None and source is not None:
        raise AescError("category", "not given", allowed="the one whose images are at the source", usage=True)
    names = [category] if category is not None else watched_categories()
    if not names:
        LOGGER.info("nothing to watch: no category has a champion")
    tag_flow_run(*names)
    parameters = str(params_file or settings.root / "params.yaml")
    reports: list[dict[str, Any]] = []
    faults: dict[str, Exception] = {}
    for name in names:
        try:
            with hold(f"monitor-{slug(name)}", settings):
                folder = compare_recent_scores(name, source, preset, parameters)
                remeasure_detectability(name, folder, parameters)
                reports.append(publish_look(name, folder))
        except Exception as error:
            if len(names) == 1:
                raise
            LOGGER.error("%s: %s", name, error)
            faults[name] = error
    if faults:
        raise AescError(
            "monitor",
            f"{len(faults)} of {len(names)} categories failed: "
            + "; ".join(f"{name}: {str(error).splitlines()[0]}" for name, error in faults.items()),
            todo="mend what is named and run it again",
        )
    return {"categories": reports}
