"""Whether the promise holds: false alarms over many random splits of the clean images of one run.

    python benchmarks/promise.py .aesc/runs/bottle/<run> --out promise.png

The clean calibration and test images are one pool. It is shared out at random again and again; each time the threshold
comes from the calibration part and the alarms from the rest. Prints one JSON line an alpha and draws the counts of
alarms against the distribution that conformal theory gives for them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.ticker import MaxNLocator
from scipy.stats import betabinom

sys.path.insert(0, str(Path(__file__).parents[1]))

from aesc.calibration import conformal_threshold, percent, percent_promised
from aesc.canvas import INK, SKY, drawing
from aesc.operating_point import OperatingPoint

ALPHAS = (0.01, 0.05, 0.1)


@dataclass(frozen=True)
class Held:
    """False alarms over `splits` splits into n calibration and m test images, and what was promised."""

    alpha: float
    attained: float
    n: int
    m: int
    k: int
    splits: int
    rate: float
    standard_error: float
    counts: list[int]

    def expected(self) -> npt.NDArray[np.float64]:
        """Probability of 0, 1, ..., m alarms for scores without ties: m + 1."""
        found: npt.NDArray[np.float64] = betabinom.pmf(np.arange(self.m + 1), self.m, self.n + 1 - self.k, self.k)
        return found


def random_splits(pool: npt.NDArray[np.float64], *, n: int, alpha: float, splits: int, seed: int) -> Held:
    """Share `pool` (clean images' scores) out into n for the threshold and the rest for alarms, `splits` times."""
    rng = np.random.default_rng(seed)
    alarms = np.empty(splits, dtype=np.int64)
    for split in range(splits):
        shuffled = rng.permutation(pool)
        promise = conformal_threshold(shuffled[:n], alpha=alpha, on_shortage="attain")
        alarms[split] = (shuffled[n:] > promise.threshold).sum()
    m = len(pool) - n
    return Held(
        alpha=alpha,
        attained=promise.attained,
        n=n,
        m=m,
        k=promise.k,
        splits=splits,
        rate=float(alarms.mean() / m),
        standard_error=float(alarms.std(ddof=1) / m / splits**0.5),
        counts=np.bincount(alarms, minlength=m + 1).tolist(),
    )


def draw(found: list[Held], path: Path, *, caption: str) -> None:
    """Counts of alarms as bars, what theory gives as points, one panel an alpha."""
    with drawing(path, height=3.2, caption=caption) as figure:
        for axes, held in zip(np.atleast_1d(figure.subplots(1, len(found))), found, strict=True):
            last = 1 + max(int(np.flatnonzero(held.counts).max()), int((held.expected() > 0.001).nonzero()[0].max()))
            alarms = range(last + 1)
            axes.bar(alarms, np.array(held.counts[: last + 1]) / held.splits, color=SKY, label="splits")
            axes.plot(alarms, held.expected()[: last + 1], "o", color=INK, markersize=4, label="theory")
            axes.set_title(f"promised {percent_promised(held.attained)}\nfound {100 * held.rate:.1f} %")
            axes.set_xlabel(f"alarms among {held.m} (alpha {percent(held.alpha)})")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        figure.axes[0].set_ylabel("share of splits")
        figure.axes[0].legend()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("promise.png"))
    parser.add_argument("--splits", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args(arguments)
    point = OperatingPoint.load(asked.run / "detector")
    scores = pd.read_parquet(asked.run / "evaluation" / "scores.parquet")
    clean = scores[
        (scores["label"] == 0) & (scores["corruption"] == "") & scores["split"].isin(["calibration", "test"])
    ]
    column = f"{point.strategy}_{point.detection.image_score}"
    n = int((clean["split"] == "calibration").sum())
    pool = clean[column].to_numpy(dtype=np.float64)
    found = [random_splits(pool, n=n, alpha=alpha, splits=asked.splits, seed=asked.seed) for alpha in ALPHAS]
    for held in found:
        line = {key: value for key, value in asdict(held).items() if key != "counts"}
        print(json.dumps({"name": "promise", "category": point.category, "strategy": point.strategy, **line}))
    said = (
        f"{point.category}, {point.strategy} by {point.detection.image_score}: {asked.splits} random splits of "
        f"{len(pool)} clean images, {n} for the threshold and {len(pool) - n} to be judged; theory: beta-binomial; "
        f"seed {asked.seed}, data version {point.data_version[:12]}"
    )
    draw(found, asked.out, caption=said)


if __name__ == "__main__":
    main()
