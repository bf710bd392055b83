"""What all commands have in common: help, exit codes, one JSON object on stdout, errors for people."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.commands.data import _verdict_line
from tests.commands import Project
from tests.flows.conftest import Imports
from tests.repositories import ROOT, git, make_project

COMMANDS = (
    *("sample", "import", "validate", "params", "retrain", "register", "inspect", "replay"),
    *("up", "status", "down", "env", "deploy"),
)
HEAVY = ("dvc", "great_expectations", "matplotlib", "mlflow", "numpy", "pandas", "prefect", "torch")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(project: Project, command: str) -> None:
    done = project.aesc(command, "--help")
    assert "Example" in done.stdout
    assert f"aesc {command}" in done.stdout
    assert "--json" in done.stdout
    assert done.stderr == ""


def test_help_lists_the_commands_at_once(project: Project) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = project.aesc("--help")
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1.5
    assert [name for name in COMMANDS if f" {name} " not in done.stdout] == []


def test_help_imports_none_of_the_heavy_libraries(project: Project) -> None:
    code = f"""
import sys
from flows.cli import main
sys.argv = ["aesc", "retrain", "--help"]
try:
    main()
except SystemExit:
    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""
    found = subprocess.run(
        [sys.executable, "-c", code], env=project.environment(), capture_output=True, text=True, check=True
    )
    assert found.stderr.strip() == "[]"


def test_prefect_s_embedded_server_prints_nothing_among_what_a_command_says(project: Project) -> None:
    code = """
import logging
from flows.commands.shell import quiet_settings
quiet_settings()
from prefect.logging.configuration import setup_logging
setup_logging()
for name in ("prefect", "prefect.server.services.task_run_recorder", "uvicorn.error", "fastapi"):
    logging.getLogger(name).error("database is locked")
"""
    env = project.environment()
    found = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=project.root, capture_output=True, text=True, check=True
    )
    assert (found.stdout, found.stderr) == ("", "")


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("retrain",), "--category"),
        (("nonsense",), "nonsense"),
        (("params", "--nonsense"), "--nonsense"),
        (("params", "--preset", "fast"), "no such preset"),
        (("params", "--params", "nowhere.yaml"), "no such file"),
        (("validate", "--data", "nowhere"), "no such folder"),
        (("retrain", "--category", "widget", "--set", "training.epochs"), "no value"),
        (("register", "."), "not a run folder"),
        (("inspect", "nowhere.png"), "no such file or folder"),
        (("inspect", ".", "--strategy", "guess"), "unknown"),
        (("inspect", ".git"), "no images in this place"),
        (("import", "nowhere.zip"), "no such file or folder"),
    ],
)
def test_wrong_use_ends_with_2_and_one_json_object(project: Project, arguments: tuple[str, ...], found: str) -> None:
    error = project.aesc(*arguments, "--json", code=2).report["error"]
    assert set(error) == {"where", "found", "allowed", "todo"}
    assert found in error["found"]


def test_without_json_stdout_is_for_people_and_errors_go_to_stderr(project: Project) -> None:
    assert "training.epochs = 4\n" in project.aesc("params", "--preset", "tiny").stdout
    done = project.aesc("params", "--preset", "fast", code=2)
    assert done.stdout == ""
    assert done.stderr.startswith("error: --preset fast: no such preset")
    assert "tiny" in done.stderr


def test_outside_a_project_the_message_says_where_to_go(project: Project, tmp_path: Path) -> None:
    error = Project(tmp_path, tmp_path / "state").aesc("params", "--json", code=2).error
    assert error["where"] == str(tmp_path)
    assert "params.yaml" in error["found"]
    assert "AESC_ROOT" in error["todo"]
    assert project.aesc("params", "--json", AESC_ROOT=str(project.root)).report["training.seed"] == 1


