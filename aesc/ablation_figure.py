"""The brief's figure: what each network, trained with each corruption, makes of the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aesc.canvas import WIDTH, drawing

_LABEL = 1.35  # inches
_GAP = 0.05


def reconstructions_figure(
    inputs: Sequence[npt.NDArray[np.uint8]],
    titles: Sequence[str],
    reconstructions: Mapping[str, Sequence[npt.NDArray[np.uint8]]],
    path: Path,
    *,
    caption: str,
) -> Path:
    """The input images in the first row, then one row a cell with its reconstructions.

    Args:
        inputs: side x side x channels (1 or 3) each, as the networks saw them.
        titles: of the inputs, above them.
        reconstructions: by the cell's name, one for each input.
        path: the PNG to write.
        caption: n, seed, data version and metric version.

    Raises:
        ValueError: no input, or a cell with another number of images.
    """
    wrong = [name for name, images in reconstructions.items() if len(images) != len(inputs)]
    if not inputs or len(titles) != len(inputs) or wrong:
        raise ValueError(f"{len(inputs)} inputs, {len(titles)} titles; of another number: {wrong}")
    rows = {"input": inputs, **reconstructions}
    tile = (WIDTH - _LABEL) / len(inputs) - _GAP
    with drawing(path, height=len(rows) * (tile + _GAP) + 0.3, caption=caption) as body:
        grid = body.subplots(len(rows), len(inputs) + 1, squeeze=False, width_ratios=[_LABEL, *[tile] * len(inputs)])
        for (name, images), (label, *cells) in zip(rows.items(), grid, strict=True):
            label.set_axis_off()
            label.text(1.0, 0.5, name, transform=label.transAxes, ha="right", va="center", size=9)
            for axes, image in zip(cells, images, strict=True):
                axes.set_axis_off()
                _show(axes, image)
        for axes, title in zip(grid[0][1:], titles, strict=True):
            axes.set_title(title, size=8)
    return path


def _show(axes: Any, image: npt.NDArray[np.uint8]) -> None:
    if image.shape[-1] == 1:
        axes.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255)
    else:
        axes.imshow(image)
