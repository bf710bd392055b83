"""A worker that has no clone: it fetches the project by git and the data by DVC, as docs/operations.md says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import servers
from tests.clones import CATEGORY, PRESET, make_clone
from tests.prefects import prefect, prefect_client, wait_for
from tests.repositories import ROOT, git

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def pull_steps() -> list[dict[str, Any]]:
    """The pull section that the page tells people to write."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (block,) = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "git_clone" in block]
    found: list[dict[str, Any]] = yaml.safe_load(block)["pull"]
    return found


def test_a_run_fetches_the_project_and_its_data(tmp_path: Path) -> None:
    project = make_clone(tmp_path / "project")
    remote = {"AESC_DVC_REMOTE": str(tmp_path / "dvc")}
    git(tmp_path, "clone", "--quiet", "--bare", str(project), str(tmp_path / "origin.git"))
    steps = pull_steps()
    steps[0]["prefect.deployments.steps.git_clone"]["repository"] = (tmp_path / "origin.git").as_uri()
    wanted = yaml.safe_load((project / "prefect.yaml").read_text(encoding="utf-8"))
    del wanted["build"]
    wanted["pull"] = steps
    (project / "prefect.yaml").write_text(yaml.safe_dump(wanted), encoding="utf-8")
    push_data(project, remote)

    state, elsewhere = tmp_path / "state", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with servers.prefect_server(tmp_path) as server:
        prefect(server.env, project, "deploy", "--all")
        (project / "data").rename(tmp_path / "gone")
        env = (
            server.env | remote | {"AESC_HOME": str(state), "OMP_NUM_THREADS": "1", "PREFECT_WORKER_QUERY_SECONDS": "1"}
        )
        with servers.prefect_worker(tmp_path, "gpu", env, cwd=elsewhere) as worker, prefect_client(server) as client:
            deployment = client.read_deployment_by_name("retrain/retrain")
            asked = {"category": CATEGORY, "preset": PRESET}
            run_id = client.create_flow_run_from_deployment(deployment.id, parameters=asked).id

            def ended() -> Any:
                run = client.read_flow_run(run_id)
                return run if run.state.is_final() else None

            run = wait_for("end of the run", ended, timeout=240, log=worker.log)
    assert run.state_type.value == "COMPLETED", worker.log.read_text(encoding="utf-8")
    (folder,) = (state / "runs" / CATEGORY).iterdir()
    found = yaml.safe_load((folder / "run.json").read_text(encoding="utf-8"))
    assert found["commit"] == git(project, "rev-parse", "HEAD").strip()
    assert not found["dirty"]
    assert found["data_version"]["version"] in (project / "data.dvc").read_text(encoding="utf-8")
    assert not Path(found["data_root"]).is_relative_to(project)


def push_data(project: Path, remote: dict[str, str]) -> None:
    """Send the data to the DVC remote, as the ingestion does before it commits data.dvc."""
    from dvc.repo import Repo

    with Repo(
        str(project), config={"remote": {"far": {"url": remote["AESC_DVC_REMOTE"]}}, "core": {"remote": "far"}}
    ) as repo:
        repo.push(targets=[str(project / "data.dvc")])
