"""Retraining many categories: one run of the deployment `retrain` each, side by side, and one table of what came out.

This flow only waits. It must not sit on the pool that its runs need: a GPU's worker does one run at a time.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import Any

from prefect import flow, get_client
from prefect.artifacts import acreate_table_artifact
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import arun_deployment
from prefect.runtime import flow_run

from aesc.errors import AescError
from aesc.manifest import list_categories
from aesc.presets import DEFAULT_PRESET
from flows.automations import SILENCE
from flows.starts import require_few_starts
from tasks.registry import made_by
from tasks.settings import Settings, prepare_environment

DEPLOYMENT = "retrain/retrain"
POLL = 5.0  # seconds
# A crashed run that had begun is put back into its queue by the server, after a silence. For so long it may be.
PATIENCE = SILENCE.total_seconds() + 60


@dataclass(frozen=True)
class Retrained:
    """What one category's run came to: a model version and its numbers, or the reason why there is none."""

    category: str
    state: str
    model_version: str = ""
    image_auroc: str = ""
    data_version: str = ""
    seconds: float | None = None
    error: str = ""
    flow_run: str = ""

    @property
    def ok(self) -> bool:
        return not self.error


@flow(name="retrain-all", log_prints=False)
async def retrain_all(categories: list[str] | None = None, preset: str = DEFAULT_PRESET) -> list[dict[str, Any]]:
    """Retrain categories on the pool `gpu`, as many at once as it has workers, and collect one table.

    Args:
        categories: folders below the data folder; all of them if left out.
        preset: which preset of params.yaml.

    Returns:
        One row a category: its state, model version, image AUROC, data version and seconds, or its error.

    Raises:
        AescError: there is nothing to train; it was killed and started again too often; or a category failed: the
            others were trained, and the table is written.
    """
    require_few_starts(then="run it with those categories that have no version by the runs it started")
    settings = Settings()
    prepare_environment(settings)
    names = list(dict.fromkeys(categories or list_categories(settings.data)))
    if not names:
        raise AescError(settings.data, "no categories", todo="bring one in: aesc import FOLDER")
    rows = await asyncio.gather(*(_retrain(name, preset) for name in names))
    table = [asdict(row) for row in rows]
    failed = [row for row in rows if not row.ok]
    await acreate_table_artifact(
        table=table, key="retrain-all", description=f"{len(rows) - len(failed)} of {len(rows)} categories retrained"
    )
    if failed:
        raise AescError(
            ", ".join(row.category for row in failed),
            f"{len(failed)} of {len(rows)} categories failed: "
            + "; ".join(f"{row.category}: {row.error}" for row in failed),
            todo="see the table artifact retrain-all, mend the cause, and run those again",
        )
    return table


async def _retrain(category: str, preset: str) -> Retrained:
    """Run the deployment for one category; what goes wrong is the category's own and stops no other."""
    try:
        run = await arun_deployment(
            DEPLOYMENT,
            parameters={"category": category, "preset": preset},
            timeout=0,
            # If this flow itself is started again, it finds the runs that it has started.
            idempotency_key=f"{flow_run.id}-{category}" if flow_run.id else None,
        )
        return await asyncio.to_thread(_row, category, await _finished(run))
    except Exception as error:
        return Retrained(category, "UNKNOWN", error=_first_line(error))


async def _finished(run: FlowRun) -> FlowRun:
    """Wait for the end of a run, or for a crash that nobody mends."""
    crashed_for = 0.0
    async with get_client() as client:
        while True:
            run = await client.read_flow_run(run.id)
            if run.state and run.state.is_final():
                if run.state.type != StateType.CRASHED or not run.run_count or crashed_for >= PATIENCE:
                    return run
                crashed_for += POLL
            else:
                crashed_for = 0.0
            await asyncio.sleep(POLL)


def _row(category: str, run: FlowRun) -> Retrained:
    state = run.state
    if state is None or state.type != StateType.COMPLETED:
        name = state.name if state and state.name else "UNKNOWN"
        why = (state.message if state else None) or f"ended as {name}"
        return Retrained(category, name, error=_first_line(why), flow_run=str(run.id))
    found = made_by(category, str(run.id))
    if found is None:
        return Retrained(
            category, str(state.name), error="no model version names this flow run in MLflow", flow_run=str(run.id)
        )
    version, tags = found
    return Retrained(
        category,
        str(state.name),
        model_version=version,
        image_auroc=tags["image_auroc"],
        data_version=tags["data_version"],
        seconds=round(run.total_run_time.total_seconds(), 1),
        flow_run=str(run.id),
    )


def _first_line(error: object) -> str:
    text = str(error)
    return text.splitlines()[0][:500] if text else type(error).__name__
