"""Which arrivals were decided on, how, and in which batch: a sqlite file that makes every ingest incremental.

It is a record, not the truth: what was accepted is in git and DVC, what was held is in quarantine. Without the file all
objects are looked at again, and those that are in the data already are recognised by their content.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from aesc.errors import AescError

_TABLES = """
CREATE TABLE IF NOT EXISTS seen (
    category TEXT NOT NULL, source TEXT NOT NULL, key TEXT NOT NULL, tag TEXT NOT NULL,
    sha256 TEXT NOT NULL, verdict TEXT NOT NULL, reason TEXT NOT NULL, batch TEXT NOT NULL, at TEXT NOT NULL,
    PRIMARY KEY (category, source, key, tag)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counted (
    category TEXT NOT NULL PRIMARY KEY, data_version TEXT NOT NULL, model_version TEXT NOT NULL, rules TEXT NOT NULL,
    clean INTEGER NOT NULL, trained INTEGER NOT NULL, new INTEGER NOT NULL, missing INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS announced (
    category TEXT NOT NULL, data_version TEXT NOT NULL, model_version TEXT NOT NULL, reason TEXT NOT NULL,
    at TEXT NOT NULL,
    PRIMARY KEY (category, data_version, model_version, reason)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Counts:
    """Clean images that there are, that the newest version was made from, that are new, and that are still missing."""

    clean: int
    trained: int
    new: int
    missing: int


class Ledger:
    """The decisions of all categories.

    Args:
        path: the sqlite file; made if absent.

    Raises:
        AescError: the file cannot be opened, or is no ledger (from every method).
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def seen(self, category: str, source: str) -> set[tuple[str, str]]:
        """Key and tag of every object of a source that was decided on."""
        with self._open() as database:
            rows = database.execute("SELECT key, tag FROM seen WHERE category = ? AND source = ?", (category, source))
            return {(str(key), str(tag)) for key, tag in rows}

    def accepted(self, category: str) -> set[str]:
        """The sha256 of every accepted arrival."""
        with self._open() as database:
            query = "SELECT sha256 FROM seen WHERE category = ? AND verdict = 'accepted'"
            return {str(sha256) for (sha256,) in database.execute(query, (category,))}

    def newest_accepted(self, category: str, most: int) -> list[tuple[str, str, str]]:
        """The sha256, key and time of the arrivals that were accepted last, newest first."""
        with self._open() as database:
            query = (
                "SELECT sha256, key, at FROM seen WHERE category = ? AND verdict = 'accepted' "
                "ORDER BY at DESC, source, key LIMIT ?"
            )
            return [(str(sha256), str(key), str(at)) for sha256, key, at in database.execute(query, (category, most))]

    def record(self, rows: Iterable[tuple[str, str, str, str, str, str, str, str, str]]) -> None:
        """Add rows (category, source, key, tag, sha256, verdict, reason, batch, at), all or none; again is harmless."""
        with self._open() as database:
            database.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def counts(self, category: str, data_version: str, model_version: str, rules: str) -> Counts | None:
        """What was counted last, if it was in this data version, for this model version and by these rules."""
        with self._open() as database:
            query = (
                "SELECT clean, trained, new, missing FROM counted "
                "WHERE category = ? AND data_version = ? AND model_version = ? AND rules = ?"
            )
            found = database.execute(query, (category, data_version, model_version, rules)).fetchone()
            return Counts(*map(int, found)) if found else None

    def remember_counts(self, category: str, data_version: str, model_version: str, rules: str, counts: Counts) -> None:
        """Keep what was counted; one entry a category."""
        with self._open() as database:
            database.execute(
                "INSERT OR REPLACE INTO counted VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (category, data_version, model_version, rules, *astuple(counts)),
            )

    def was_announced(self, category: str, data_version: str, model_version: str, reason: str) -> bool:
        """Whether a retraining was already asked for on these grounds."""
        with self._open() as database:
            query = (
                "SELECT 1 FROM announced WHERE category = ? AND data_version = ? AND model_version = ? AND reason = ?"
            )
            return bool(database.execute(query, (category, data_version, model_version, reason)).fetchone())

    def announce(self, category: str, data_version: str, model_version: str, reason: str, at: str) -> None:
        """Remember that a retraining was asked for."""
        with self._open() as database:
            database.execute(
                "INSERT OR REPLACE INTO announced VALUES (?, ?, ?, ?, ?)",
                (category, data_version, model_version, reason, at),
            )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is committed at the end, or not at all."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self.path, timeout=60)
            try:
                database.executescript(_TABLES)
                with database:
                    yield database
            finally:
                database.close()
        except (sqlite3.Error, OSError) as error:
            raise AescError(
                self.path,
                f"the ledger of arrivals cannot be used: {error}",
                allowed="a sqlite file in a writable folder with free space",
                todo="free some space or mend the permissions; a damaged ledger may be moved away: "
                "arrivals are then looked at once more, none is taken in twice",
            ) from error