def test_a_state_folder_that_cannot_be_made_is_named(project: Project, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    error = project.aesc("validate", "--json", code=1, AESC_HOME=str(tmp_path / "file" / "state")).error
    assert error["where"] == str(tmp_path / "file" / "state")
    assert "AESC_HOME" in error["todo"]


def test_params_reports_every_fault_of_the_file_at_once(project: Project, tmp_path: Path) -> None:
    params = yaml.safe_load((project.root / "params.yaml").read_text(encoding="utf-8"))
    params["defaults"]["training"]["epoch"] = 3
    params["defaults"]["data"]["image_size"] = 100
    params["categories"] = {"widget": {"detection": {"passes": "many"}}}
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(params), encoding="utf-8")
    error = project.aesc("params", "--params", file, "--json", code=2).error
    assert error["where"] == str(file)
    assert error["found"].startswith("3 errors")
    assert "defaults.training.epoch = 3: unknown key (did you mean epochs?)" in error["found"]
    assert "defaults.data.image_size = 100: allowed: 64, 128, 256, 512 or 1024" in error["found"]
    assert "categories.widget.detection.passes = 'many'" in error["found"]


def test_contradicting_overrides_are_reported_at_once_before_anything_starts(project: Project) -> None:
    overrides = ("data.train=0.9", "training.batch_size=4000", "corruption.size=[0.4, 0.2]", "training.epochs=0")
    arguments = [part for override in overrides for part in ("--set", override)]
    error = project.aesc("retrain", "--category", "widget", *arguments, "--json", code=2).error
    assert error["found"].startswith("4 errors")
    for part in (
        "--set data: train + validation + calibration is 1.3; allowed: 1",
        "training.batch_size is 4000 but training.images_per_epoch is only 2000",
        "--set corruption: size is [0.4, 0.2]; allowed: the smaller number first",
        "--set training.epochs = 0",
    ):
        assert part in error["found"]


def test_chatter_goes_to_stderr_and_an_unexpected_error_into_a_file(project: Project) -> None:
    code = """
import os, subprocess, sys, typer
from flows.commands.shell import Json, Report, command

@command
def broken(as_json: Json = False) -> Report:
    print("from python")
    subprocess.run(["echo", "from a child"])
    os.write(1, b"from a library\\n")
    return 1 / 0

typer.run(broken)
"""
    found = subprocess.run(
        [sys.executable, "-c", code, "--json"],
        cwd=project.root,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    error = json.loads(found.stdout)["error"]
    assert "division by zero" in error["found"]
    assert "Traceback" not in found.stderr
    for chatter in ("from python", "from a child", "from a library"):
        assert chatter in found.stderr
    assert "Traceback" in Path(error["todo"].removeprefix("see ")).read_text(encoding="utf-8")


def test_sample_draws_the_data_that_data_dvc_names(tmp_path: Path) -> None:
    make_project(tmp_path / "clone", images=0)
    shutil.copy(ROOT / "data.dvc", tmp_path / "clone")
    git(tmp_path / "clone", "add", "data.dvc")
    git(tmp_path / "clone", "commit", "--quiet", "--message=data")
    report = Project(tmp_path / "clone", tmp_path / "state").aesc("sample", "--json").report
    assert f"md5: {report['data_version']}\n" in (ROOT / "data.dvc").read_text(encoding="utf-8")
    assert report["categories"] == ["fabric", "gasket"]
    assert len(list((tmp_path / "clone" / "data").rglob("*.png"))) == report["files"]
    assert git(tmp_path / "clone", "status", "--porcelain") == ""


def test_import_lays_out_a_folder_validates_and_versions_it(project: Project, imported: Imports) -> None:
    report = imported.folder
    assert report["categories"] == ["widget"]
    assert f"md5: {report['data_version']}\n" in imported.pointers[0]
    (validation,) = report["validation"]
    assert validation["success"]
    assert sum(validation["counts"].values()) == 40 + 4 + 4 + 3
    assert Path(validation["page"]).is_file()
    assert len(list((project.root / "data/widget/train/good").iterdir())) == 40
    assert "notes.doc: left out" in imported.remarks


def test_import_takes_an_archive_named_after_itself(project: Project, imported: Imports) -> None:
    report = imported.archive
    assert report["categories"] == ["gadget"]
    assert report["data_version"] != imported.folder["data_version"]
    assert f"md5: {report['data_version']}\n" in imported.pointers[1]
    assert len(list((project.root / "data/gadget/train/good").iterdir())) == 24
    assert git(project.root, "status", "--porcelain") == ""


def test_a_verdict_without_files_says_what_was_observed() -> None:
    failure = {"reason": "Too few clean images in train", "observed": "2 in train", "files": []}
    line = _verdict_line({"category": "widget", "success": False, "failures": [failure], "page": "index.html"})
    assert "  Too few clean images in train: 2 in train\n" in line
