"""`retrain-all` on a real server: two workers with a GPU each, three categories, one of them broken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.settings import Settings
from tasks.versioning import track_data
from tests import servers
from tests.categories import draw_category
from tests.clones import CATEGORY, PRESET, make_clone
from tests.prefects import asked_for, prefect, prefect_client, wait_for
from tests.repositories import commit_pointer

pytestmark = [pytest.mark.integration, pytest.mark.slow]

OTHER, BROKEN = "gadget", "broken"
GPUS = ("0", "1")


@dataclass(frozen=True)
class Done:
    """A finished `retrain-all`, its runs by category, its table, and the GPUs that runs have seen."""

    root: Path
    flow_run: Any
    runs: dict[str, Any]
    table: dict[str, dict[str, Any]]
    gpus: set[str]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    folder = tmp_path_factory.mktemp("all")
    root = make_clone(folder / "project")
    settings = Settings(root=root, home=None, dvc_remote=None)
    draw_category(settings.data, OTHER, train=40, test_good=4, seed=1)
    draw_category(settings.data, BROKEN, train=3, test_good=1, seed=2)
    track_data(settings)
    commit_pointer(settings)
    with ExitStack() as stack:
        server = stack.enter_context(servers.prefect_server(folder))
        prefect(server.env, root, "deploy", "--all")
        env = server.env | {"OMP_NUM_THREADS": "1", "PREFECT_WORKER_QUERY_SECONDS": "1"}
        workers = [
            stack.enter_context(servers.prefect_worker(folder / gpu, "gpu", env | {"CUDA_VISIBLE_DEVICES": gpu}))
            for gpu in GPUS
        ]
        waiter = stack.enter_context(servers.prefect_worker(folder / "cpu", "cpu", env))
        gpus = set()
        with prefect_client(server) as client:
            deployment = client.read_deployment_by_name("retrain-all/retrain-all")
            run_id = client.create_flow_run_from_deployment(deployment.id, parameters={"preset": PRESET}).id

            def ended() -> Any:
                for gpu, worker in zip(GPUS, workers, strict=True):
                    gpus.update([gpu] if sees_its_gpu(worker.pid, gpu) else [])
                run = client.read_flow_run(run_id)
                return run if run.state.is_final() else None

            run = wait_for("end of retrain-all", ended, timeout=400, log=waiter.log)
            runs = {one.parameters["category"]: one for one in asked_for(client, flow="retrain")}
            (artifact,) = [one for one in client.read_artifacts() if one.key == "retrain-all"]
        table = {row["category"]: row for row in json.loads(artifact.data)}
        yield Done(root, run, runs, table, gpus)


def sees_its_gpu(worker: int, gpu: str) -> bool:
    """Whether a run of this worker is at work, and sees the worker's GPU alone."""
    for process in psutil.Process(worker).children(recursive=True):
        try:
            if process.environ().get("PREFECT__FLOW_RUN_ID"):
                assert process.environ()["CUDA_VISIBLE_DEVICES"] == gpu
                return True
        except psutil.Error:
            continue
    return False


def test_every_category_has_its_row(done: Done) -> None:
    assert set(done.table) == {CATEGORY, OTHER, BROKEN} == set(done.runs)
    for category in (CATEGORY, OTHER):
        row, run = done.table[category], done.runs[category]
        assert (row["state"], row["model_version"], row["error"]) == ("Completed", "1", "")
        assert 0 <= float(row["image_auroc"]) <= 1
        assert f"md5: {row['data_version']}\n" in (done.root / "data.dvc").read_text(encoding="utf-8")
        assert row["seconds"] > 0
        assert row["flow_run"] == str(run.id)


def test_a_broken_category_stops_no_other_but_is_not_hidden(done: Done) -> None:
    row = done.table[BROKEN]
    assert (row["state"], row["model_version"]) == ("Failed", "")
    assert "AescError" in row["error"]
    assert done.runs[BROKEN].state_type.value == "FAILED"
    assert done.flow_run.state_type.value == "FAILED"
    assert f"1 of 3 categories failed: {BROKEN}" in done.flow_run.state.message


def test_as_many_run_at_once_as_there_are_workers(done: Done) -> None:
    assert done.gpus == set(GPUS)
    assert {run.work_pool_name for run in done.runs.values()} == {"gpu"}
    begun = sorted((run.start_time, run.end_time) for run in done.runs.values())
    assert begun[1][0] < begun[0][1], "the second waited for the first"
    assert begun[2][0] >= min(begun[0][1], begun[1][1]), "three ran on two workers"


def test_the_runs_are_children_of_the_flow_run(done: Done) -> None:
    assert done.flow_run.work_pool_name == "cpu"
    assert all(run.parent_task_run_id for run in done.runs.values())
