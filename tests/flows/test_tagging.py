"""Tags of flow runs, on a real Prefect server."""

from __future__ import annotations

import pytest
from prefect import flow, task
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from flows.tagging import tag_flow_run
from tests.prefects import prefect_client
from tests.servers import Server

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("names", [("widget", "gadget"), ()])
def test_a_flow_run_has_tags_and_its_tasks_have_none(prefect_server: Server, names: tuple[str, ...]) -> None:
    @task
    def work() -> str:
        return str(flow_run.id)

    @flow
    def job() -> str:
        tag_flow_run(*names)
        return work()

    with temporary_settings({PREFECT_API_URL: prefect_server.url, PREFECT_LOGGING_TO_API_ENABLED: False}):
        run_id = job()
    with prefect_client(prefect_server) as client:
        found = client.read_flow_run(run_id)
        (of_task,) = [one for one in client.read_task_runs(limit=200) if one.flow_run_id == found.id]
    assert set(found.tags) == set(names)
    assert of_task.tags == [], "Prefect would ask for a slot of a limit by each tag before each task"


def test_outside_of_a_flow_run_there_is_nothing_to_tag() -> None:
    tag_flow_run("widget")
