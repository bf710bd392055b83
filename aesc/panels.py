"""Images beside their maps: the paper's figure, heatmaps for single images, and which images to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from scipy import ndimage

from aesc.canvas import BLUE, FAINT, ORANGE, OUTLINE, PURPLE, WIDTH, drawing, require_columns, shorten

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]

MAP_COLOURS = "inferno"  # perceptually uniform, told apart with every common colour vision
_COLUMNS = ("mask", "input", "prediction", "residual", "uncertainty")
_SIDE, _GAP, _TOP, _HEADER, _FOOT = 0.09, 0.06, 0.28, 0.27, 0.42  # inches
_SCALE_PERCENTILE = 99.9  # of all shown pixels: one hot pixel must not darken the rest
_OVERLAY_OPACITY = 0.75
_MARKS = {"pass": ("●", BLUE), "reject": ("▲", ORANGE), "abstain": ("◆", PURPLE)}


@dataclass(frozen=True, eq=False)
class PanelRow:
    """One image of the paper's figure.

    Args:
        title: for instance "broken_large/003 - worst".
        image: height x width x channels (1 or 3), in [0, 1].
        mask: true defect area, height x width; None where there is none.
        reconstruction: as `image`.
        residual: height x width.
        uncertainty: height x width.
        score: image score of the chosen strategy.
        verdict: "pass", "reject" or "abstain".
        pixel_mask: flagged area, height x width, outlined on the input; None draws no outline.

    Raises:
        ValueError: shapes that do not fit each other, or another verdict.
    """

    title: str
    image: Floats
    mask: Bools | None
    reconstruction: Floats
    residual: Floats
    uncertainty: Floats
    score: float
    verdict: Literal["pass", "reject", "abstain"]
    pixel_mask: Bools | None = None

    def __post_init__(self) -> None:
        _check_image(self.image, f"{self.title}: image")
        if self.reconstruction.shape != self.image.shape:
            found = f"{self.title}: reconstruction is {self.reconstruction.shape}"
            raise ValueError(f"{found}; allowed: {self.image.shape}, as the image")
        for name in ("mask", "residual", "uncertainty", "pixel_mask"):
            plane = getattr(self, name)
            if plane is not None and plane.shape != self.image.shape[:2]:
                raise ValueError(
                    f"{self.title}: {name} is {plane.shape}; allowed: {self.image.shape[:2]}, as the image"
                )
            if plane is not None and not np.isfinite(plane).all():
                raise ValueError(f"{self.title}: {name} is not finite everywhere; allowed: finite numbers")
        if self.verdict not in _MARKS:
            raise ValueError(f"{self.title}: verdict is {self.verdict!r}; allowed: {', '.join(_MARKS)}")


def panel_figure(
    rows: Sequence[PanelRow],
    path: Path,
    *,
    caption: str,
    threshold: float | None = None,
    residual_vmax: float | None = None,
    uncertainty_vmax: float | None = None,
) -> Path:
    """Mask, input, prediction, residual and uncertainty side by side, one row an image (the paper's figure).

    Args:
        rows: at least one, all images of one size.
        path: the PNG to write.
        caption: n, seed, data version and metric version.
        threshold: of the image score, written beside it.
        residual_vmax: residual shown brightest in every row; by default the 99.9th percentile over the rows.
        uncertainty_vmax: the same for the uncertainty.

    Raises:
        ValueError: no rows, or images of several sizes.
    """
    if not rows:
        raise ValueError("no rows; allowed: at least one image")
    sizes = {row.image.shape[:2] for row in rows}
    if len(sizes) > 1:
        raise ValueError(f"images of several sizes: {sorted(sizes)}; allowed: one")
    image_height, image_width = sizes.pop()
    tile = (WIDTH - 2 * _SIDE - (len(_COLUMNS) - 1) * _GAP) / len(_COLUMNS)
    tile_height = tile * image_height / image_width
    height = _TOP + len(rows) * (_HEADER + tile_height) + _FOOT
    scales = {
        "residual": _scale([row.residual for row in rows], residual_vmax),
        "uncertainty": _scale([row.uncertainty for row in rows], uncertainty_vmax),
    }
    with drawing(path, height=height, caption=caption, arrange=False) as figure:
        page = figure.add_axes((0.0, 0.0, 1.0, 1.0))  # in inches; a pair of axes for each tile takes twice as long
        page.set_axis_off()
        page.set(xlim=(0.0, WIDTH), ylim=(height, 0.0))

        def left_of(column: str) -> float:
            return _SIDE + _COLUMNS.index(column) * (tile + _GAP)

        for name in _COLUMNS:
            page.text(left_of(name) + tile / 2, 0.16, name, ha="center", va="center", weight="bold", size=10.5)
        for number, row in enumerate(rows):
            top = _TOP + number * (_HEADER + tile_height)
            page.text(_SIDE, top + 0.15, shorten(row.title, 58), va="center", size=9)
            _write_verdict(page, row, threshold, at=top + 0.15)
            for name in _COLUMNS:
                _draw_tile(page, _Box(left_of(name), top + _HEADER, tile, tile_height), name, row, scales)
        foot = _TOP + len(rows) * (_HEADER + tile_height)
        for name, scale in scales.items():
            place = (left_of(name) / WIDTH, 1 - (foot + 0.19) / height, tile / WIDTH, 0.09 / height)
            _colour_bar(figure.add_axes(place), scale)
        if any(row.pixel_mask is not None for row in rows):
            page.text(
                _SIDE, foot + 0.15, "outline on the input: pixels above the pixel threshold", va="center", size=8.5
            )
    return path


def heatmap_overlay(
    image: npt.NDArray[Any], anomaly_map: Floats, *, vmax: float, pixel_threshold: float | None = None
) -> npt.NDArray[np.uint8]:
    """The map laid over its image, more opaque where it is higher, and the area above `pixel_threshold` outlined.

    Args:
        image: height x width x channels (1 or 3), floats in [0, 1] or uint8.
        anomaly_map: height x width.
        vmax: map value drawn brightest, above 0.
        pixel_threshold: map value above which a pixel is flagged.

    Returns:
        height x width x 3, uint8.

    Raises:
        ValueError: shapes that do not fit, or `vmax` not above 0.
    """
    _check_image(image, "image")
    if anomaly_map.shape != image.shape[:2]:
        raise ValueError(f"anomaly_map is {anomaly_map.shape}; allowed: {image.shape[:2]}, as the image")
    if not (np.isfinite(vmax) and vmax > 0.0):
        raise ValueError(f"vmax is {vmax}; allowed: above 0")
    pixels = image / 255.0 if image.dtype == np.uint8 else image
    base = np.broadcast_to(np.clip(pixels, 0.0, 1.0), (*image.shape[:2], 3))
    level = np.clip(anomaly_map / vmax, 0.0, 1.0)
    colours = matplotlib.colormaps[MAP_COLOURS](level)[..., :3]
    opacity = _OVERLAY_OPACITY * np.sqrt(level)[..., None]
    blended = (1.0 - opacity) * base + opacity * colours
    if pixel_threshold is not None:
        flagged = anomaly_map > pixel_threshold
        line = max(1, round(min(flagged.shape) / 160))
        inner = flagged & ~ndimage.binary_erosion(flagged, iterations=line)
        outer = ndimage.binary_dilation(flagged, iterations=line) & ~flagged
        blended[outer] = 0.0  # dark beside bright: seen on any image
        blended[inner] = matplotlib.colors.to_rgb(OUTLINE)
    return np.asarray(np.rint(255.0 * blended), dtype=np.uint8)


def choose_examples(frame: pd.DataFrame, *, threshold: float) -> list[tuple[int, str]]:
    """The images worth showing of each defect type and of the good ones.

    Best is the clearest (highest score of a defect, lowest of a good image), worst the most wrong, borderline the
    nearest to the threshold of the others. No image comes twice; a lone one is "best" if its verdict is
    right, else "worst".

    Args:
        frame: one row an image: index, defect ("good" or type), label (0 good, 1 defective), score.
        threshold: images that score above it are rejected.

    Returns:
        (index, role) in order of defect type, good last, each best, borderline, worst.

    Raises:
        ValueError: a column is missing or a score is not finite.
    """
    require_columns(frame, ("index", "defect", "label", "score"))
    if not np.isfinite(frame["score"].to_numpy(dtype=float)).all():
        raise ValueError("a score is not finite; allowed: finite numbers")
    chosen: list[tuple[int, str]] = []
    kinds = sorted({(-int(label), str(defect)) for label, defect in zip(frame["label"], frame["defect"], strict=True)})
    for negated, defect in kinds:
        label = -negated
        group = frame[(frame["label"] == label) & (frame["defect"] == defect)]
        wrongness = group["score"] * (-1.0 if label else 1.0)
        order = group.assign(wrongness=wrongness).sort_values(["wrongness", "index"])
        indices = [int(index) for index in order["index"]]
        if len(indices) == 1:
            right = (float(order["score"].iloc[0]) > threshold) == bool(label)
            chosen.append((indices[0], "best" if right else "worst"))
            continue
        chosen.append((indices[0], "best"))
        if len(indices) > 2:
            between = order.iloc[1:-1]
            nearest = int((between["score"] - threshold).abs().to_numpy().argmin())
            chosen.append((int(between["index"].iloc[nearest]), "borderline"))
        chosen.append((indices[-1], "worst"))
    return chosen


class _Box(NamedTuple):
    """Where a tile lies on the page, in inches from its left and upper edge."""

    left: float
    top: float
    width: float
    height: float


def _draw_tile(page: Axes, box: _Box, name: str, row: PanelRow, scales: dict[str, Normalize]) -> None:
    def show(pixels: npt.NDArray[Any], **style: Any) -> None:
        extent = (box.left, box.left + box.width, box.top + box.height, box.top)
        page.imshow(pixels, extent=extent, aspect="auto", **style)

    if name == "mask" and row.mask is None:
        page.add_patch(Rectangle((box.left, box.top), box.width, box.height, color="#F2F2F2", linewidth=0.0))
        middle = (box.left + box.width / 2, box.top + box.height / 2)
        page.text(*middle, "no mask", ha="center", va="center", color=FAINT, size=11)
    elif name == "mask":
        show(np.asarray(row.mask), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    elif name in scales:
        show(getattr(row, name), cmap=MAP_COLOURS, norm=scales[name])
    else:
        pixels = np.clip(row.image if name == "input" else row.reconstruction, 0.0, 1.0)
        show(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    page.add_patch(
        Rectangle((box.left, box.top), box.width, box.height, fill=False, edgecolor="#C8C8C8", linewidth=0.6)
    )
    if name == "input" and row.pixel_mask is not None and row.pixel_mask.any():
        _outline(page, box, row.pixel_mask)


def _outline(page: Axes, box: _Box, flagged: Bools) -> None:
    """Draw the edge of the flagged area; the padding closes it at the image's border."""
    height, width = flagged.shape
    across = box.left + (np.arange(-1, width + 1) + 0.5) * box.width / width
    down = box.top + (np.arange(-1, height + 1) + 0.5) * box.height / height
    lines = page.contour(across, down, np.pad(flagged, 1).astype(float), levels=[0.5], colors=[OUTLINE], linewidths=1.1)
    lines.set_path_effects([withStroke(linewidth=2.2, foreground="black")])


def _write_verdict(page: Axes, row: PanelRow, threshold: float | None, *, at: float) -> None:
    mark, colour = _MARKS[row.verdict]
    style: dict[str, Any] = {"ha": "right", "va": "center", "size": 9}
    page.text(WIDTH - _SIDE, at, f"{mark} {row.verdict}", weight="bold", color=colour, **style)
    text = f"score {row.score:.4g}"
    if threshold is not None:
        digits = 4 if f"{row.score:.4g}" != f"{threshold:.4g}" else 7
        sign = ">" if row.score > threshold else "≤"
        text = f"score {row.score:.{digits}g} {sign} threshold {threshold:.{digits}g}"
    page.text(WIDTH - _SIDE - 0.8, at, text, color=FAINT, **style)


def _colour_bar(axes: Axes, scale: Normalize) -> None:
    highest = float(scale.vmax or 1.0)
    bar = axes.figure.colorbar(ScalarMappable(scale, MAP_COLOURS), cax=axes, orientation="horizontal")
    bar.set_ticks([0.0, highest], labels=["0", f"≥ {highest:.2g}"])
    bar.outline.set_linewidth(0.4)
    axes.tick_params(length=2, pad=2, labelsize=8)
    first, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")


def _scale(maps: Sequence[Floats], vmax: float | None) -> Normalize:
    highest = float(np.percentile(np.stack(maps), _SCALE_PERCENTILE)) if vmax is None else vmax
    return Normalize(0.0, highest if highest > 0.0 else 1.0, clip=True)


def _check_image(image: npt.NDArray[Any], where: str) -> None:
    if image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
        raise ValueError(f"{where} is {image.shape}; allowed: height x width x 1 or 3 channels")
