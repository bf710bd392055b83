"""What `aesc retrain` takes beside training, from a cold start and with a running Prefect server, and where it goes.

In a scratch clone with a network that trains for a second; scoring its few images counts as overhead here.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.report import report
from tests import servers
from tests.clones import CATEGORY, PRESET, make_clone
from tests.commands import Project


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch:
        root = make_clone(Path(scratch) / "project")
        # Prefect's folder is new too, so the embedded server makes its database.
        home = {"PREFECT_HOME": str(Path(scratch) / "prefect")}
        cold = _overhead(Project(root, Path(scratch) / "cold", home))
        again = _overhead(Project(root, Path(scratch) / "cold", home))
        with servers.prefect_server(Path(scratch) / "server") as server:
            running = Project(root, Path(scratch) / "running", server.env)
            _overhead(running)  # makes MLflow's database
            warm = _overhead(running)
    report(
        "retrain_overhead",
        value=cold["seconds"],
        unit="s",
        ratio=None,
        n=1,
        with_server_seconds=warm["seconds"],
        cold=cold,
        second_embedded=again,
        with_server=warm,
    )


def _overhead(project: Project) -> dict[str, Any]:
    """Wall-clock seconds without training, and by stage; `start and end` is what no stage accounts for."""
    began = time.monotonic()
    found = project.aesc("retrain", "-c", CATEGORY, "-p", PRESET, "--resume", "off", "--json").report
    wall = time.monotonic() - began
    training = json.loads((Path(found["run_folder"]) / "run.json").read_text(encoding="utf-8"))["training_seconds"]
    stages = dict(found["seconds_by_stage"])
    stages["train"] = stages["train"] - training
    stages["start and end"] = wall - training - sum(stages.values())
    return {"seconds": round(wall - training, 2), **{name: round(value, 2) for name, value in stages.items()}}


if __name__ == "__main__":
    main()
