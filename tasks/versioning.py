"""Data versions by DVC: the md5 in data.dvc says which images a model was trained on. Bound by disk and network."""

from __future__ import annotations

import shutil
from logging import getLogger
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from aesc.errors import AescError
from aesc.layout import list_files
from tasks.commits import committed_bytes, find_repository
from tasks.dvc_repo import open_repo, readable_transfer, remote_address
from tasks.retries import retried_task
from tasks.run_folder import RunFolder
from tasks.settings import Settings

POINTER = "data.dvc"
_COMMIT = f'git add {POINTER} && git commit {POINTER} -m "{{}}"'
_SHOWN = 10


class DataVersion(BaseModel):
    """Which data: `version` is the md5 in data.dvc (kind "dvc") or the sha256 of the content (kind "content").

    `remote` is the address that holds the files of this version, if `pushed`.
    """

    model_config = ConfigDict(frozen=True)

    kind: Literal["dvc", "content"]
    version: str
    remote: str | None = None
    pushed: bool = False


def pin_data_version(data_root: Path, category: str, content_digest: str, *, settings: Settings) -> DataVersion:
    """Find the version of the data in `data_root`, and see to it that the DVC remote holds that version.

    Args:
        data_root: the folder that holds the category's folder.
        category: its files come first where differences are listed.
        content_digest: the version of data that DVC does not track.
        settings: the project and its remote.

    Raises:
        AescError: the files differ from data.dvc, or data.dvc from the last commit, and the message says what to type;
            or the remote does not answer (transient).
    """
    tracked = settings.data
    if not Path(data_root).resolve().is_relative_to(tracked.resolve()):
        getLogger(__name__).warning(
            "%s is not in %s, so DVC does not version it: the data version is the digest of its content, "
            "and a replay needs these files to stay there (`aesc import` brings them under DVC)",
            data_root,
            tracked,
        )
        return DataVersion(kind="content", version=content_digest)
    _require_pointer(settings)
    if _is_absent(tracked):
        todo = "aesc sample (draws the sample data), or dvc pull (fetches what data.dvc names)"
        raise AescError(tracked, "there is no data", todo=todo)
    with open_repo(settings) as repo:
        version = _pinned(repo, settings)
        _require_unchanged(repo, category, settings)
        _require_committed(settings)
        remote = push_data(repo, version, settings)
    return DataVersion(kind="dvc", version=version, remote=remote, pushed=remote is not None)


@retried_task(task_run_name="pin the data version of {category}")
def pin_version(category: str, data_root: str, run_folder: str) -> str:
    """Record which version of the data a run uses, and see that the DVC remote holds it; the version."""
    run = RunFolder(run_folder)
    version = pin_data_version(Path(data_root), category, run.state["content_digest"], settings=Settings())
    run.update(data_version=version.model_dump())
    return version.version


def track_data(settings: Settings, *, message: str | None = None) -> str:
    """Make data.dvc name what is in the data folder now (`dvc add data`); unchanged data leaves data.dvc as it is.

    No git commit is made: where one is due, the log says what to type, with `message` as its message.

    Returns:
        The new data version.

    Raises:
        AescError: there is no data, or DVC refuses.
    """
    if _is_absent(settings.data):
        raise AescError(settings.data, "there is no data to track", todo="aesc sample, or aesc import")
    with open_repo(settings) as repo:
        version = add_data(repo, settings)
    if find_repository(settings.root) and not is_committed(settings):
        command = _COMMIT.format(message or f"Data version {version[:8]}")
        getLogger(__name__).info("%s names a new data version; to keep it: %s", POINTER, command)
    return version


def pull_data(settings: Settings) -> str:
    """Fetch the files that data.dvc names from the remote if the data folder is missing or empty.

    Returns:
        The data version in data.dvc.

    Raises:
        AescError: there is no data.dvc, the remote does not hold its version, or does not answer (transient).
    """
    _require_pointer(settings)
    with open_repo(settings) as repo:
        version = _pinned(repo, settings)
        if _is_absent(settings.data):
            address = remote_address(repo) or POINTER
            with readable_transfer(address, "pulled from", settings):
                _checkout(repo, address, version, settings)
    return version


