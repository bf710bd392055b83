"""The paper's comparison: networks x corruptions x strategies (arXiv 2008.12977, section IV, tables I and II)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

import pandas as pd

from aesc.errors import AescError
from aesc.params import IMAGE_SCORES, STRATEGIES, CorruptionKind

NETWORKS = {"AE": "none", "AESc": "add", "U-Net": "concat"}
"""Name in the table to `network.skip`."""

CORRUPTIONS: tuple[CorruptionKind, ...] = ("none", "gaussian", "scratch", "drops", "stain")
"""Those of the paper and its code; any other `corruption.kind` can be asked for."""

METRICS = ("image_auroc", "pixel_auroc", "aupro")


@dataclass(frozen=True)
class Cell:
    """One training of the comparison."""

    network: str
    corruption: str
    seed: int

    @property
    def overrides(self) -> list[str]:
        """What it changes in the parameters; dropout stays, so that every network has an uncertainty.

        There is no segmentation head in any cell: some corruptions have no place that it could learn. The residual is
        the same in all: cells that do not train on the same corruption would not choose it by the same ones.
        """
        return [
            f"network.skip={NETWORKS[self.network]}",
            f"corruption.kind={self.corruption}",
            f"training.seed={self.seed}",
            "network.segmentation=false",
            "detection.strategy=auto",
            "calibration.residuals=[]",
        ]


def plan(networks: Sequence[str], corruptions: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """All cells, the seeds of one network and corruption together.

    Raises:
        AescError: an unknown network or corruption, one named twice, or none.
    """
    kinds = get_args(CorruptionKind)
    for what, names, known in (
        ("--network", networks, tuple(NETWORKS)),
        ("--corruption", corruptions, kinds),
        ("--seed", [str(seed) for seed in seeds], None),
    ):
        wrong = [name for name in names if known is not None and name not in known]
        if wrong or not names or len(set(names)) < len(names):
            found = f"unknown: {', '.join(wrong)}" if wrong else f"{', '.join(names) or 'nothing'}"
            allowed = f"{', '.join(known)}, each once" if known else "each once"
            raise AescError(what, found, allowed=allowed, usage=True)
    return [Cell(*cell) for cell in product(networks, corruptions, seeds)]


def rows_of(cell: Cell, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a strategy from a run's metrics.json: the three metrics over all defects with intervals, and n.

    `image_auroc` is by the image score of the parameters, `image_auroc_l2`, ... by each of them, without intervals.
    """
    rows = []
    for strategy in STRATEGIES:
        overall = metrics["strategies"][strategy][0]
        values = {f"{name}{end}": overall[f"{name}{end}"] for name in METRICS for end in ("", "_low", "_high")}
        rows.append(
            {
                "network": cell.network,
                "corruption": cell.corruption,
                "strategy": strategy,
                "seed": cell.seed,
                "chosen": metrics["strategy"] == strategy,
                **values,
                **{f"image_auroc_{score}": metrics["image_auroc_by_score"][strategy][score] for score in IMAGE_SCORES},
                "image_score": metrics["image_score"],
                "n_good": overall["n_good"],
                "n_defective": overall["n_defective"],
                "data_version": metrics["data_version"],
                "metric_version": metrics["metric_version"],
            }
        )
    return rows


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over the seeds of each network, corruption and strategy, in the order of the rows.

    An interval is the lowest and highest bound of the seeds' bootstrap intervals: it covers images and seeds.
    """
    keys = ["network", "corruption", "strategy"]
    grouped = rows.groupby(keys, sort=False)
    found = grouped.agg(
        seeds=("seed", "nunique"),
        **{name: (name, "mean") for name in METRICS},
        **{f"{name}_low": (f"{name}_low", "min") for name in METRICS},
        **{f"{name}_high": (f"{name}_high", "max") for name in METRICS},
    )
    return found.reset_index()


def to_markdown(table: pd.DataFrame) -> str:
    """The summary as a table for people: a metric's mean and interval a cell, the best of each column in bold."""
    best = {name: table[name].max() for name in METRICS}

    def cell(row: pd.Series[Any], name: str) -> str:
        if pd.isna(row[name]):
            return "not available"
        value = f"{row[name]:.3f}"
        value = f"**{value}**" if row[name] == best[name] else value
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        return value if pd.isna(low) else f"{value} ({low:.3f} to {high:.3f})"

    lines = [
        "| network | corruption | strategy | seeds | image AUROC | pixel AUROC | AUPRO |",
        "|---|---|---|---|---|---|---|",
    ]
    for _, row in table.iterrows():
        numbers = " | ".join(cell(row, name) for name in METRICS)
        lines.append(f"| {row['network']} | {row['corruption']} | {row['strategy']} | {row['seeds']} | {numbers} |")
    return "\n".join(lines) + "\n"
