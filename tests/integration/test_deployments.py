"""`prefect deploy --all` on a server that knows nothing yet, and what starts a run of `retrain` by itself."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import servers
from tests.clones import make_clone
from tests.prefects import asked_for, prefect, prefect_client, prefect_environment, wait_for
from tests.repositories import git
from tests.servers import Server, executable

pytestmark = pytest.mark.integration

TRIGGERS = {
    "aesc: retrain after new images",
    "aesc: retrain after a loss of detectability",
    "aesc: promote after a registration",
}
QUIET = 10  # seconds, the least that Prefect allows; prefect.yaml says more
LATE = 25.0  # seconds after the quiet in which the server may still start a run


@dataclass(frozen=True)
class Deployed:
    """A clone whose deployments are on a fresh server, and what `prefect deploy --all` said."""

    project: Path
    server: Server
    said: str

    def deployments(self) -> dict[str, Any]:
        with prefect_client(self.server) as client:
            return {deployment.name: deployment for deployment in client.read_deployments()}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("deployments")
    project = make_clone(folder / "project")
    wanted = project / "prefect.yaml"
    text = wanted.read_text(encoding="utf-8")
    assert "within: 300\n" in text
    wanted.write_text(text.replace("within: 300\n", f"within: {QUIET}\n"), encoding="utf-8")
    with servers.prefect_server(folder) as server:
        with prefect_client(server) as client:
            assert client.read_work_pools() == []
        yield Deployed(project, server, prefect(server.env, project, "deploy", "--all"))


def test_all_deployments_and_their_pools_are_made(deployed: Deployed) -> None:
    wanted = yaml.safe_load((deployed.project / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    found = deployed.deployments()
    assert {one["name"] for one in wanted} == set(found) >= {"retrain", "retrain-all", "inspect"}
    with prefect_client(deployed.server) as client:
        pools = {pool.name: pool for pool in client.read_work_pools()}
    assert set(pools) == {"cpu", "gpu"}
    assert {pool.type for pool in pools.values()} == {"process"}
    assert "env" in pools["gpu"].base_job_template["variables"]["properties"]
    for name, deployment in found.items():
        assert deployment.tags == ["aesc"], name
        assert deployment.description, name
        assert deployment.enforce_parameter_schema, name
        fields = deployment.parameter_openapi_schema["properties"]
        assert all(field["description"] for field in fields.values()), name
        assert deployment.job_variables["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    assert found["retrain"].work_pool_name == "gpu"
    assert found["retrain-all"].work_pool_name == "cpu"  # or it would hold the GPU that its runs wait for
    assert found["retrain-all"].global_concurrency_limit.limit == 1


def test_the_week_has_its_retraining(deployed: Deployed) -> None:
    (weekly,) = deployed.deployments()["retrain"].schedules
    assert (weekly.schedule.cron, weekly.slug, weekly.active) == ("0 3 * * 0", "weekly", True)
    assert weekly.parameters == {"category": "fabric", "preset": "best"}


def test_each_day_has_its_look(deployed: Deployed) -> None:
    monitor = deployed.deployments()["monitor"]
    (daily,) = monitor.schedules
    assert (daily.schedule.cron, daily.slug, daily.active) == ("30 5 * * *", "daily", True)
    assert monitor.work_pool_name == "cpu"
    assert monitor.global_concurrency_limit.limit == 1


def test_a_terminal_is_asked_nothing_and_the_second_time_changes_nothing(deployed: Deployed) -> None:
    before = {name: deployment.id for name, deployment in deployed.deployments().items()}
    code, said = in_a_terminal(deployed, str(executable("prefect")), "deploy", "--all")
    assert code == 0, said
    assert said.count("successfully created") == len(before)
    assert "?" not in said
    assert {name: deployment.id for name, deployment in deployed.deployments().items()} == before
    assert git(deployed.project, "status", "--porcelain").split() == ["M", "prefect.yaml"]
    assert f"within: {QUIET}\n" in (deployed.project / "prefect.yaml").read_text(encoding="utf-8")
    with prefect_client(deployed.server) as client:
        enabled = {found.name: found.enabled for found in client.read_automations()}
    assert set(enabled) == TRIGGERS
    assert [name for name, on in enabled.items() if not on] == ["aesc: retrain after a loss of detectability"]


def in_a_terminal(deployed: Deployed, *command: str) -> tuple[int, str]:
    """Run a command that believes a person is there; who says nothing, and hangs up at the first question."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=deployed.project,
        env=prefect_environment(deployed.server.env) | {"TERM": "dumb"},
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while True:
        try:
            said += os.read(ours, 1 << 16)
        except OSError:  # it has ended
            break
        if b"[y/n]" in said:
            process.kill()
    os.close(ours)
    return process.wait(60), said.decode()


