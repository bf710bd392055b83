"""One object at a place where images lie, as it was listed; and what is raised if it no longer is that."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Arrival:
    """One object at a source.

    Attributes:
        key: its path below the source.
        tag: changes whenever its content does.
        size: bytes.
        modified: ISO 8601, UTC.
    """

    key: str
    tag: str
    size: int
    modified: str


class MovedError(Exception):
    """An arrival that is no longer what was listed; the next run lists it as it then is."""
