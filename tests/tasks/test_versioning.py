"""Data versions, on real git and DVC repositories."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aesc.errors import AescError
from tasks import dvc_repo
from tasks.commits import code_version
from tasks.settings import Settings
from tasks.versioning import DataVersion, ensure_data, pin_data_version, pull_data, track_data
from tests.repositories import ROOT, commit_pointer, git, make_project, write

DIGEST = "c0ffee"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in os.environ:
        if key.startswith(("GIT_", "DVC_", "AWS_")) or key in {"AESC_DVC_REMOTE", "AESC_HOME", "AESC_ROOT"}:
            monkeypatch.delenv(key)


@pytest.fixture
def project(tmp_path: Path) -> Settings:
    """A project whose data is tracked and committed."""
    settings = make_project(tmp_path / "project")
    track_data(settings)
    commit_pointer(settings)
    return settings


def pin(settings: Settings, *, data_root: Path | None = None, category: str = "bottle") -> DataVersion:
    return pin_data_version(data_root or settings.data, category, DIGEST, settings=settings)


def refusal(settings: Settings, **options: object) -> str:
    with pytest.raises(AescError) as caught:
        pin(settings, **options)  # type: ignore[arg-type]
    assert not caught.value.transient
    return str(caught.value)


def test_the_version_is_the_md5_in_the_pointer_and_is_pushed(project: Settings) -> None:
    version = pin(project)
    assert version.kind == "dvc"
    assert version.version.endswith(".dir")
    assert f"md5: {version.version}\n" in (project.root / "data.dvc").read_text()
    remote = project.root / ".aesc" / "dvc-remote"
    assert version.remote == str(remote)
    assert version.pushed
    assert len([path for path in remote.rglob("*") if path.is_file()]) == 3 + 1
    assert pin(project) == version
    assert DataVersion.model_validate_json(json.dumps(version.model_dump())) == version
    assert pickle.loads(pickle.dumps(version)) == version  # noqa: S301


def test_a_folder_inside_the_data_has_the_version_of_the_whole(project: Settings) -> None:
    assert pin(project, data_root=project.data / "bottle") == pin(project)


def test_tracking_again_leaves_the_pointer_byte_for_byte(project: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    pointer = project.root / "data.dvc"
    before = pointer.read_bytes()
    monkeypatch.chdir("/")
    version = track_data(project)
    assert pointer.read_bytes() == before
    shutil.rmtree(project.root / ".dvc" / "cache")  # a fresh clone that has drawn the same data
    shutil.rmtree(project.state)
    assert track_data(project) == version
    assert pointer.read_bytes() == before
    assert git(project.root, "status", "--porcelain") == ""


def test_tracking_changed_data_says_what_to_commit(project: Settings, caplog: pytest.LogCaptureFixture) -> None:
    before = pin(project).version
    write(project.data / "bottle/train/good/new.png", "new")
    with caplog.at_level(logging.INFO):
        assert track_data(project, message="Import bottle") != before
    assert 'git commit data.dvc -m "Import bottle"' in caplog.text


def test_differences_are_named_by_kind_and_count(project: Settings) -> None:
    good = project.data / "bottle" / "train" / "good"
    write(good / "000.png", "changed")
    (good / "001.png").unlink()
    for index in range(12):
        write(project.data / "apple" / f"{index:03d}.png", f"apple {index}")
    write(good / "new.png", "new")
    message = refusal(project)
    assert "differs from data.dvc in 15 files" in message
    assert "modified (1): data/bottle/train/good/000.png\n" in message
    assert "deleted (1): data/bottle/train/good/001.png\n" in message
    assert "added (13): data/bottle/train/good/new.png, data/apple/000.png, " in message
    assert "data/apple/008.png and 3 more\n" in message
    assert "dvc add data && git add data.dvc && git commit data.dvc" in message
    assert "dvc checkout data" in message
    assert not (project.state / "dvc-remote").exists()


def test_the_suggested_commands_work(project: Settings) -> None:
    write(project.data / "bottle/train/good/000.png", "changed")
    dvc = [sys.executable, "-m", "dvc"]
    environment = os.environ | {"DVC_SITE_CACHE_DIR": str(project.state / "dvc"), "DVC_NO_ANALYTICS": "1"}
    subprocess.run([*dvc, "checkout", "--force", "data"], cwd=project.root, check=True, env=environment)
    assert (project.data / "bottle/train/good/000.png").read_text() == "image 0"
    assert pin(project).pushed
    write(project.data / "bottle/train/good/000.png", "changed")
    subprocess.run([*dvc, "add", "data"], cwd=project.root, check=True, env=environment)
    commit_pointer(project)
    assert pin(project).pushed


def test_an_uncommitted_pointer_is_refused(tmp_path: Path) -> None:
    settings = make_project(tmp_path)
    track_data(settings)
    for step in ("untracked", "staged"):
        message = refusal(settings)
        assert "data.dvc: not committed" in message, step
        assert "git commit data.dvc" in message, step
        git(settings.root, "add", "data.dvc")
    commit_pointer(settings)
    assert pin(settings).pushed
    write(settings.data / "bottle/more.png", "more")
    track_data(settings)
    assert "not committed" in refusal(settings)


def test_without_git_the_pointer_is_enough(project: Settings) -> None:
    before = pin(project)
    shutil.rmtree(project.root / ".git")
    assert pin(project) == before
    assert track_data(project) == before.version


def test_missing_pointer(tmp_path: Path) -> None:
    settings = make_project(tmp_path)
    message = refusal(settings)
    assert "data.dvc: missing" in message
    assert "dvc add data && git add data.dvc && git commit data.dvc" in message


@pytest.mark.parametrize("leave_empty_folder", [True, False])
def test_missing_data(project: Settings, leave_empty_folder: bool) -> None:
    shutil.rmtree(project.data)
    if leave_empty_folder:
        project.data.mkdir()
    message = refusal(project)
    assert "there is no data" in message
    assert "aesc sample" in message
    assert "dvc pull" in message


def test_damaged_pointer(project: Settings) -> None:
    (project.root / "data.dvc").write_text("<<<<<<< HEAD\nouts:\n=======\n", encoding="utf-8")
    assert "data.dvc" in refusal(project)


def test_not_a_dvc_repository(project: Settings) -> None:
    shutil.rmtree(project.root / ".dvc")
    assert "not a DVC repository" in refusal(project)


def test_a_lost_cache_is_filled_from_the_working_copy(project: Settings) -> None:
    version = pin(project)
    shutil.rmtree(project.root / ".dvc" / "cache")
    shutil.rmtree(project.state)
    assert pin(project) == version
    assert (project.state / "dvc-remote" / "files" / "md5" / version.version[:2]).is_dir()


def test_differences_without_a_cache_are_still_refused(project: Settings) -> None:
    shutil.rmtree(project.root / ".dvc" / "cache")
    shutil.rmtree(project.state)
    write(project.data / "bottle/more.png", "more")
    assert "differs from data.dvc" in refusal(project)


def test_a_lost_remote_is_filled_again(project: Settings) -> None:
    version = pin(project)
    shutil.rmtree(project.state / "dvc-remote")
    assert pin(project) == version
    assert (project.state / "dvc-remote" / "files" / "md5" / version.version[:2]).is_dir()


def test_an_unusable_remote_is_named(project: Settings) -> None:
    (project.state / "dvc-remote").write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(AescError, match=r"dvc-remote: data cannot be pushed") as caught:
        pin(project)
    assert caught.value.transient  # tried again by the task, then shown


def test_no_remote_is_a_warning(project: Settings, caplog: pytest.LogCaptureFixture) -> None:
    (project.root / ".dvc" / "config").write_text("[core]\n    analytics = false\n", encoding="utf-8")
    version = pin(project)
    assert (version.remote, version.pushed) == (None, False)
    assert "this clone only" in caplog.text


def test_another_folder_as_remote(project: Settings, tmp_path: Path) -> None:
    settings = Settings(root=project.root, dvc_remote=str(tmp_path / "elsewhere"))
    assert pin(settings).remote == str(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "files" / "md5").is_dir()
    assert not (project.state / "dvc-remote").exists()


def test_what_file_managers_leave_behind_is_no_difference(project: Settings) -> None:
    version = pin(project)
    for name in (".DS_Store", "bottle/._000.png", "bottle/Thumbs.db"):
        write(project.data / name, "junk")
    assert pin(project) == version
    assert track_data(project) == version.version


def test_a_project_in_a_folder_of_a_repository(project: Settings, tmp_path: Path) -> None:
    shutil.rmtree(project.root / ".git")
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    git(tmp_path, "add", "--all")
    assert "not committed" in refusal(project)
    git(tmp_path, "commit", "--quiet", "--message=all")
    assert pin(project).pushed
    write(tmp_path / "unrelated.py", "1")
    git(tmp_path, "add", "--all")
    assert not code_version(project.root).dirty


def test_other_data_gets_its_content_digest(
    project: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "elsewhere" / "bottle" / "a.png", "a")
    version = pin(project, data_root=tmp_path / "elsewhere")
    assert version == DataVersion(kind="content", version=DIGEST, remote=None, pushed=False)
    assert "digest of its content" in caplog.text
    assert not (project.state / "dvc-remote").exists()


def test_pull_fetches_missing_data_only(project: Settings) -> None:
    version = pin(project).version
    shutil.rmtree(project.data)
    shutil.rmtree(project.root / ".dvc" / "cache")
    assert pull_data(project) == version
    assert (project.data / "bottle/train/good/002.png").read_text() == "image 2"
    write(project.data / "bottle/train/good/002.png", "mine")
    assert pull_data(project) == version
    assert (project.data / "bottle/train/good/002.png").read_text() == "mine"


def test_pull_of_a_version_that_was_never_pushed(project: Settings) -> None:
    shutil.rmtree(project.data)
    shutil.rmtree(project.root / ".dvc" / "cache")
    with pytest.raises(AescError, match="does not hold data version") as caught:
        pull_data(project)
    assert "dvc-remote" in caught.value.where
    assert not caught.value.transient


def test_a_clone_that_nobody_has_used_draws_the_sample(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", images=0)
    ensure_data(project)
    assert not project.data.exists(), "without data.dvc there is nothing to fetch"
    shutil.copy(ROOT / "data.dvc", project.root / "data.dvc")
    commit_pointer(project)
    ensure_data(project)
    assert pin(project, category="fabric").version in (ROOT / "data.dvc").read_text(encoding="utf-8")
    assert git(project.root, "status", "--porcelain") == ""


def test_the_sample_does_not_stand_in_for_other_data(project: Settings) -> None:
    pointer = (project.root / "data.dvc").read_bytes()
    shutil.rmtree(project.data)
    shutil.rmtree(project.root / ".dvc" / "cache")
    with pytest.raises(AescError, match="does not hold data version"):
        ensure_data(project)
    assert not project.data.exists()
    assert (project.root / "data.dvc").read_bytes() == pointer


def test_a_held_lock_is_said(project: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dvc_repo, "LOCK_SECONDS", 0.0)
    with dvc_repo.open_repo(project), pytest.raises(AescError, match="another DVC process has kept the lock"):
        pin(project)
    assert pin(project).pushed


def test_nothing_is_printed(project: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    write(project.data / "bottle/more.png", "more")
    track_data(project)
    commit_pointer(project)
    pin(project)
    shutil.rmtree(project.data)
    pull_data(project)
    assert capfd.readouterr() == ("", "")


def test_dvc_keeps_its_state_in_the_project(project: Settings) -> None:
    pin(project)
    assert (project.state / "dvc" / "repo").is_dir()
    assert git(project.root, "status", "--porcelain") == ""


def test_the_task_does_not_retry_a_mistake(project: Settings) -> None:
    from prefect.states import Failed

    from tasks.versioning import pin_version

    def is_retried(error: Exception) -> bool:
        return bool(pin_version.retry_condition_fn(pin_version, None, Failed(data=error)))

    assert pin_version.retries == 2
    assert is_retried(AescError("remote", "away", transient=True))
    assert not is_retried(AescError("data", "differs"))
