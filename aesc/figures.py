"""Curves of one run as pictures: training, image ROC, PRO and scores against the threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from aesc.calibration import percent_promised
from aesc.canvas import BLUE, FAINT, GREEN, INK, ORANGE, SKY, drawing, plain_log_ticks, require_columns, say, shorten

Doubles = npt.NDArray[np.float64]
Curve = Sequence[npt.ArrayLike]  # x values, then y values; a named tuple with more after them will do

# Dashes as well as colours, for print.
_STRATEGY_LINES = {
    "residual": (BLUE, "-"),
    "uncertainty": (ORANGE, (0, (5, 1.5))),
    "combined": (GREEN, (0, (5, 1, 1, 1))),
}
_SPARE_LINE = (FAINT, ":")
_HISTORY_COLUMNS = ("epoch", "loss", "psnr", "learning_rate", "images_seen")
_BINS = 48
_LOG_FROM = 20.0  # highest score / threshold beyond which a linear axis would squeeze the rest together


def training_curves(history: pd.DataFrame, path: Path, *, best_epoch: int, caption: str) -> Path:
    """Loss, validation PSNR and learning rate over the corrupted images seen; the best epoch is marked.

    Args:
        history: one row an epoch: epoch, loss, psnr (dB), learning_rate, images_seen.
        path: the PNG to write.
        best_epoch: the value of `epoch` whose weights were kept.
        caption: n, seed, data version and metric version.

    Raises:
        ValueError: a column is missing, there is no epoch, or `best_epoch` is none of them.
    """
    require_columns(history, _HISTORY_COLUMNS)
    best = history[history["epoch"] == best_epoch]
    if len(best) != 1:
        raise ValueError(f"best_epoch {best_epoch} occurs {len(best)} times in the history; allowed: exactly once")
    seen = history["images_seen"].to_numpy(dtype=float)
    rate = history["learning_rate"].to_numpy(dtype=float)
    steps = seen[:-1][np.diff(rate) != 0.0]  # the new rate holds from the end of that epoch on
    if 2 * len(steps) > len(seen):
        steps = steps[:0]  # a rate that changes all the time has none
    best_seen, best_psnr = float(best["images_seen"].iloc[0]), float(best["psnr"].iloc[0])
    marker = {"marker": "o", "markersize": 3.0 if len(seen) <= 40 else 0.0}

    with drawing(path, height=5.4, caption=caption) as figure:
        top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(1.0, 1.0, 0.42))
        top.plot(seen, history["loss"], color=BLUE, linewidth=1.8, **marker)
        top.set_yscale("log", nonpositive="mask")
        top.set_ylabel("training loss")
        top.set_title("Training loss, validation PSNR and learning rate")
        plain_log_ticks(top.yaxis)
        middle.plot(seen, history["psnr"], color=GREEN, linewidth=1.8, **marker)
        middle.set_ylabel("validation PSNR (dB)")
        middle.plot([best_seen], [best_psnr], color=ORANGE, marker="D", markersize=7, linestyle="none", zorder=4)
        middle.set_title(
            f"◆ best: epoch {best_epoch}, {best_psnr:.2f} dB, weights kept", loc="right", color=ORANGE, size=9.5
        )
        edges = np.concatenate([[seen[0] - (seen[1] - seen[0]) if len(seen) > 1 else 0.0], seen])
        bottom.stairs(rate, edges, color=INK, linewidth=1.6, baseline=None)
        bottom.set_yscale("log", nonpositive="mask")
        bottom.set_ylim(float(rate.min()) / 1.6, float(rate.max()) * 1.6)
        bottom.set_ylabel("learning\nrate")
        shown = np.unique(rate) if len(np.unique(rate)) <= 3 else np.array([rate.min(), rate.max()])
        bottom.set_yticks(shown, [f"{value:.3g}" for value in shown])
        bottom.yaxis.set_minor_locator(NullLocator())
        bottom.set_xlabel("corrupted images seen")
        bottom.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        bottom.set_xlim(left=min(0.0, float(edges[0])))
        for axes in (top, middle, bottom):
            axes.axvline(best_seen, color=ORANGE, linewidth=1.0, alpha=0.8, zorder=1)
            for step in steps:
                axes.axvline(step, color=FAINT, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        figure.align_ylabels([top, middle, bottom])
    return path


def roc_figure(
    curves: Mapping[str, Curve | None],
    aurocs: Mapping[str, float | None],
    path: Path,
    *,
    chosen: str,
    caption: str,
    positives: str = "defective images",
) -> Path:
    """Image ROC of each strategy, the chosen one bold.

    Args:
        curves: strategy to (false positive rates, true positive rates), or None where there is none.
        aurocs: strategy to area, or None.
        path: the PNG to write.
        chosen: the strategy of the operating point.
        caption: n, seed, data version and metric version.
        positives: what was to be found, for instance "held-out corruptions" when no defective image exists.

    Raises:
        ValueError: a curve is not two equally long arrays, or `chosen` has no entry.
    """
    with drawing(path, height=4.6, width=7.4, caption=caption) as figure:
        axes = figure.subplots()
        axes.set_title("Image ROC")
        axes.set_xlabel("false positive rate (good images flagged)")
        axes.set_ylabel(f"true positive rate ({positives} flagged)")
        axes.set_box_aspect(1.0)
        _unit_axes(axes, 1.0)
        _draw_curves(axes, curves, aurocs, chosen=chosen, measure="AUROC", missing=f"not available: no {positives}")
    return path


def pro_figure(
    curves: Mapping[str, Curve | None],
    aupros: Mapping[str, float | None],
    path: Path,
    *,
    limit: float,
    chosen: str,
    caption: str,
) -> Path:
    """Per-region overlap of each strategy against the pixel false positive rate, up to `limit`.

    Args:
        curves: strategy to (false positive rates, overlaps), or None where no image has a mask.
        aupros: strategy to normalised area up to `limit`, or None.
        path: the PNG to write.
        limit: highest false positive rate counted, above 0, at most 1.
        chosen: the strategy of the operating point.
        caption: n, seed, data version and metric version.

    Raises:
        ValueError: a curve is not two equally long arrays, `chosen` has no entry, or `limit` is not in (0, 1].
    """
    if not 0.0 < limit <= 1.0:
        raise ValueError(f"limit is {limit}; allowed: above 0, at most 1")
    with drawing(path, height=4.6, width=7.4, caption=caption) as figure:
        axes = figure.subplots()
        axes.set_title(f"Per-region overlap (PRO) up to {100 * limit:g} % false positives")
        axes.set_xlabel("false positive rate (defect-free pixels flagged)")
        axes.set_ylabel("mean overlap with the defect regions")
        axes.set_box_aspect(1.0)
        _unit_axes(axes, limit)
        _draw_curves(axes, curves, aupros, chosen=chosen, measure="AUPRO", missing="not available: no masks")
    return path


def score_histogram(
    scores: pd.DataFrame, path: Path, *, threshold: float, strategy: str, alpha_attained: float, caption: str
) -> Path:
    """Image scores of each group, one row a group, with the threshold and what it promises.

    Args:
        scores: columns score and group: "calibration", "test good", or a defect type.
        path: the PNG to write.
        threshold: images that score above it are rejected.
        strategy: what the scores were made of.
        alpha_attained: the promised false-alarm rate, 0 to 1.
        caption: n, seed, data version and metric version.

    Raises:
        ValueError: a column is missing, there is no score, or a number is not finite.
    """
    require_columns(scores, ("score", "group"))
    values = scores["score"].to_numpy(dtype=float)
    if not np.isfinite(values).all() or not np.isfinite(threshold):
        raise ValueError("a score or the threshold is not finite; allowed: finite numbers")
    groups = _ordered_groups(scores["group"])
    log = values.min() > 0.0 and threshold > 0.0 and values.max() > _LOG_FROM * threshold
    bins = _bins(values, threshold, log=log)

    with drawing(path, height=1.35 + 0.58 * len(groups), caption=caption) as figure:
        axes = figure.subplots()
        if log:
            axes.set_xscale("log")
            plain_log_ticks(axes.xaxis, subs=(1.0, 2.0, 5.0) if bins[-1] < 100 * bins[0] else (1.0,))
        axes.set_xlim(bins[0], bins[-1])
        for row, group in enumerate(reversed(groups)):
            members = values[(scores["group"] == group).to_numpy()]
            _draw_group(axes, members, row=row, group=group, bins=bins, threshold=threshold)
        axes.set_yticks(range(len(groups)), [shorten(group, 22) for group in reversed(groups)])
        axes.set_ylim(-0.35, len(groups) - 0.1)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"image score, {strategy}" + (" (log scale)" if log else ""))
        axes.axvline(threshold, color=INK, linewidth=1.4, linestyle=(0, (4, 2)))
        across = float(axes.transAxes.inverted().transform(axes.transData.transform((threshold, 0.0)))[0])
        axes.annotate(
            f"threshold {threshold:.4g}: at most {percent_promised(alpha_attained)} of clean images above",
            xy=(across, 1.0), xycoords="axes fraction", xytext=(0, 4), textcoords="offset points",
            ha="left" if across < 0.45 else "right" if across > 0.6 else "center", weight="bold",
        )  # fmt: skip
        axes.set_title(f"Image scores by group, strategy {strategy}", pad=24)
    return path


def _bins(values: Doubles, threshold: float, *, log: bool) -> Doubles:
    """Edges around all values, one of them just above the threshold, so that no bar has both verdicts in it."""
    to_axis, from_axis = (np.log, np.exp) if log else (np.asarray, np.asarray)
    low, high = to_axis(min(values.min(), threshold)), to_axis(max(values.max(), threshold))
    middle = to_axis(threshold)
    width = max((high - low) / _BINS, 1e-4 * max(abs(low), abs(high)), 1e-12)
    below, above = math.floor((low - middle) / width) - 1, math.ceil((high - middle) / width) + 1
    edges = np.asarray(from_axis(middle + width * np.arange(below, above + 1)), dtype=float)
    edges[-below] = np.nextafter(threshold, np.inf)
    return edges


def _draw_group(axes: Axes, values: Doubles, *, row: int, group: str, bins: Doubles, threshold: float) -> None:
    """A histogram on the line `row`, each score as a tick below it, and how many are above the threshold."""
    colour = {"calibration": SKY, "test good": BLUE}.get(group, ORANGE)
    counts = np.histogram(values, bins)[0]
    axes.stairs(row + 0.7 * counts / counts.max(), bins, baseline=row, fill=True, color=colour, alpha=0.75)
    axes.plot([bins[0], bins[-1]], [row, row], color=FAINT, linewidth=0.6)
    axes.plot(values, np.full(len(values), row - 0.13), marker="|", markersize=6, linestyle="none", color=colour)
    above = int((values > threshold).sum())
    axes.text(
        1.01, row + 0.05, f"{above} of {len(values)} above\n({100 * above / len(values):.1f} %)",
        transform=axes.get_yaxis_transform(), va="center", size=8.5,
    )  # fmt: skip


def _draw_curves(
    axes: Axes,
    curves: Mapping[str, Curve | None],
    areas: Mapping[str, float | None],
    *,
    chosen: str,
    measure: str,
    missing: str,
) -> None:
    available = {name: _checked(name, curve) for name, curve in curves.items() if curve is not None}
    if not available:
        say(axes, missing)
        return
    if chosen not in curves:
        raise ValueError(f"chosen is {chosen!r}; allowed: one of {', '.join(curves)}")
    if measure == "AUROC":
        axes.plot([0, 1], [0, 1], color="#B0B0B0", linewidth=1.0, linestyle=(0, (1, 2)))  # chance
    for name in curves:
        area = areas.get(name)
        label = name + (" (chosen)" if name == chosen else "")
        label += f"\n{measure} " + ("not available" if area is None else f"{area:.3f}")
        colour, dashes = _STRATEGY_LINES.get(name, _SPARE_LINE)
        bold = name == chosen
        axes.plot(
            *available.get(name, ((), ())),
            label=label,
            color=colour,
            linestyle=dashes,
            linewidth=3.0 if bold else 1.5,
            zorder=4 if bold else 3,
        )
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1.03, 1.0), labelspacing=1.1, handlelength=2.8)
    for name, text in zip(curves, legend.get_texts(), strict=True):
        text.set_fontweight("bold" if name == chosen else "normal")


def _checked(name: str, curve: Curve) -> tuple[Doubles, Doubles]:
    if len(curve) < 2:
        raise ValueError(f"curve {name} has {len(curve)} arrays; allowed: x values and y values")
    x, y = np.asarray(curve[0], dtype=float), np.asarray(curve[1], dtype=float)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ValueError(
            f"curve {name} has shapes {x.shape} and {y.shape}; allowed: two equally long, non-empty arrays"
        )
    return x, y


def _unit_axes(axes: Axes, right: float) -> None:
    axes.set_xlim(-0.015 * right, 1.015 * right)
    axes.set_ylim(-0.015, 1.015)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def _ordered_groups(groups: pd.Series[str]) -> list[str]:
    clean = ("calibration", "test good")
    present = {str(group) for group in groups}
    return [group for group in clean if group in present] + sorted(present - set(clean))
