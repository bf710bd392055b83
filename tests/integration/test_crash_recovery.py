"""A worker and its run killed in the middle of training: the run is taken up again and ends with the same weights."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import servers
from tests.clones import CATEGORY, PRESET, make_clone
from tests.prefects import asked_for, prefect, prefect_client, wait_for
from tests.servers import Server

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SILENCE = 40  # seconds; heartbeats come every 30, which Prefect allows no less than
WAITING = ("Scheduled", "Late", "Pending", "Submitting", "InfrastructurePending")
LONG = ["training.epochs=60", "training.images_per_epoch=64"]  # long enough to be killed in between


@dataclass(frozen=True)
class Project:
    """A clone, deployed on a server of its own with the automations."""

    root: Path
    server: Server

    @property
    def runs(self) -> Path:
        return self.root / ".aesc" / "runs" / CATEGORY

    def start(self, **parameters: Any) -> Any:
        with prefect_client(self.server) as client:
            deployment = client.read_deployment_by_name("retrain/retrain")
            asked = {"category": CATEGORY, "preset": PRESET, "overrides": LONG} | parameters
            return client.create_flow_run_from_deployment(deployment.id, parameters=asked).id

    def read(self, run_id: Any) -> Any:
        with prefect_client(self.server) as client:
            return client.read_flow_run(run_id)

    def ended(self, run_id: Any, worker: Server, *, timeout: float = 240) -> Any:
        """The run once it is completed and its process is gone; it may crash on the way.

        On a busy machine the run was seen crashed or scheduled again where its worker was stopped before that.
        """
        over = {"COMPLETED", "FAILED", "CANCELLED"}

        def found() -> Any:
            run = self.read(run_id)
            return run if run.state_type.value in over else None

        run = wait_for("end of the run", found, timeout=timeout, log=worker.log)
        assert run.state_type.value == "COMPLETED", run.state
        wait_for("exit", lambda: not psutil.Process(worker.pid).children(recursive=True), timeout=60, log=worker.log)
        return run

    def history(self, run_id: Any) -> list[str]:
        with prefect_client(self.server) as client:
            return [state.name for state in client.read_flow_run_states(run_id)]

    def version(self, run_id: Any) -> dict[str, str]:
        """The tags of the model version that the flow run made."""
        from mlflow import MlflowClient

        uri = f"sqlite:///{self.root / '.aesc' / 'mlflow.db'}"
        wanted = f"name='aesc-{CATEGORY}' and tags.prefect_flow_run_id='{run_id}'"
        (version,) = MlflowClient(uri, uri).search_model_versions(wanted)
        return dict(version.tags)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    from flows.automations import create_automations

    folder = tmp_path_factory.mktemp("crash")
    root = make_clone(folder / "project")
    with servers.prefect_server(folder) as server:
        prefect(server.env, root, "deploy", "--all")
        with prefect_client(server):
            create_automations(silence=timedelta(seconds=SILENCE))
        yield Project(root, server)


@pytest.fixture(scope="module")
def env(project: Project) -> dict[str, str]:
    return project.server.env | {"OMP_NUM_THREADS": "1", "PREFECT_WORKER_QUERY_SECONDS": "1"}


@pytest.fixture(scope="module")
def undisturbed(project: Project, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The model version of a run that nothing happened to."""
    with servers.prefect_worker(tmp_path_factory.mktemp("calm"), "gpu", env) as worker:
        run_id = project.start()
        project.ended(run_id, worker)
    return project.version(run_id)


