"""One folder for the arrivals of one ingest: each step writes what it came to, so that a killed one goes on there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from aesc.errors import AescError
from aesc.files import write_atomically, write_json
from tasks.settings import Settings
from tasks.state_folder import StateFolder

ACCEPTED, QUARANTINED, KNOWN = "accepted", "quarantined", "known"


class Batch(StateFolder):
    """The paths of one batch; its state: category, source, preset, and what was decided so far."""

    STATE = "batch.json"

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        self.objects_file = self.path / "objects.parquet"
        self.staged_file = self.path / "staged.parquet"
        self.verdicts_file = self.path / "verdicts.parquet"
        self.files = self.path / "files"

    @property
    def name(self) -> str:
        """Unique within its category."""
        return self.path.name

    def staged(self) -> pd.DataFrame:
        """One row a copied arrival: key, tag, size, modified, sha256, file (a name in `files`)."""
        return _read(self.staged_file)

    def verdicts(self) -> pd.DataFrame:
        """The staged rows with verdict, reason, detail, statistics and scores."""
        return _read(self.verdicts_file)

    def discard_files(self) -> None:
        """Remove the copies; the record of the batch stays."""
        shutil.rmtree(self.files, ignore_errors=True)


def batches_folder(settings: Settings, category: str) -> Path:
    """Where the batches of a category are."""
    return settings.state / "arrivals" / "batches" / category


def unfinished_batch(settings: Settings, category: str) -> Batch | None:
    """The batch that an interrupted ingest left, if any."""
    for path in sorted(batches_folder(settings, category).glob(f"*/{Batch.STATE}")):
        batch = Batch(path.parent)
        if not batch.state.get("finished"):
            return batch
    return None


def new_batch(
    settings: Settings,
    category: str,
    *,
    objects: pd.DataFrame,
    state: Mapping[str, Any],
    fill: Callable[[Batch], None] | None = None,
) -> Batch:
    """Open a batch for the listed `objects` (key, tag, size, modified), with what `fill` writes into it.

    The state is written last: a folder without one was never opened, and is removed here.

    Raises:
        AescError: the folder cannot be made or written.
    """
    for path in batches_folder(settings, category).glob("*/"):
        if not Batch(path).begun:
            shutil.rmtree(path, ignore_errors=True)
        elif (path / "files").is_dir() and Batch(path).state.get("finished"):  # killed right after its end
            Batch(path).discard_files()
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    batch = Batch(batches_folder(settings, category) / stamp)
    try:
        batch.files.mkdir(parents=True)
        write_table(batch.objects_file, objects)
        if fill is not None:
            fill(batch)
    except OSError as error:
        raise AescError(
            batch.path,
            f"cannot be made: {error.strerror or error}",
            allowed="a writable folder with free space",
            todo="free some space, or set AESC_HOME to a writable folder",
        ) from error
    write_json(batch.path / Batch.STATE, {**state, "category": category, "created": stamp, "finished": False})
    return batch


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet, atomically."""
    write_atomically(path, lambda file: table.to_parquet(file, index=False))


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise AescError(
            path, f"not readable: {error}", todo=f"delete it to have the step done again, or all of {path.parent}"
        ) from None
