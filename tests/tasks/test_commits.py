"""What git says about the code, on real repositories."""

from __future__ import annotations

from pathlib import Path

import pytest

from aesc.errors import AescError
from tasks.commits import clone_commit, code_version, committed_bytes, find_repository
from tests.repositories import git, write


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit."""
    folder = tmp_path / "repository"
    write(folder / "params.yaml", "defaults: {}\n")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=first")
    return folder


def test_code_version(repository: Path) -> None:
    clean = code_version(repository)
    assert clean.commit == git(repository, "rev-parse", "HEAD").strip()
    assert (clean.dirty, clean.branch) == (False, "main")
    write(repository / "new.py", "")
    assert code_version(repository) == clean  # an untracked file is not code that ran
    write(repository / "params.yaml", "defaults: {a: 1}\n")
    assert code_version(repository).dirty
    git(repository, "checkout", "--quiet", "--detach")
    assert code_version(repository).branch is None


def test_without_repository_or_commit(tmp_path: Path) -> None:
    assert find_repository(tmp_path) is None
    assert code_version(tmp_path).model_dump() == {"commit": None, "dirty": False, "branch": None}
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    assert code_version(tmp_path).model_dump() == {"commit": None, "dirty": False, "branch": "main"}
    assert committed_bytes(tmp_path, "params.yaml") is None


def test_the_folder_decides_not_a_hook_s_environment(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    write(other / "a", "a")
    git(other, "init", "--quiet", "--initial-branch=other")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert code_version(repository).branch == "main"


def test_committed_bytes(repository: Path) -> None:
    write(repository / "params.yaml", "changed")
    assert committed_bytes(repository, "params.yaml") == b"defaults: {}\n"
    assert committed_bytes(repository, "nothing.yaml") is None


def test_a_clone_of_any_commit_leaves_the_repository_as_it_is(repository: Path, tmp_path: Path) -> None:
    """Also of one that no branch leads to any more, with the project in a folder of the repository."""
    write(repository / "project" / "a.py", "first\n")
    write(repository / ".git" / "hooks" / "post-checkout", "#!/bin/sh\ntouch ../ran\n")
    (repository / ".git" / "hooks" / "post-checkout").chmod(0o755)
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=second")
    commit = git(repository, "rev-parse", "HEAD").strip()
    git(repository, "reset", "--quiet", "--hard", "HEAD~1")
    write(repository / "project" / "a.py", "not committed\n")
    write(repository / "params.yaml", "staged: {}\n")
    git(repository, "add", "params.yaml")
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*")}

    project = clone_commit(repository / "project", commit, tmp_path / "clone")
    assert project == tmp_path / "clone" / "project"
    assert (project / "a.py").read_text(encoding="utf-8") == "first\n"
    assert (tmp_path / "clone" / "params.yaml").read_text(encoding="utf-8") == "defaults: {}\n"
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*")} == before
    assert not (tmp_path / "ran").exists()


def test_a_commit_that_is_not_there_is_said(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(AescError, match="not in the repository") as caught:
        clone_commit(repository, "1" * 40, tmp_path / "clone")
    assert "git fetch" in caught.value.todo
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(AescError, match="no git repository"):
        clone_commit(tmp_path / "elsewhere", "1" * 40, tmp_path / "clone")
    assert not (tmp_path / "clone").exists()
