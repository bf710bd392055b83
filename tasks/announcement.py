"""The event that says a version was registered: it starts the court. Said once for each version."""

from __future__ import annotations

import uuid
from pathlib import Path

from prefect.events import emit_event

from tasks.retries import retried_task
from tasks.run_folder import RunFolder
from tasks.settings import Settings

EVENT = "aesc.model.registered"
_EVENTS = uuid.UUID("0c5c1c7e-93f4-4d0c-8a0e-5b9f7a1d2e33")  # namespace: one version, one event, however often said


@retried_task(task_run_name="announce {category}")
def announce_version(category: str, run_folder: str) -> str:
    """Emit `aesc.model.registered` for the run's version; the event's id."""
    state = RunFolder(run_folder).state
    # Data of the project is found again by everyone; other data only where it lies.
    root = Path(state["data_root"])
    number = uuid.uuid5(_EVENTS, f"{state['mlflow_run_id']}\n{state['model_version']}")
    emit_event(
        EVENT,
        resource={"prefect.resource.id": f"aesc.category.{category}", "prefect.resource.name": category},
        payload={
            "category": category,
            "version": str(state["model_version"]),
            "preset": state["preset"],
            "data": "" if root == Settings().data.resolve() else str(root),
        },
        id=number,
    )
    return str(number)