def test_a_run_without_a_category_is_refused(deployed: Deployed) -> None:
    from prefect.exceptions import PrefectHTTPStatusError

    with prefect_client(deployed.server) as client, pytest.raises(PrefectHTTPStatusError, match="category"):
        client.create_flow_run_from_deployment(deployed.deployments()["retrain"].id)


def test_events_of_a_category_become_one_run_that_starts_after_the_last(deployed: Deployed) -> None:
    began = time.monotonic()
    accept(deployed, ["bolt", "nut"])
    for _ in range(2):
        time.sleep(QUIET / 2)
        accept(deployed, ["bolt"])
    last = time.monotonic()

    def both() -> dict[str, Any] | None:
        found = runs(deployed)
        return found if {"bolt", "nut"} <= set(found) else None

    found = wait_for("runs of two categories", both, timeout=QUIET + LATE)
    assert time.monotonic() - last > QUIET - 2, "a run was started before the category was quiet"
    assert time.monotonic() - began > QUIET * 1.5
    assert [len(found[name]) for name in ("bolt", "nut")] == [1, 1]
    assert found["bolt"][0].parameters == {"category": "bolt", "preset": "demo"}
    assert found["bolt"][0].work_pool_name == "gpu"

    accept(deployed, ["bolt"])
    wait_for("run for a later event", lambda: len(runs(deployed)["bolt"]) == 2, timeout=QUIET + LATE)
    assert {name: len(found) for name, found in runs(deployed).items()} == {"bolt": 2, "nut": 1}


def test_each_registration_starts_a_promotion(deployed: Deployed) -> None:
    sent = [("bolt", "1"), ("bolt", "2"), ("nut", "1")]
    for category, version in sent:
        payload = {"category": category, "version": version, "preset": "demo", "data": ""}
        emit(deployed, "aesc.model.registered", [payload])

    def all_of_them() -> list[Any] | None:
        with prefect_client(deployed.server) as client:
            found = asked_for(client, flow="promote")
        return found if len(found) >= len(sent) else None

    found = wait_for("promotions", all_of_them, timeout=LATE)
    assert sorted((run.parameters["category"], run.parameters["version"]) for run in found) == sent
    assert {(run.parameters["preset"], run.parameters["data"]) for run in found} == {("demo", "")}


def emit(deployed: Deployed, event: str, payloads: list[dict[str, Any]]) -> None:
    """Send an event about the category of each payload."""
    code = (
        "import json, sys\nfrom prefect.events import emit_event\n"
        "for payload in json.loads(sys.argv[2]):\n"
        "    resource = {'prefect.resource.id': 'aesc.category.' + payload['category']}\n"
        "    emit_event(event=sys.argv[1], resource=resource, payload=payload)\n"
    )
    subprocess.run(
        [str(executable("python")), "-c", code, event, json.dumps(payloads)],
        env=prefect_environment(deployed.server.env),
        check=True,
        timeout=60,
    )


def accept(deployed: Deployed, categories: list[str]) -> None:
    """Send the event of accepted images, as the ingestion does."""
    how = {"preset": "demo", "data_version": "v", "new_images": 3}
    emit(deployed, "aesc.data.accepted", [{"category": name, **how} for name in categories])


def runs(deployed: Deployed) -> dict[str, list[Any]]:
    """Runs of `retrain` by category."""
    found: dict[str, list[Any]] = {}
    with prefect_client(deployed.server) as client:
        for run in asked_for(client, flow="retrain"):
            found.setdefault(run.parameters["category"], []).append(run)
    return found


def test_automations_are_made_once_and_changed_when_they_must(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.automations import create_automations

    def seen() -> dict[str, Any]:
        with prefect_client(deployed.server) as client:
            found = {one.name: one for one in client.read_automations()}
            names = create_automations(silence=timedelta(seconds=40))
            after = {one.name: one for one in client.read_automations()}
        assert set(names) == set(after) - TRIGGERS
        return {name: (found.get(name), after[name]) for name in names}

    assert all(before is None for before, _ in seen().values())
    for before, after in seen().values():
        assert before == after
    with prefect_client(deployed.server) as client:
        create_automations()
        changed = {one.name: one for one in client.read_automations()}["aesc: a silent run has crashed"]
    assert changed.trigger.within == timedelta(minutes=5)
