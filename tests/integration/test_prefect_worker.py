"""The deployment of prefect.yaml on a real Prefect server, run by a real worker."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.clones import CATEGORY, PRESET, make_clone
from tests.prefects import asked_for, prefect, prefect_client, wait_for
from tests.repositories import git
from tests.servers import Server

pytestmark = pytest.mark.integration

STAGES = ("prepare", "validate", "pin", "train", "evaluate", "calibrate", "register")
TASKS = {
    *("prepare", "validate", "check the stores of", "pin the data version of", "train", "evaluate", "calibrate"),
    *("draw", "measure the detectability of", "register", "summarise", "announce"),
}


@dataclass(frozen=True)
class Finished:
    """A run of the deployment, and what Prefect's API says of it."""

    project: Path
    results: Path
    elsewhere: Path
    deployed: str
    flow_run: Any
    task_runs: list[Any]
    artifacts: dict[str, Any]
    logs: list[Any]

    @property
    def summary(self) -> dict[str, Any]:
        """What the flow returned."""
        value = self.result(self.flow_run)
        assert isinstance(value, dict)
        return value

    def result(self, run: Any) -> Any:
        """What a run left in the result storage: a task's value comes with metadata, a flow's without."""
        value = json.loads((self.results / run.state.data.storage_key).read_text(encoding="utf-8"))
        return json.loads(value["result"]) if "metadata" in value else value


@pytest.fixture(scope="module")
def finished(prefect_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The deployment, run with tiny parameters by a worker that was started elsewhere and keeps all results."""
    folder = tmp_path_factory.mktemp("worker")
    project = make_clone(folder / "somebody's clone")
    results, elsewhere = folder / "results", folder / "elsewhere"
    elsewhere.mkdir()
    env = prefect_server.env | {"OMP_NUM_THREADS": "1"}
    deployed = prefect(env, project, "--no-prompt", "deploy", "--all")
    keep = {
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_LOCAL_STORAGE_PATH": str(results),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    asked = [f"category={CATEGORY}", f"preset={PRESET}", 'overrides=["training.seed=3"]']
    params = [word for one in asked for word in ("--param", one)]
    with servers.prefect_worker(folder, "gpu", env | keep, cwd=elsewhere) as worker:
        prefect(env, elsewhere, "deployment", "run", "retrain/retrain", *params, "--watch", log=worker.log)
    return Finished(project, results, elsewhere, deployed, **seen(prefect_server))


def seen(server: Server) -> dict[str, Any]:
    with prefect_client(server) as client:
        (run,) = asked_for(client, flow="retrain")

        def ended() -> list[Any]:
            """The task runs: a server learns their states from events, some after the flow run's end."""
            runs = [task for task in client.read_task_runs(limit=200) if task.flow_run_id == run.id]
            return runs if len(runs) >= len(TASKS) and all(task.state.is_final() for task in runs) else []

        return {
            "flow_run": run,
            "task_runs": wait_for("end of all task runs", ended, timeout=60),
            "artifacts": {artifact.key: artifact for artifact in client.read_artifacts() if artifact.key},
            "logs": client.read_logs(limit=200),
        }


def test_a_deployment_is_made_wherever_the_clone_lies(finished: Finished) -> None:
    assert "'retrain/retrain' successfully created" in finished.deployed
    assert git(finished.project, "status", "--porcelain") == ""
    assert str(finished.project) not in (finished.project / "prefect.yaml").read_text(encoding="utf-8")
    assert list(finished.elsewhere.iterdir()) == []


def test_a_stopped_worker_leaves_nothing_running(finished: Finished) -> None:
    assert servers.processes(PREFECT_LOCAL_STORAGE_PATH=str(finished.results)) == []


def test_the_flow_run_can_be_found(finished: Finished) -> None:
    run = finished.flow_run
    assert run.state_type.value == "COMPLETED"
    assert run.name == f"retrain {CATEGORY} ({PRESET})"
    assert set(run.tags) == {"aesc", CATEGORY, PRESET}
    assert run.work_pool_name == "gpu"


def test_the_task_runs_can_be_found_by_their_flow_run(finished: Finished) -> None:
    assert {run.name for run in finished.task_runs} == {f"{task} {CATEGORY}" for task in TASKS}
    for run in finished.task_runs:
        assert run.state_type.value == "COMPLETED"
        assert run.tags == [], "Prefect would ask for a slot of a limit by each tag before each task"


def test_nothing_but_short_texts_travels_between_tasks(finished: Finished) -> None:
    for run in finished.task_runs:
        value = finished.result(run)
        assert value is None or (isinstance(value, str) and len(value) < 1000), run.name
    kept = [path for path in finished.results.rglob("*") if path.is_file()]
    assert len(kept) == len(finished.task_runs) + 1  # and the flow's summary


def test_the_artifacts_show_progress_and_numbers(finished: Finished) -> None:
    assert set(finished.artifacts) == {f"training-{CATEGORY}", f"retrain-{CATEGORY}"}
    assert {artifact.flow_run_id for artifact in finished.artifacts.values()} == {finished.flow_run.id}
    progress, page = finished.artifacts[f"training-{CATEGORY}"], finished.artifacts[f"retrain-{CATEGORY}"]
    assert (progress.type, progress.data) == ("progress", 100.0)
    assert page.type == "markdown"
    summary = finished.summary
    for needed in (
        f"aesc-{CATEGORY} version 1",
        f"image AUROC | {summary['image_auroc']:.4f}",
        f"Threshold {summary['threshold']:.6g}",
        summary["promise"]["message"],
        summary["data_version"],
        summary["mlflow_run_id"],
        summary["weights_sha256"],
        f"models:/aesc-{CATEGORY}/1",
    ):
        assert needed in page.data


def test_the_server_has_the_log_of_the_stages(finished: Finished) -> None:
    lines = [log for log in finished.logs if log.name == "aesc"]
    assert {log.flow_run_id for log in lines} == {finished.flow_run.id}
    messages = [log.message for log in lines]
    for stage in STAGES:
        assert f"{stage} ..." in messages
        assert any(message.startswith(f"{stage}: ") and message.endswith(" s") for message in messages)


def test_the_model_is_registered(finished: Finished) -> None:
    from mlflow import MlflowClient

    summary, uri = finished.summary, f"sqlite:///{finished.project / '.aesc' / 'mlflow.db'}"
    assert summary["tracking_uri"] == uri
    version = MlflowClient(uri, uri).get_model_version_by_alias(f"aesc-{CATEGORY}", "champion")
    assert (str(version.version), version.run_id) == ("1", summary["mlflow_run_id"])
    assert version.tags["weights_sha256"] == summary["weights_sha256"]
    assert version.tags["git_commit"] == git(finished.project, "rev-parse", "HEAD").strip()
    assert version.tags["seed"] == "3"
    pointer = (finished.project / "data.dvc").read_text(encoding="utf-8")
    assert f"md5: {version.tags['data_version']}\n" in pointer
    assert MlflowClient(uri, uri).get_run(version.run_id).info.status == "FINISHED"
