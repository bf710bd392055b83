"""What git says about the code that runs. Read-only: no commit, no index refresh."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from aesc.errors import AescError

# A git hook exports these for the repository that it serves; here the folder asked about decides.
_OF_A_HOOK = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
_TIMEOUT_SECONDS = 60


class CodeVersion(BaseModel):
    """The code's version.

    `commit` is None outside a repository and before its first commit; `branch` is None there and on a detached HEAD.
    """

    model_config = ConfigDict(frozen=True)

    commit: str | None
    dirty: bool
    branch: str | None


def code_version(root: Path) -> CodeVersion:
    """HEAD of the repository that holds `root`, and whether tracked files below `root` differ from it.

    Raises:
        AescError: git refuses the repository (for example another user owns it).
    """
    if find_repository(root) is None:
        return CodeVersion(commit=None, dirty=False, branch=None)
    head = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    branch = _git(root, "symbolic-ref", "--quiet", "--short", "HEAD")
    status = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".")
    if status.returncode:
        raise AescError(root, f"git status failed: {_last_line(status.stderr)}")
    return CodeVersion(
        commit=head.stdout.decode().strip() or None,
        dirty=bool(status.stdout.strip()),
        branch=branch.stdout.decode().strip() or None,
    )


def find_repository(root: Path) -> Path | None:
    """The top folder of the git repository that holds `root`; None without a repository, or without git.

    Raises:
        AescError: there is a repository and git refuses it.
    """
    try:
        result = _git(root, "rev-parse", "--show-toplevel")
    except FileNotFoundError:
        return None
    if result.returncode == 0:
        return Path(os.fsdecode(result.stdout.rstrip(b"\n")))
    if b"not a git repository" in result.stderr:
        return None
    todo = "correct what git names"
    if b"dubious ownership" in result.stderr:
        todo = f"git config --global --add safe.directory {root}"
    raise AescError(root, f"git refuses this repository: {result.stderr.decode(errors='replace').strip()}", todo=todo)


def committed_bytes(root: Path, name: str) -> bytes | None:
    """The content of `root / name` in HEAD; None if HEAD does not have it."""
    result = _git(root, "show", f"HEAD:./{name}")
    return result.stdout if result.returncode == 0 else None


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = {key: value for key, value in os.environ.items() if key not in _OF_A_HOOK}
    environment |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, env=environment, timeout=_TIMEOUT_SECONDS, check=False)


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"
