"""Who changes the data folder does it alone, and nobody reads a version of it that is half made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from aesc.errors import AescError
from tasks.settings import Settings

WAIT_SECONDS = 1800.0  # a push of many images
INGEST, DATA = "ingest", "data"


@contextmanager
def hold(what: str, settings: Settings, *, seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Keep others off: `INGEST` for a whole ingest, `DATA` while the data folder and data.dvc change or are compared.

    The operating system releases it when a process dies, however it dies.

    Raises:
        AescError: another process has kept it for `seconds` (transient).
    """
    path = settings.state / "locks" / f"{what}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise AescError(
            path,
            f"another process has kept this lock for {seconds:.0f} s",
            todo="wait for it to end, or end it; then run the same command again",
            transient=True,
        ) from None
    try:
        yield
    finally:
        lock.release()
