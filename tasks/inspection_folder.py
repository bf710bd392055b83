"""The folder of one inspection: its plan, what each shard came to, and the results.

A shard is a run of images as the source lists them. Its result is a file whose name has a digest of what makes it: the
listing of its images, the weights, the operating point, and what was asked for. So an inspection that was killed goes
on with the shards that are missing, and a result that something else has made is never taken for this one's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import BaseFileLock

from aesc.errors import AescError
from aesc.files import write_atomically, write_json
from tasks.arrival import Arrival
from tasks.state_folder import StateFolder

SHARD = 128  # images: a minute of work at most, so little is lost with a worker
ALL_HEATMAPS = 200  # images up to which each gets a heatmap; of more only those that do not pass


class InspectionFolder(StateFolder):
    """Paths of one inspection; its state: source, detector, what was asked for, the number of images and shards."""

    STATE = "inspection.json"

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        self.shards = self.path / "shards"
        self.heatmaps = self.path / "heatmaps"
        self.table = self.path / "verdicts.parquet"
        self.csv = self.path / "verdicts.csv"
        self.gallery = self.path / "index.html"

    def plan(self, images: Iterable[Arrival], asked: dict[str, Any], *, source: str, detector: Path) -> int:
        """Write down what is to be done; the number of images. Results of the same shards stay.

        Args:
            images: the source's listing; it is never in memory as a whole.
            asked: JSON-ready; all that the results depend on besides the images.
            source: the place, as it was typed.
            detector: the folder of weights and operating point, where every worker can read it.

        Raises:
            AescError: the folder cannot be written.
        """
        try:
            for folder in (self.shards, self.heatmaps):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AescError(self.path, f"cannot be made: {error}", todo="name a writable folder with --out") from error
        for place in (self.path, self.shards, self.heatmaps):
            _remove_unfinished(place)
        total, digests = 0, []
        for number, rows in enumerate(_shards(images)):
            listing = pd.DataFrame([asdict(row) for row in rows])
            write_atomically(self._listing(number), partial(listing.to_parquet, index=False))
            digests.append(hashlib.sha256(listing.to_csv(index=False).encode()).hexdigest())
            total += len(rows)
        heatmaps = "all" if total <= ALL_HEATMAPS else "alarms"
        made_by = json.dumps({**asked, "heatmaps": heatmaps}, sort_keys=True)
        names = [
            f"{number:06d}-{hashlib.sha256(f'{digest}{made_by}'.encode()).hexdigest()[:20]}.parquet"
            for number, digest in enumerate(digests)
        ]
        for path in self.shards.iterdir():
            if path.name not in names and path not in {self._listing(number) for number in range(len(names))}:
                path.unlink()
        state = {"source": source, "detector": str(detector), "images": total, "heatmaps": heatmaps, "results": names}
        write_json(self.path / self.STATE, {**asked, **state, "key": key_of(asked), "finished": False})
        return total

    def listing(self, number: int) -> list[Arrival]:
        """The images of a shard."""
        rows = pd.read_parquet(self._listing(number)).to_dict("records")
        return [Arrival(str(row["key"]), str(row["tag"]), int(row["size"]), str(row["modified"])) for row in rows]

    def result(self, number: int) -> Path:
        """The file of a shard's rows, there or not."""
        return self.shards / str(self.state["results"][number])

    def results(self) -> list[Path]:
        """One file a shard, there or not, in the source's order."""
        return [self.shards / name for name in self.state["results"]]

    def missing(self) -> list[int]:
        """The shards that are still to be done."""
        return [number for number, path in enumerate(self.results()) if not path.is_file()]

    def discard_shards(self) -> None:
        """Remove what the joined results have made superfluous."""
        for path in self.shards.iterdir():
            path.unlink()
        self.shards.rmdir()

    def hold(self) -> BaseFileLock:
        """Keep other processes off until the returned lock is released.

        Raises:
            AescError: another process works in this folder.
        """
        return self._hold(
            busy="another inspection works in this folder", todo="wait for it, or name another with --out"
        )

    def _listing(self, number: int) -> Path:
        return self.shards / f"{number:06d}.listing.parquet"


def _remove_unfinished(folder: Path) -> None:
    """Remove what a killed process was about to move into place."""
    for pattern in (".*.png", ".*.parquet", ".*.csv", ".*.json", ".*.html"):
        for path in folder.rglob(pattern) if folder.name == "heatmaps" else folder.glob(pattern):
            path.unlink()


def key_of(asked: dict[str, Any]) -> str:
    """Identifies what an inspection is about."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def open_folder(parent: Path, *, label: str, asked: dict[str, Any]) -> tuple[InspectionFolder, BaseFileLock]:
    """The newest unfinished inspection of the same below `parent`, or a new folder; locked by the returned lock.

    Raises:
        AescError: no folder can be made.
    """
    key = key_of(asked)
    for path in sorted(parent.glob(f"*/{InspectionFolder.STATE}"), reverse=True):
        folder = InspectionFolder(path.parent)
        if folder.state.get("key") == key and not folder.state["finished"]:
            try:
                return folder, folder.hold()
            except AescError:
                continue  # another process is at it
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    for number in range(1000):
        path = parent / f"{stamp}-{label}{f'-{number}' if number else ''}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise AescError(path, f"cannot be made: {error}", todo="set AESC_HOME to a writable folder") from error
        folder = InspectionFolder(path)
        return folder, folder.hold()
    raise AescError(parent, "too many inspections in one second", todo="wait a second")


def _shards(images: Iterable[Arrival]) -> Iterator[list[Arrival]]:
    rest = iter(images)
    while rows := list(islice(rest, SHARD)):
        yield rows
