"""Quality against what it costs, as curves."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.ticker import FixedLocator, NullLocator

from aesc.canvas import BLUE, GREEN, ORANGE, drawing, plain_log_ticks, say

LINES = {"residual": (BLUE, "o", "-"), "uncertainty": (ORANGE, "s", "--"), "combined": (GREEN, "D", "-.")}
TITLES = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}


def cost_figure(table: pd.DataFrame, path: Path, *, by: str, label: str, caption: str) -> Path:
    """Image AUROC, pixel AUROC and AUPRO of the three strategies over the column `by`, its axis logarithmic.

    Args:
        table: one row a value, seed and strategy; a metric may be missing.
        path: the PNG to write.
        by: the column of costs.
        label: what it is, in words.
        caption: n, seeds, data version and metric version.
    """
    values = sorted(table[by].unique())
    with drawing(path, height=3.5, caption=caption) as figure:
        for axes, (metric, title) in zip(figure.subplots(1, len(TITLES)), TITLES.items(), strict=True):
            axes.set_title(title)
            axes.set_xscale("log")
            plain_log_ticks(axes.xaxis)
            axes.xaxis.set_major_locator(FixedLocator(values))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.tick_params(axis="x", labelrotation=45)
            if table[metric].isna().all():
                say(axes, "not available")
                continue
            for strategy, (colour, marker, dashes) in LINES.items():
                seeds = table[table["strategy"] == strategy].groupby(by)[metric]
                mean = seeds.mean()
                axes.fill_between(mean.index, seeds.min(), seeds.max(), color=colour, alpha=0.15, linewidth=0)
                axes.plot(mean.index, mean, color=colour, marker=marker, markersize=4, linestyle=dashes, label=strategy)
        figure.supxlabel(label, size=9.5)
        figure.axes[0].legend(loc="best", fontsize=8)
    return path
