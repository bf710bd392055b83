"""Pixel AUROC of 83 maps of 256 x 256, exact, against scikit-learn on all pixels; average precision comes with it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from aesc.pixel_metrics import pixel_metrics
from benchmarks.anomaly_maps import made_up_maps
from benchmarks.reference.pixel_metrics import library_auroc
from benchmarks.report import alternate, peak_megabytes, report

ROUNDS = 5


def main() -> None:
    """Measure and print."""
    maps, masks = made_up_maps()
    before = peak_megabytes()
    found = pixel_metrics(maps, masks)
    grown = peak_megabytes() - before
    ours, reference = alternate(lambda: pixel_metrics(maps, masks), lambda: library_auroc(maps, masks), rounds=ROUNDS)
    report(
        "pixel_auroc",
        value=ours,
        unit="s",
        ratio=reference / ours,
        n=ROUNDS,
        maps=len(maps),
        reference_seconds=reference,
        difference=abs((found.auroc or 0.0) - library_auroc(maps, masks)),
        megabytes_of_maps=maps.nbytes / 2**20,
        megabytes_beyond=grown,
    )


if __name__ == "__main__":
    main()