def test_a_killed_worker_costs_nothing_but_time(
    project: Project, env: dict[str, str], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    before = set(project.runs.iterdir())
    with servers.prefect_worker(tmp_path / "first", "gpu", env) as worker:
        run_id = project.start()
        folder = wait_for_checkpoint(project, before, worker.log)
        assert len(kill_tree(worker.pid)) >= 2, "there was no run to kill"
    assert not (folder / "network").exists(), "it was killed too late"
    assert project.read(run_id).state_type.value == "RUNNING"  # nobody has noticed
    with servers.prefect_worker(tmp_path / "second", "gpu", env) as worker:
        run = project.ended(run_id, worker)
    assert "resumed after epoch" in worker.log.read_text(encoding="utf-8")
    assert run.run_count == 2
    assert [name for name in project.history(run_id) if name not in WAITING] == [
        *("Running", "AwaitingRetry", "Running", "Completed")
    ]
    assert set(project.runs.iterdir()) - before == {folder}
    assert project.version(run_id)["weights_sha256"] == undisturbed["weights_sha256"]
    assert project.version(run_id)["data_version"] == undisturbed["data_version"]


def test_a_killed_process_is_started_again_by_its_worker(
    project: Project, env: dict[str, str], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """As the system does when memory runs out; the worker goes on, and would die if the run came back too early."""
    before = set(project.runs.iterdir())
    with servers.prefect_worker(tmp_path, "gpu", env) as worker:
        run_id = project.start()
        folder = wait_for_checkpoint(project, before, worker.log)
        kill_tree(worker.pid, spare_root=True)
        project.ended(run_id, worker)
    assert "Traceback" not in worker.log.read_text(encoding="utf-8")
    assert [name for name in project.history(run_id) if name not in WAITING] == [
        *("Running", "Crashed", "AwaitingRetry", "Running", "Completed")
    ]
    assert set(project.runs.iterdir()) - before == {folder}
    assert project.version(run_id)["weights_sha256"] == undisturbed["weights_sha256"]


def test_a_run_that_cannot_begin_is_not_started_for_ever(project: Project, env: dict[str, str], tmp_path: Path) -> None:
    flow = project.root / "flows" / "retrain.py"
    text = flow.read_text(encoding="utf-8")
    flow.write_text("import os\nos.kill(os.getpid(), 9)\n", encoding="utf-8")
    try:
        with servers.prefect_worker(tmp_path, "gpu", env) as worker:
            run_id = project.start()
            wait_for("crash", lambda: project.read(run_id).state_type.value == "CRASHED", timeout=60, log=worker.log)
            time.sleep(SILENCE + 15)
    finally:
        flow.write_text(text, encoding="utf-8")
    assert project.history(run_id).count("Submitting") == 1
    assert project.read(run_id).run_count == 0


def test_a_run_that_its_worker_never_began_is_put_back(project: Project) -> None:
    from prefect.states import Pending

    from flows.automations import create_automations

    with prefect_client(project.server) as client:
        create_automations(silence=timedelta(seconds=SILENCE), start=timedelta(seconds=10))
        run_id = project.start()
        client.set_flow_run_state(run_id, Pending(name="Submitting"))
        wait_for("put back", lambda: project.read(run_id).state_name == "AwaitingRetry", timeout=40)
        client.delete_flow_run(run_id)


def wait_for_checkpoint(project: Project, before: set[Path], log: Path) -> Path:
    """The new run's folder, as soon as there is a checkpoint in it."""

    def found() -> Path | None:
        return next((path for path in set(project.runs.iterdir()) - before if (path / "checkpoint.pt").is_file()), None)

    return wait_for("checkpoint", found, timeout=120, log=log)


def kill_tree(pid: int, *, spare_root: bool = False) -> list[int]:
    """Kill a process and all that it has started, as a power cut would; the process ids."""
    root = psutil.Process(pid)
    found = [] if spare_root else [root]
    found += root.children(recursive=True)
    for process in found:
        with suppress(psutil.NoSuchProcess):
            os.kill(process.pid, signal.SIGKILL)
    return [process.pid for process in found]


def test_only_what_was_asked_for_has_run(project: Project) -> None:
    with prefect_client(project.server) as client:
        runs = asked_for(client, flow="retrain")
    states = sorted(run.state_type.value for run in runs)
    assert states == ["COMPLETED", "COMPLETED", "COMPLETED", "CRASHED"], [project.history(run.id) for run in runs]
