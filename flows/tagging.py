"""Tags of a flow run, by which the server's pages are searched."""

from __future__ import annotations

from uuid import UUID

from prefect import get_client
from prefect.runtime import flow_run


def tag_flow_run(*names: str) -> None:
    """Add tags to the flow run that this is called in, once. `prefect.tags` would tag its tasks: before each task that
    has any, Prefect asks the server for a slot of a limit that may bear a tag's name, and now and then waits two
    seconds for the answer.
    """
    if names and (run_id := flow_run.id):
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(run_id), tags=sorted({*flow_run.tags, *names}))
