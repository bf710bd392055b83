"""What git says about the code, on real repositories."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.commits import code_version, committed_bytes, find_repository
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
