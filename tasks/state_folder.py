"""A folder with a small JSON file that says how far its work has come; what takes up killed work reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from filelock import BaseFileLock, FileLock, Timeout

from aesc.errors import AescError
from aesc.files import read_json, write_json


class StateFolder:
    """Path and state; what else is in the folder is the subclass's."""

    STATE: ClassVar[str]  # name of the JSON file

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def begun(self) -> bool:
        """Whether there is a state yet."""
        return (self.path / self.STATE).is_file()

    @property
    def state(self) -> dict[str, Any]:
        """What is known so far."""
        found: dict[str, Any] = read_json(self.path / self.STATE)
        return found

    def update(self, **changes: Any) -> None:
        """Record `changes` in the state, atomically."""
        write_json(self.path / self.STATE, {**(self.state if self.begun else {}), **changes})

    def _hold(self, *, busy: str, todo: str) -> BaseFileLock:
        """Keep other processes out until the returned lock is released.

        Raises:
            AescError: another process is in; it says `busy` and `todo`.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise AescError(self.path, busy, todo=todo) from None
        return lock
