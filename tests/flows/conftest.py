"""One small project and one trained detector, which most tests of the command line share."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from mlflow import MlflowClient

from tests import servers
from tests.categories import draw_category
from tests.commands import Project
from tests.repositories import ROOT, git, make_project
from tests.servers import Server

TINY: dict[str, Any] = {
    "data": {"image_size": 64},
    "validation": {"min_train": 8, "min_validation": 2, "min_calibration": 2},
    # Equal runs must have equal weights, which is promised for one kind of machine only.
    "training": {"epochs": 4, "images_per_epoch": 32, "batch_size": 8, "learning_rate": 0.002, "device": "cpu"},
    "detection": {"passes": 2, "smoothing": 1.0, "image_score": "top"},
    "calibration": {"residuals": ["both"]},
    "evaluation": {"bootstrap": 20},
}
RETRAIN = ("retrain", "--category", "widget", "--preset", "tiny", "--json")


@dataclass(frozen=True)
class Imports:
    """What `aesc import` said of a folder and of an archive, and the data version after each."""

    folder: dict[str, Any]
    archive: dict[str, Any]
    pointers: list[str]
    remarks: str


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all processes of one test session: under pytest-xdist, training once is enough."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "command-line"
    folder.mkdir(exist_ok=True)
    return folder


def _once(folder: Path, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` returns, called by the first process that asks."""
    kept = folder / f"{name}.json"
    with FileLock(folder / f"{name}.lock"):
        if not kept.exists():
            kept.write_text(json.dumps(make()), encoding="utf-8")
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="session")
def project(shared: Path) -> Project:
    """A project in git and DVC with a preset that trains within seconds, and no data yet."""
    root, home = shared / "project", shared / "home"

    def make() -> dict[str, Any]:
        home.mkdir()
        make_project(root, images=0)
        params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        params["presets"]["tiny"] = TINY
        (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        git(root, "commit", "--quiet", "--all", "--message=parameters")
        return {}

    _once(shared, "made", make)
    return Project(root, shared / "state", {"HOME": str(home), "USERPROFILE": str(home)})


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Prefect server for commands that need not show that they bring their own; killed runs stay on it."""
    with servers.prefect_server(tmp_path_factory.mktemp("prefect")) as server:
        yield server


@pytest.fixture(scope="session")
def imported(project: Project, shared: Path) -> Imports:
    """Two categories brought in: widget from a folder, with a defect type that has no masks; gadget from an archive."""

    def make() -> dict[str, Any]:
        source = shared / "source"
        draw_category(source, "widget", train=40, test_good=4, defects={"spot": 4})
        draw_category(source, "widget", train=0, test_good=0, defects={"dent": 3}, masks=False, seed=1)
        (source / "widget" / "train" / "good" / "notes.doc").write_text("blue light", encoding="utf-8")
        draw_category(source, "inside", train=24, test_good=2, defects={"spot": 2}, seed=2)
        archive = source / "gadget.tar.gz"
        with tarfile.open(archive, "w:gz") as file:
            for name in ("train", "test", "ground_truth"):
                file.add(source / "inside" / name, arcname=name)
        pointer = project.root / "data.dvc"
        first = project.aesc("import", source / "widget", "--preset", "tiny", "--json")
        after_first = pointer.read_text(encoding="utf-8")
        second = project.aesc("import", archive, "--preset", "tiny", "--json")
        git(project.root, "add", "data.dvc")
        git(project.root, "commit", "--quiet", "--message=data")
        pointers = [after_first, pointer.read_text(encoding="utf-8")]
        return asdict(Imports(first.report, second.report, pointers, first.stderr))

    return Imports(**_once(shared, "imported", make))


@pytest.fixture(scope="session")
def trained(project: Project, imported: Imports, shared: Path) -> dict[str, Any]:
    """The report of one `aesc retrain`: model version 1 of widget."""
    return _once(shared, "trained", lambda: project.aesc(*RETRAIN).report)


@pytest.fixture(scope="session")
def run_folder(trained: dict[str, Any]) -> Path:
    """The folder of the trained run."""
    return Path(trained["run_folder"])


@pytest.fixture(scope="session")
def client(project: Project, trained: dict[str, Any]) -> MlflowClient:
    """MLflow with the trained detector."""
    return MlflowClient(tracking_uri=project.tracking_uri, registry_uri=project.tracking_uri)
