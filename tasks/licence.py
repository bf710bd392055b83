"""The licence of a category's images, from the papers that lie beside them; unknown is said as unknown."""

from __future__ import annotations

import re
from pathlib import Path

from aesc.papers import PAPERS, is_paper

UNKNOWN = "unknown: no licence or readme lies beside the images; ask whoever they are from before using the model"
_MOST = 50_000  # characters that are looked at
# From the most restrictive to the least: a text that forbids something names the freer licence it differs from, too.
_KNOWN = {
    "CC BY-NC-SA": r"cc[ -]by[ -]nc[ -]sa|by-nc-sa|attribution[ -]non-?commercial[ -]share-?alike",
    "CC BY-NC-ND": r"cc[ -]by[ -]nc[ -]nd|by-nc-nd|attribution[ -]non-?commercial[ -]no-?deriv\w*",
    "CC BY-NC": r"cc[ -]by[ -]nc|attribution[ -]non-?commercial",
    "CC BY-SA": r"cc[ -]by[ -]sa|attribution[ -]share-?alike",
    "CC BY-ND": r"cc[ -]by[ -]nd|attribution[ -]no-?deriv\w*",
    "CC BY": r"cc[ -]by\b|creative commons attribution",
    "CC0": r"\bcc0\b",
    "Apache License": r"apache license",
    "MIT License": r"\bmit license\b",
}


def find_licence(data_root: Path, category: str) -> str:
    """One line: the licence's name with its version and the file that says so, or the file alone, or `UNKNOWN`.

    The category's own folder is asked before the folder of categories.
    """
    files = [file for folder in (data_root / category, data_root) for file in _papers(folder)]
    for file in files:
        if name := _name(file):
            forbids = ", no commercial use" if "NC" in name else ""
            return f"{name}{forbids} (by {file.relative_to(data_root).as_posix()} beside the images)"
    if files:
        return (
            f"not one this project knows by name: read {files[0].relative_to(data_root).as_posix()} beside the images"
        )
    return UNKNOWN


def _papers(folder: Path) -> list[Path]:
    try:
        found = [path for path in folder.iterdir() if path.is_file() and is_paper(path.name)]
    except OSError:
        return []
    return sorted(found, key=lambda path: ([not path.name.lower().startswith(kind) for kind in PAPERS], path.name))


def _name(file: Path) -> str | None:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")[:_MOST]
    except OSError:
        return None
    text = " ".join(text.split())
    for name, pattern in _KNOWN.items():
        if match := re.search(pattern, text, re.IGNORECASE):
            version = re.match(
                r"\W*(?:international|public licen[cs]e|licen[cs]e|version|v\.?|\W)*(\d\.\d)",
                text[match.end() :],
                re.IGNORECASE,
            )
            return f"{name} {version[1]}" if version else name
    return None
