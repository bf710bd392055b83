"""The table that Great Expectations judges: the manifest, with the columns that the suite asks about.

Each file shows up where its first fault is and nowhere else: an unreadable image is not also one of another size.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from aesc.layout import CLEAN_FOLDER, MASK_FOLDER, TRAIN_FOLDER, is_mask, place_fault
from aesc.splits import CALIBRATION, TRAIN, VALIDATION

CLEAN_SPLITS = (TRAIN, VALIDATION, CALIBRATION)
IMAGE_PARTS = ("clean", "other train", "test")  # of the column `part`: rows that hold a usable image


@dataclass(frozen=True)
class CleanProfile:
    """What a category's readable clean images are: the yardstick for all its images.

    Attributes:
        counts: images in train, validation and calibration.
        size: the most common, as "256 x 256".
        kind: the most common bit depth and mode, as "8-bit rgb".
        sharpness: the median.
    """

    counts: Mapping[str, int]
    size: str
    kind: str
    sharpness: float


def tabulate(manifest: pd.DataFrame, *, min_std: float) -> pd.DataFrame:
    """Add to a manifest (see `aesc.manifest`) what the suite asks about; None or NaN where a column does not apply.

    Args:
        manifest: one row a file; `path` is unique.
        min_std: the standard deviation below which an image is blank, and so not also overexposed or blurred.

    Returns:
        The manifest's rows. Added for words: part ("clean", "other train" and "test" are usable images; "unusable";
        "mask" of no image), twin (another file of the same content and split), sharpness_share (of the clean images'
        median). Added to be judged: the columns of `_judge`.
    """
    table = manifest.reset_index(drop=True)
    described = [_describe(row) for row in table.to_dict("records")]
    for name in _DESCRIBED:
        table[name] = pd.Series([row[name] for row in described], index=table.index, dtype=object)
    sharpness = profile_clean(table).sharpness
    table["sharpness_share"] = table["sharpness"].astype(float) / sharpness if sharpness > 0 else math.nan
    twin, also_in = _copies(table)
    table["twin"] = pd.Series(twin, index=table.index, dtype=object)
    table["also_in"] = pd.Series(also_in, index=table.index, dtype=object)
    return _judge(table, min_std)


def _judge(table: pd.DataFrame, min_std: float) -> pd.DataFrame:
    """Beside the manifest's one line of errors taken apart: each column only where an expectation is about it."""
    part, path, good = table["part"], table["path"].astype(object), table["label"] == 0
    image, test = part.isin(IMAGE_PARTS), part == "test"
    masked = table["mask_path"].notna()
    contrast = table["std"] >= min_std

    def where(rows: pd.Series[bool], values: pd.Series[Any]) -> pd.Series[Any]:
        return values.where(rows, math.nan if values.dtype == float else None)

    columns = {
        "train_folder": where(part.isin(["clean", "other train"]), table["folder"].astype(object)),
        "clean_split": where(part == "clean", table["split"].astype(object)),
        "content": where(image, (table["sha256"] + " in " + table["split"]).astype(object)),
        "size": where(image, table["size"]),
        "kind": where(image, table["kind"]),
        "mask_size": where(image & ~good & table["mask_fault"].isna(), table["mask_size"]),
        "good_mask": where(image & good, table["mask_path"]),
        "defect_area": where(image & ~good, table["mask_area"]),
        "lacks_mask": where(test & ~good & ~masked, path),
    }
    for which in ("clean", "test"):
        columns[f"{which}_std"] = where(part == which, table["std"])
        columns[f"{which}_saturated"] = where((part == which) & contrast, table["saturated"])
        columns[f"{which}_sharpness_share"] = where((part == which) & contrast, table["sharpness_share"])
    return table.assign(**columns)


def profile_clean(table: pd.DataFrame) -> CleanProfile:
    """Measure the clean images of a table; where none is clean, all usable images give size and kind."""
    clean = table[table["part"] == "clean"]
    usable = clean if len(clean) else table[table["part"].isin(IMAGE_PARTS)]
    return CleanProfile(
        counts={split: int((clean["split"] == split).sum()) for split in CLEAN_SPLITS},
        size=_most_common(usable["size"]),
        kind=_most_common(usable["kind"]),
        sharpness=float(clean["sharpness"].median()) if len(clean) else 0.0,
    )


_FAULTS = ("misplaced", "unreadable", "mask_fault", "stray_mask")
_DESCRIBED = (*_FAULTS, "part", "size", "kind", "mask_size")


def _describe(row: Mapping[Hashable, Any]) -> dict[str, str | None]:
    faults = _faults(row)
    return {
        **faults,
        "part": _part(str(row["folder"]), faults),
        "size": _text("{width} x {height}", row, "width", "height"),
        "kind": _text("{bit_depth}-bit {mode}", row, "bit_depth", "mode"),
        "mask_size": _text("{mask_width} x {mask_height}", row, "mask_width", "mask_height"),
    }


def _faults(row: Mapping[Hashable, Any]) -> dict[str, str | None]:
    """The manifest's one line of errors, taken apart by what is at fault."""
    faults = dict.fromkeys(_FAULTS)
    error, path = str(row["error"]), _below_category(str(row["path"]))
    if not error:
        return faults
    if is_mask(path):
        return {**faults, "stray_mask": error}
    place = place_fault(path)
    rest = error.removeprefix(place).removeprefix("; ")
    mask_fault = ""
    if isinstance(row["mask_path"], str):
        rest, _, mask_fault = rest.partition(f"mask {_below_category(row['mask_path'])}: ")
    found = {"misplaced": place, "unreadable": rest.removesuffix("; "), "mask_fault": mask_fault}
    # What is allowed is said once, by the expectation.
    return {**faults, **{name: text.partition("; allowed: ")[0] or None for name, text in found.items()}}


def _below_category(path: str) -> str:
    return path.partition("/")[2]


def _part(folder: str, faults: Mapping[str, str | None]) -> str:
    if faults["stray_mask"] or folder.startswith(f"{MASK_FOLDER}/"):
        return "mask"
    if faults["misplaced"] or faults["unreadable"]:
        return "unusable"
    if folder == CLEAN_FOLDER:
        return "clean"
    return "other train" if folder.startswith(f"{TRAIN_FOLDER}/") else "test"


def _text(template: str, row: Mapping[Hashable, Any], *columns: str) -> str | None:
    """The template filled from the row's columns, or None if one is missing."""
    values = {name: row[name] for name in columns if not pd.isna(row.get(name))}
    if len(values) < len(columns):
        return None
    return template.format(**{name: value if isinstance(value, str) else int(value) for name, value in values.items()})


def _copies(table: pd.DataFrame) -> tuple[list[str | None], list[str | None]]:
    """For each row, a file of the same content in the same split, and one in another split."""
    images = table[table["part"].isin(IMAGE_PARTS)]
    members: dict[str, list[tuple[str, str]]] = {}
    for sha256, split, path in zip(images["sha256"], images["split"], images["path"], strict=True):
        members.setdefault(sha256, []).append((split, path))
    twin: list[str | None] = []
    also_in: list[str | None] = []
    for part, sha256, split, path in zip(table["part"], table["sha256"], table["split"], table["path"], strict=True):
        others = [other for other in members.get(sha256, []) if other[1] != path] if part in IMAGE_PARTS else []
        twin.append(next((other for where, other in others if where == split), None))
        also_in.append(next((f"{where}: {other}" for where, other in others if where != split), None))
    return twin, also_in


def _most_common(values: pd.Series[str]) -> str:
    counts = values.dropna().value_counts()
    return str(min(counts[counts == counts.max()].index)) if len(counts) else ""