def pinned_version(settings: Settings) -> str | None:
    """The data version that data.dvc names; None if there is no data.dvc."""
    if not (settings.root / POINTER).is_file():
        return None
    with open_repo(settings) as repo:
        return _pinned(repo, settings)


def ensure_data(settings: Settings) -> None:
    """Fetch the data folder if it is missing and data.dvc names one; without data.dvc there is nothing yet: fine.

    The sample is drawn if data.dvc names it and the remote does not hold it.

    Raises:
        AescError: the remote does not hold the version in data.dvc, or does not answer (transient).
    """
    if not (settings.root / POINTER).is_file() or not _is_absent(settings.data):
        return
    try:
        pull_data(settings)
    except AescError as error:
        if error.transient or not _draw_sample(settings):
            raise


def _draw_sample(settings: Settings) -> bool:
    """Draw the sample data if data.dvc names them, as in a clone that nobody has used yet; whether it does."""
    from aesc.sample import draw_sample

    draw_sample(settings.data)
    with open_repo(settings) as repo:
        changes = repo.data_status(targets=["data"], granular=True, with_renames=False)["uncommitted"]
        same = not any(paths for kind, paths in changes.items() if kind != "unknown")
        if same:
            repo.add(str(_absolute(settings, "data")))  # the cache has none of it
    if not same:
        shutil.rmtree(settings.data)
    return same


def _require_pointer(settings: Settings) -> None:
    if not (settings.root / POINTER).is_file():
        todo = f"dvc add data && {_COMMIT.format('Track the data')}"
        if _is_absent(settings.data):
            todo = "aesc sample, or aesc import; then " + _COMMIT.format("Track the data")
        raise AescError(settings.root / POINTER, "missing, so the data has no version", todo=todo)


def _require_unchanged(repo: Any, category: str, settings: Settings) -> None:
    """Stop if the working copy differs from data.dvc; fill DVC's cache from it if the cache has lost files."""
    status = repo.data_status(targets=["data"], granular=True, with_renames=False)
    # "unknown" are the files of a folder whose list the cache has lost; whether the folder differs is known even so.
    changes = {kind: paths for kind, paths in status["uncommitted"].items() if paths and kind != "unknown"}
    if changes:
        raise AescError(
            settings.data,
            _describe(changes, first=f"data/{category}/"),
            allowed=f"exactly the files that {POINTER} names",
            todo=f"to keep the change: dvc add data && {_COMMIT.format('Change the data')}\n"
            "           to throw it away: dvc checkout data",
        )
    if status["not_in_cache"]:
        repo.add(str(_absolute(settings, "data")))


def _describe(changes: dict[str, list[str]], *, first: str) -> str:
    # A changed file also changes its folders: those lines say nothing.
    files = {kind: [path for path in paths if not path.endswith("/")] for kind, paths in changes.items()}
    files = {kind: paths for kind, paths in files.items() if paths and kind != "unknown"}
    if not files:
        return (
            f"differs from {POINTER}; which files cannot be said, because DVC's cache has no list of them (dvc fetch)"
        )
    count = sum(map(len, files.values()))
    lines = [f"differs from {POINTER} in {count} file{'s' if count > 1 else ''}"]
    for kind, paths in sorted(files.items()):
        shown = sorted(paths, key=lambda path: (not path.startswith(first), path))[:_SHOWN]
        more = f" and {len(paths) - len(shown)} more" if len(paths) > len(shown) else ""
        lines.append(f"{kind} ({len(paths)}): {', '.join(shown)}{more}")
    return "\n    ".join(lines)


def _require_committed(settings: Settings) -> None:
    if find_repository(settings.root) and not is_committed(settings):
        raise AescError(
            settings.root / POINTER,
            "not committed to git as it is, so nobody could find this data version again",
            todo=_COMMIT.format("Change the data"),
        )


