"""Licences and readmes that lie beside images."""

from __future__ import annotations

from pathlib import PurePath

LICENCES = ("license", "licence")
PAPERS = (*LICENCES, "readme")  # how their names begin, in the order in which they are asked
_SUFFIXES = ("", ".txt", ".md", ".rst")


def is_paper(name: str) -> bool:
    """Whether a file of this name may say what images may be used for."""
    return name.lower().startswith(PAPERS) and PurePath(name.lower()).suffix in _SUFFIXES
