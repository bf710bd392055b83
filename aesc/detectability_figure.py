"""Detectability as a picture: how often each stain is found, and the smallest one at each contrast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from aesc.canvas import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, SKY, drawing
from aesc.detectability import Detectability

_COLOURS = (SKY, BLUE, GREEN, PURPLE, ORANGE)


def detectability_figure(
    found: Detectability, path: Path, *, caption: str, registered: Detectability | None = None
) -> Path:
    """Left the share found of each size and contrast, right the smallest size at each contrast with its interval.

    Args:
        found: what was measured.
        path: the PNG to write.
        caption: n, seed, data version.
        registered: what was measured at the registration, drawn beside it.
    """
    with drawing(path, height=3.9, caption=caption) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1.0))
        _draw_rates(left, found)
        _draw_curve(right, found, registered)
    return path


def _draw_rates(axes: Axes, found: Detectability) -> None:
    for row, (contrast, rates) in enumerate(zip(found.contrasts, found.rates, strict=True)):
        colour = _COLOURS[row % len(_COLOURS)]
        label = f"{contrast:g} grey levels"
        axes.plot(found.sizes, rates, marker="o", markersize=4, linewidth=1.6, color=colour, label=label)
        if (size := found.curve[row].size) is not None:
            axes.plot([size], [found.find_rate], marker="D", markersize=6, color=colour, zorder=4)
    axes.axhline(found.find_rate, color=INK, linewidth=1.0, linestyle=(0, (4, 2)))
    _size_axis(axes, found, which="x")
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.set_xlabel("semi-axis of the stain, pixels")
    axes.set_ylabel("found")
    axes.set_title(f"Stains found ({found.strategy})")
    axes.legend(title="contrast", loc="best", fontsize=8, title_fontsize=8)


def _draw_curve(axes: Axes, found: Detectability, registered: Detectability | None) -> None:
    measured = [("now" if registered else "measured", found, BLUE, 1.0)]
    if registered is not None:
        measured.insert(0, ("at the registration", registered, FAINT, 0.985))
    top = found.sizes[-1]
    for label, one, colour, shift in measured:
        points = [point for point in one.curve if point.size is not None]
        x = np.array([point.contrast * shift for point in points])
        y = np.array([point.size for point in points], dtype=float)
        low = np.array([point.low if point.low is not None else top for point in points])
        high = np.array([point.high if point.high is not None else top for point in points])
        errors = np.clip(np.stack([y - low, high - y]), 0.0, None)
        axes.errorbar(x, y, yerr=errors, marker="o", markersize=5, capsize=3, color=colour, label=label)
        for point in one.curve:
            if point.size is None:
                axes.annotate(f"> {top:g}", (point.contrast, top), color=colour, ha="center", va="top", size=9)
    axes.axvline(found.reference_contrast, color=INK, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(found.contrasts)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(found.contrasts[0] / 1.3, found.contrasts[-1] * 1.3)
    _size_axis(axes, found, which="y")
    axes.set_xlabel("contrast, grey levels")
    axes.set_ylabel("smallest semi-axis, pixels")
    axes.set_title(f"Smallest stain found in {100 * found.find_rate:g} %")
    axes.legend(loc="lower left", fontsize=8)


def _size_axis(axes: Axes, found: Detectability, *, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis.set_major_locator(FixedLocator(list(found.sizes)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    limits = (found.sizes[0] / 1.2, found.sizes[-1] * 1.2)
    (axes.set_xlim if which == "x" else axes.set_ylim)(*limits)
