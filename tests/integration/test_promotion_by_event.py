"""After a retraining the court sits by itself, and a person approves from Prefect's pages: real server, real worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.clones import CATEGORY, PRESET, make_clone
from tests.commands import Project
from tests.flows.conftest import TINY
from tests.prefects import asked_for, prefect, prefect_client, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.slow]
RULES = {"approval": "required", "bootstrap": 200, "false_alarm_margin": 1.0, "most_false_alarm_rate": None}
PATIENCE = 200.0


@dataclass(frozen=True)
class Line:
    """A project whose deployments are on a server with a worker for the pool cpu."""

    project: Project
    server: servers.Server
    log: Path

    def promotions(self, count: int) -> list[Any]:
        """The promotions in order of their start, when so many have ended."""

        def ended() -> list[Any] | None:
            with prefect_client(self.server) as client:
                found = [run for run in asked_for(client, flow="promote") if run.state and run.state.is_final()]
            return sorted(found, key=lambda run: run.start_time) if len(found) >= count else None

        return wait_for(f"{count} promotions", ended, timeout=PATIENCE, log=self.log)

    def retrain(self, strategy: str) -> dict[str, Any]:
        chosen = f"detection.strategy={strategy}"
        return self.project.aesc(
            "retrain", "--category", CATEGORY, "--preset", PRESET, "--set", chosen, "--json"
        ).report

    @property
    def aliases(self) -> dict[str, str]:
        aliases: dict[str, str] = self.project.aesc("history", "--category", CATEGORY, "--json").report["aliases"]
        return aliases


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    folder = tmp_path_factory.mktemp("promotion")
    root = make_clone(folder / "project", preset={**TINY, "promotion": RULES}, test_good=8, defects={"spot": 8})
    with servers.prefect_server(folder) as server:
        prefect(server.env, root, "deploy", "--all")
        env = server.env | {"OMP_NUM_THREADS": "1", "PREFECT_WORKER_QUERY_SECONDS": "1"}
        with servers.prefect_worker(folder, "cpu", env) as worker:
            yield Line(Project(root, root / ".aesc", server.env), server, worker.log)


def test_the_court_sits_after_each_retraining_and_a_person_finishes_it(line: Line) -> None:
    assert line.retrain("uncertainty")["aliases"] == ["challenger", "champion"]
    (first,) = line.promotions(1)
    assert (first.state_name, first.parameters["version"]) == ("Completed", "1")
    assert line.retrain("residual")["model_version"] == "2"
    second = line.promotions(2)[-1]
    assert second.name == f"promote 2 of {CATEGORY}"
    assert second.state_name == "AwaitingApproval", second.state
    assert f"aesc approve 2 --category {CATEGORY}" in second.state.message
    assert line.aliases == {"champion": "1", "challenger": "2"}
    with prefect_client(line.server) as client:
        deployment = client.read_deployment_by_name("promote/promote")
        asked = {"category": CATEGORY, "version": "2", "approve": "looked at the page", "by": "ben"}
        client.create_flow_run_from_deployment(deployment.id, parameters=asked)
        limits = [found.name for found in client.read_global_concurrency_limits(limit=10)]
    third = line.promotions(3)[-1]
    assert (third.state_name, third.name) == ("Completed", f"approve 2 of {CATEGORY}")
    assert f"aesc-court-{CATEGORY}" in limits
    assert line.aliases == {"champion": "2", "previous": "1"}
    entries = line.project.aesc("history", "--category", CATEGORY, "--json").report["entries"]
    assert [entry["action"] for entry in entries] == ["registered", "registered", "awaiting approval", "promoted"]
    assert (entries[-1]["by"], entries[-1]["evidence"]["approval"]) == ("ben", "looked at the page")
    assert entries[-2]["by"].startswith("flow run promote 2")
