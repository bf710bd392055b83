"""The page that shows a person which images are at fault and why: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import PIL.Image

from aesc.cache import threaded_map
from aesc.errors import AescError
from aesc.images import read_image
from tasks.pages import render_template
from tasks.validation_table import IMAGE_PARTS

if TYPE_CHECKING:
    from tasks.validation import Failure, ValidationReport

SHOWN = 24  # offending images of each failure that get a thumbnail
SAMPLES = 8  # images of each split that a page without failures shows
SIDE = 192  # of a thumbnail, pixels: twice what the page gives it at its narrowest
_MASK_CHECKS = ("mask_readable", "mask_fits", "no_mask_for_good", "mask_marks_defect")


@dataclass(frozen=True)
class Picture:
    """A thumbnail as a data URI, or why there is none; `label` tells image from mask where both are shown."""

    uri: str
    fault: str
    label: str = ""


@dataclass(frozen=True)
class Tile:
    """One offending or sample file."""

    path: str
    found: str
    pictures: tuple[Picture, ...]


def render_page(report: ValidationReport, table: pd.DataFrame, *, data_root: Path, max_megapixels: float) -> str:
    """The page of a report as HTML: self-contained, everything from outside escaped.

    Args:
        report: what validation found.
        table: made by `tasks.validation_table.tabulate`; tells which mask belongs to which image.
        data_root: where the paths in both start.
        max_megapixels: images above it are not decoded, see `aesc.images`.
    """
    masks = {str(row["path"]): row["mask_path"] for row in table.to_dict("records") if row["part"] in IMAGE_PARTS}
    tiles = _Tiles(data_root, max_megapixels)
    return render_template(
        "validation.html.j2",
        report=report,
        failures=[(failure, tiles.of_failure(failure, masks)) for failure in report.failures],
        samples=[(split, tiles.of_split(table, split)) for split in report.counts] if report.success else [],
        short=[failure.expectation.removeprefix("enough_") for failure in report.failures],
        shown=SHOWN,
    )


class _Tiles:
    """Makes tiles, decoding on all cores."""

    def __init__(self, data_root: Path, max_megapixels: float) -> None:
        self.data_root = data_root
        self.max_megapixels = max_megapixels

    def of_failure(self, failure: Failure, masks: Mapping[str, Any]) -> list[Tile]:
        files, with_mask = failure.files[:SHOWN], failure.expectation in _MASK_CHECKS
        wanted = [[(path, "")] for path in files]
        if with_mask:
            wanted = [[(path, "image"), (masks[path], "mask")] for path in files]
        return self._tiles(files, failure.found, wanted)

    def of_split(self, table: pd.DataFrame, split: str) -> list[Tile]:
        usable = table[table["part"].isin(IMAGE_PARTS) & (table["split"] == split)]
        rows = usable.iloc[np.unique(np.linspace(0, len(usable) - 1, min(SAMPLES, len(usable))).astype(int))]
        return self._tiles(list(rows["path"]), list(rows["defect"]), [[(path, "")] for path in rows["path"]])

    def _tiles(
        self, files: Sequence[str], found: Sequence[str], wanted: Sequence[Sequence[tuple[str, str]]]
    ) -> list[Tile]:
        pictures = threaded_map(lambda each: tuple(self._picture(path, label) for path, label in each), wanted)
        return [Tile(*parts) for parts in zip(files, found, pictures, strict=False)]

    def _picture(self, path: str, label: str) -> Picture:
        try:
            return Picture(thumbnail(self.data_root / path, max_megapixels=self.max_megapixels), "", label)
        except AescError as error:
            return Picture("", error.found, label)


def thumbnail(path: Path, *, max_megapixels: float) -> str:
    """A data URI of an image, at most `SIDE` pixels wide and high; 16 bits are brought to 8 as the network sees them.

    Raises:
        AescError: as `aesc.images.read_image`.
    """
    pixels = read_image(path, max_megapixels=max_megapixels).pixels
    if pixels.dtype == np.uint16:
        pixels = np.rint(pixels / 257).astype(np.uint8)
    picture = PIL.Image.fromarray(pixels)
    picture.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
