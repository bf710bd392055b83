"""A champion that sees less than it did is retrained, where somebody has switched that on: real server, real worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import servers
from tests.clones import CATEGORY, PRESET, TINY, make_clone
from tests.commands import Project
from tests.degradation import MONITORING, champion_that_found_every_stain
from tests.prefects import asked_for, prefect, prefect_client, wait_for
from tests.stations import draw_arrivals

pytestmark = [pytest.mark.integration, pytest.mark.slow]

NAME = "aesc: retrain after a loss of detectability"


def test_a_loss_of_detectability_starts_a_retraining(tmp_path: Path) -> None:
    root = make_clone(tmp_path / "project", preset={**TINY, "monitoring": MONITORING})
    deployments = yaml.safe_load((root / "prefect.yaml").read_text(encoding="utf-8"))
    (trigger,) = [one for job in deployments["deployments"] for one in job.get("triggers", []) if one["name"] == NAME]
    assert trigger["enabled"] is False, "nobody's detector is retrained unasked"
    trigger["enabled"] = True
    (root / "prefect.yaml").write_text(yaml.safe_dump(deployments), encoding="utf-8")
    draw_arrivals(tmp_path / "shift", clean=30, seed=99)
    with servers.prefect_server(tmp_path) as server:
        prefect(server.env, root, "deploy", "--all")
        project = Project(root, root / ".aesc", server.env | {"OMP_NUM_THREADS": "1"})
        project.aesc("retrain", "--category", CATEGORY, "--preset", PRESET, "--json")
        champion_that_found_every_stain(project.tracking_uri, CATEGORY, tmp_path)
        env = server.env | {"OMP_NUM_THREADS": "1", "PREFECT_WORKER_QUERY_SECONDS": "1"}
        with servers.prefect_worker(tmp_path, "gpu", env) as worker:
            look = project.aesc(
                "monitor", "--category", CATEGORY, "--preset", PRESET, "--source", tmp_path / "shift", "--json"
            )
            (report,) = look.report["categories"]
            assert report["events"] == ["aesc.model.degraded"], report
            with prefect_client(server) as client:
                (looked,) = asked_for(client, flow="monitor")
                assert set(looked.tags) == {CATEGORY}

            def retrained() -> Any:
                with prefect_client(server) as client:
                    runs = [run for run in asked_for(client, flow="retrain") if run.deployment_id]
                return next((run for run in runs if run.state and run.state.is_final()), None)

            run = wait_for("retraining", retrained, timeout=200, log=worker.log)
            assert run.state_name == "Completed", run.state
            assert run.parameters == {"category": CATEGORY, "preset": PRESET}
