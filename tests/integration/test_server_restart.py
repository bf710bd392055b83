"""Prefect's server is restarted while a run is at work: the run goes on, and its end is known to the server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import servers
from tests.clones import CATEGORY, PRESET, make_clone
from tests.commands import PATIENCE, Project
from tests.prefects import asked_for, prefect_client, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.slow]
AWAY_SECONDS = 5


def test_a_run_outlives_a_restart_of_the_server(tmp_path: Path) -> None:
    root = make_clone(tmp_path / "project")
    with ExitStack() as stack:
        server = stack.enter_context(servers.prefect_server(tmp_path / "server"))
        project = Project(root, tmp_path / "state", {"OMP_NUM_THREADS": "1", **server.env})
        more = ["--set", "training.epochs=60", "--set", "evaluation.bootstrap=5"]
        command = ["retrain", "--category", CATEGORY, "--preset", PRESET, "--json", *more]
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *command],
            cwd=root,
            env=project.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=(tmp_path / "log").open("w"),
            text=True,
        )
        wait_for("a checkpoint", lambda: list(project.state.glob("runs/*/*/checkpoint.pt")) or None, timeout=PATIENCE)
        stack.close()
        time.sleep(AWAY_SECONDS)
        assert process.poll() is None, "the run had ended before the server was away"
        with servers.prefect_server(tmp_path / "server", port=urlsplit(server.url).port) as again:
            stdout, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, (tmp_path / "log").read_text(encoding="utf-8")
            assert json.loads(stdout)["model_version"] == "1"
            with prefect_client(again) as client:
                (run,) = asked_for(client, flow="retrain")
                assert run.state.is_completed()
