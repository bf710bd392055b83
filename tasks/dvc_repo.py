"""An open DVC repository: quiet, locked, with the remote of the environment, and errors that a person can read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from logging import CRITICAL, ERROR, WARNING, Handler, LogRecord, NullHandler, getLogger
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from aesc.errors import AescError
from tasks.commits import find_repository
from tasks.settings import Settings
from tasks.storage import S3, check_s3, redact

LOCK_SECONDS = 60.0  # long enough for another category's push to end
_ENVIRONMENT = "environment"  # the name, within this process, of the remote in AESC_DVC_REMOTE
_LOGGERS = ("dvc", "dvc_data", "dvc_objects")
_PROGRESS_BARS = ("dvc.progress", "dvc_data.callbacks")  # drawn unless these loggers are silent


@contextmanager
def open_repo(settings: Settings) -> Iterator[Any]:
    """The project's `dvc.repo.Repo`, under DVC's lock; nothing that DVC prints reaches stdout.

    Raises:
        AescError: there is no DVC repository, another process keeps the lock, or DVC refuses what is done inside.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from scmrepo.exceptions import SCMError

    _silence()
    # Otherwise DVC would take a repository of any folder above.
    if not (settings.root / ".dvc").is_dir():
        todo = f"work in a clone of the project, or: cd {settings.root} && dvc init"
        raise AescError(settings.root, "not a DVC repository: there is no .dvc folder", todo=todo)
    try:
        with ExitStack() as stack:
            repo = stack.enter_context(Repo(str(settings.root.resolve()), config=_configuration(settings)))
            _lock(stack, repo, settings)
            yield repo
    except (DvcException, SCMError, OSError) as error:
        raise AescError(settings.root, f"DVC: {_reason(error)}", todo="dvc status, and dvc doctor") from None


def remote_address(repo: Any) -> str | None:
    """The default remote's URL or absolute path without user and password; None if there is no default remote."""
    name = repo.config["core"].get("remote")
    if not name:
        return None
    remote = repo.config["remote"].get(name.lower())
    if remote is None:
        todo = "dvc remote list, dvc remote default NAME, or set AESC_DVC_REMOTE"
        raise AescError(f"{repo.root_dir}/.dvc/config", f"the default remote {name!r} is not defined", todo=todo)
    url = str(remote["url"])
    return redact(url) if "://" in url else os.path.normpath(url)


@contextmanager
def readable_transfer(
    address: str, direction: Literal["pushed to", "pulled from"], settings: Settings
) -> Iterator[None]:
    """Turn every failure of a transfer into an error that names the remote and the reason, without secrets.

    Raises:
        AescError: S3 says what is wrong (the key, the bucket, the permission), or another try may succeed (transient).
    """
    failures = _Failures()
    for name in _LOGGERS:
        getLogger(name).addHandler(failures)
    try:
        yield
    except AescError:
        raise
    except Exception as error:  # whatever the remote's library raises
        if settings.dvc_remote and settings.dvc_remote.startswith(S3):
            check_s3([settings.dvc_remote], settings=settings)
        raise AescError(
            address,
            f"data cannot be {direction} this DVC remote: {_reason(failures.first or error)}",
            todo="see that the remote is there and accessible, then run the same command again",
            transient=True,
        ) from None
    finally:
        for name in _LOGGERS:
            getLogger(name).removeHandler(failures)


def _configuration(settings: Settings) -> dict[str, Any]:
    """What DVC is told beside its own files; the AWS environment gives the credentials."""
    core: dict[str, Any] = {"analytics": False, "check_update": False, "site_cache_dir": str(settings.state / "dvc")}
    if find_repository(settings.root) is None:
        core["no_scm"] = True
    if not settings.dvc_remote:
        return {"core": core}
    remote: dict[str, Any] = {"url": settings.dvc_remote}
    if "://" not in settings.dvc_remote:
        remote["url"] = str(Path(settings.dvc_remote).expanduser().absolute())
    if settings.dvc_remote.startswith(S3):
        remote |= {"connect_timeout": 5, "read_timeout": 60}
        if settings.s3_endpoint:
            remote["endpointurl"] = settings.s3_endpoint
    return {"core": core | {"remote": _ENVIRONMENT}, "remote": {_ENVIRONMENT: remote}}


def _lock(stack: ExitStack, repo: Any, settings: Settings) -> None:
    from dvc.lock import LockError
    from dvc.repo import lock_repo

    end = monotonic() + LOCK_SECONDS
    while True:
        try:
            stack.enter_context(lock_repo(repo))  # waits 3 seconds
        except LockError:
            if monotonic() < end:
                continue
            raise AescError(
                settings.root / ".dvc" / "tmp" / "lock",
                f"another DVC process has kept the lock for {LOCK_SECONDS:.0f} s",
                todo="wait for it to end (a push of much data takes long), or end it; then run the same command again",
            ) from None
        return


def _silence() -> None:
    """Take DVC's own handlers away, which write to stdout, and its progress bars."""
    for name in _LOGGERS:
        logger = getLogger(name)
        # Without any handler, logging would write warnings to stderr.
        logger.handlers = [NullHandler(), *(handler for handler in logger.handlers if isinstance(handler, _Failures))]
        logger.propagate = False
        logger.setLevel(WARNING)
    for name in _PROGRESS_BARS:
        getLogger(name).setLevel(CRITICAL)


class _Failures(Handler):
    """Keeps the first reason that DVC logs: its exceptions only count the files that failed."""

    def __init__(self) -> None:
        super().__init__(level=ERROR)
        self.first: object = None

    def emit(self, record: LogRecord) -> None:
        if self.first is None:
            self.first = record.exc_info[1] if record.exc_info else record.getMessage()


def _reason(error: object) -> str:
    lines = redact(error).strip().splitlines()
    text = lines[0] if lines else ""
    return f"{type(error).__name__}: {text}" if isinstance(error, Exception) else text
