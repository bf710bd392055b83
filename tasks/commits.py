"""What git says about the code that runs, and the one kind of commit that is made: of a single file, nothing else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from aesc.errors import AescError

# A git hook exports these for the repository that it serves; here the folder asked about decides.
_OF_A_HOOK = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
_TIMEOUT_SECONDS = 60
_NOBODY = {"NAME": "aesc", "EMAIL": "aesc@localhost"}


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


def clone_commit(root: Path, commit: str, folder: Path) -> Path:
    """Check `commit` out into a clone in `folder`, which must not exist; where in it the folder `root` is.

    The clone borrows the repository's objects and leaves nothing there: no worktree, no branch, no changed index.

    Raises:
        AescError: there is no repository, or it does not have the commit.
    """
    top = find_repository(root)
    if top is None:
        raise AescError(root, f"no git repository, so commit {commit} cannot be had", todo="work in a clone")
    if _git(root, "cat-file", "-e", f"{commit}^{{commit}}").returncode:
        todo = "git fetch (git fetch --unshallow in a shallow clone), or work in the clone that has it"
        raise AescError(f"commit {commit}", f"not in the repository {top}", todo=todo)
    _checked(root, _git(root, "clone", "--quiet", "--shared", "--no-checkout", "--template=", str(top), str(folder)))
    quiet = ("-c", f"core.hooksPath={os.devnull}", "-c", "advice.detachedHead=false")
    _checked(folder, _git(folder, *quiet, "checkout", "--quiet", "--detach", commit))
    return folder / root.resolve().relative_to(top.resolve())


def require_branch(root: Path) -> None:
    """Stop unless a commit made now would be on a branch.

    Raises:
        AescError: HEAD is detached, or a merge, cherry-pick or rebase is under way.
    """
    if _git(root, "symbolic-ref", "--quiet", "HEAD").returncode:
        raise AescError(
            root,
            "HEAD is detached (or git is in the middle of a rebase): a commit made here would be on no branch",
            allowed="a branch",
            todo="git switch BRANCH (git branch lists them), then run the same command again",
        )
    for what, head in (("merge", "MERGE_HEAD"), ("cherry-pick", "CHERRY_PICK_HEAD")):
        if _git(root, "rev-parse", "--verify", "--quiet", head).returncode == 0:
            todo = f"git commit, or git {what} --abort; then run the same command again"
            raise AescError(root, f"a {what} is under way, and git commits no single file during one", todo=todo)


def last_commit(root: Path, name: str) -> str | None:
    """The newest commit of HEAD's history that changed `root / name`; None if none did."""
    return _git(root, "log", "-1", "--format=%H", "--", name).stdout.decode().strip() or None


def commit_file(root: Path, name: str, message: str) -> str:
    """Commit `root / name` and nothing else, whatever else is changed or staged; the new commit.

    Where nobody has told git who commits, it is this project. Hooks that check or change commits do not run: the
    pre-commit framework puts unfinished work aside meanwhile, and whoever is killed then leaves it there.

    Raises:
        AescError: git refuses; transient if another git process is at work.
    """
    who = {}
    if _git(root, "var", "GIT_COMMITTER_IDENT").returncode:
        who = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in _NOBODY.items()}
    _checked(root, _git(root, "add", "--", name))
    _checked(
        root, _git(root, "commit", "--quiet", "--no-verify", "--only", "--file=-", "--", name, stdin=message, **who)
    )
    return _git(root, "rev-parse", "HEAD").stdout.decode().strip()


def _checked(root: Path, result: subprocess.CompletedProcess[bytes]) -> None:
    if result.returncode:
        said = result.stderr.decode(errors="replace").strip() or result.stdout.decode(errors="replace").strip()
        busy = "index.lock" in said or "cannot lock ref" in said
        todo = "correct what git names, then run the same command again"
        raise AescError(root, f"git: {said}", todo=todo, transient=busy)


def _git(root: Path, *arguments: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[bytes]:
    environment = {key: value for key, value in os.environ.items() if key not in _OF_A_HOOK}
    environment |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", **more}
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(
            command, input=stdin.encode(), capture_output=True, env=environment, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise AescError(
            root,
            f"git {arguments[0]} did not end within {_TIMEOUT_SECONDS} s",
            todo="see whether it waits for a pass phrase (commit.gpgSign), a hook or a slow disk; then run it again",
            transient=True,
        ) from None


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"