def add_data(repo: Any, settings: Settings) -> str:
    """Make data.dvc name what is in the data folder now; the data version. `repo` is from `open_repo`."""
    (stage,) = repo.add(str(_absolute(settings, "data")))
    return str(stage.outs[0].hash_info.value)


def changed_files(settings: Settings) -> list[str]:
    """Files below `data/` in which the data folder differs from the data.dvc of the last commit, sorted.

    Without any data.dvc, neither in the folder nor in the commit, all files of the data folder.

    Raises:
        AescError: data.dvc is committed and the folder lacks it, the files cannot be told apart, or DVC refuses.
    """
    committed = committed_bytes(settings.root, POINTER) is not None
    if not (settings.root / POINTER).is_file():
        if committed:
            todo = f"git checkout {POINTER}"
            raise AescError(settings.root / POINTER, "missing, though the last commit has it", todo=todo)
        return [f"data/{name}" for name in list_files(settings.data)] if settings.data.is_dir() else []
    with open_repo(settings) as repo:
        status = repo.data_status(targets=["data"], granular=True, with_renames=False)
        kinds = [status["uncommitted"], status["committed"] if committed or not _is_absent(settings.data) else {}]
        if any(kind.get("unknown") for kind in kinds):  # DVC's cache has lost the list of the folder's files
            if any("data/" in kind.get("modified", ()) for kind in kinds):
                todo = f"dvc fetch; or, to keep what is there: dvc add data && {_COMMIT.format('Change the data')}"
                raise AescError(settings.data, _describe({}, first=""), todo=todo)
            repo.add(str(_absolute(settings, "data")))
    found = {path for kind in kinds for name, paths in kind.items() if name != "unknown" for path in paths}
    return sorted(path for path in found if not path.endswith("/"))


def push_data(repo: Any, version: str, settings: Settings) -> str | None:
    """The address of the remote that now holds `version`; None if no remote is configured.

    Raises:
        AescError: the remote does not answer (transient), or does not take it.
    """
    address = remote_address(repo)
    if address is None:
        getLogger(__name__).warning(
            "no DVC remote is configured: data version %s exists in this clone only "
            "(set AESC_DVC_REMOTE, or dvc remote add --default NAME URL)",
            version,
        )
        return None
    with readable_transfer(address, "pushed to", settings):
        repo.push(targets=[str(_absolute(settings, POINTER))])
        # The list of the folder's files is sent last: where it is, the files are.
        held = repo.cloud.get_remote().odb.exists(version)
    if not held:
        raise AescError(address, f"data version {version} did not arrive there", todo="dvc push --verbose")
    return address


def _checkout(repo: Any, address: str, version: str, settings: Settings) -> None:
    from dvc.exceptions import CheckoutError

    try:
        repo.pull(targets=[str(_absolute(settings, POINTER))])
    except CheckoutError:
        raise AescError(
            address,
            f"does not hold data version {version}, which {POINTER} names",
            todo="aesc sample if that is the sample's version; else dvc push where that version is",
        ) from None


def _pinned(repo: Any, settings: Settings) -> str:
    (out,) = repo.find_outs_by_path(str(_absolute(settings, "data")))
    if not out.hash_info or not out.hash_info.value:
        raise AescError(settings.root / POINTER, "there is no md5 in it", todo="dvc add data")
    return str(out.hash_info.value)


def _absolute(settings: Settings, name: str) -> Path:
    # DVC takes relative paths from the current folder; the link that `data` may be must stay a link.
    return settings.root.resolve() / name


def is_committed(settings: Settings) -> bool:
    """Whether the last commit has data.dvc as it is now."""
    committed = committed_bytes(settings.root, POINTER)
    current = (settings.root / POINTER).read_bytes()
    # git may check text out with other line ends.
    return committed is not None and committed.replace(b"\r\n", b"\n") == current.replace(b"\r\n", b"\n")


def _is_absent(folder: Path) -> bool:
    return not folder.is_dir() or not any(folder.iterdir())
