"""AUPRO of 83 maps of 256 x 256, exact, against a loop over thresholds with connected components."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from aesc.pixel_metrics import pixel_metrics
from benchmarks.anomaly_maps import made_up_maps
from benchmarks.reference.pixel_metrics import loop_aupro
from benchmarks.report import alternate, report, timed

ROUNDS, THRESHOLDS, LIMIT = 2, 200, 0.3


def main() -> None:
    """Measure and print; the loop takes 200 thresholds, as is usual, where an exact one would take millions."""
    maps, masks = made_up_maps()
    # From the highest score down to the limit of the false positive rate.
    shares = np.linspace(1.0 - LIMIT, 1.0, THRESHOLDS)
    thresholds = np.quantile(maps[~masks], shares).astype(np.float32)
    ours, reference = alternate(
        lambda: pixel_metrics(maps, masks, limit=LIMIT),
        lambda: loop_aupro(maps, masks, thresholds=thresholds, limit=LIMIT),
        rounds=ROUNDS,
    )
    exact = pixel_metrics(maps, masks, limit=LIMIT).aupro
    many = {f"seconds_{count}": _seconds(images=count, side=256) for count in (166, 332)}
    large = {f"seconds_side_{side}": _seconds(images=83, side=side) for side in (128, 512)}
    report(
        "aupro",
        value=ours,
        unit="s",
        ratio=reference / ours,
        n=ROUNDS,
        maps=len(maps),
        reference_seconds=reference,
        reference_thresholds=THRESHOLDS,
        reference_error=abs(loop_aupro(maps, masks, thresholds=thresholds, limit=LIMIT) - (exact or 0.0)),
        **many,
        **large,
    )


def _seconds(*, images: int, side: int) -> float:
    maps, masks = made_up_maps(images=images, side=side)
    return min(timed(lambda: pixel_metrics(maps, masks, limit=LIMIT)) for _ in range(3))


if __name__ == "__main__":
    main()
