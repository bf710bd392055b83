"""Stains on 16 RGB images of 256 x 256, one thread: aesc.corruption against polygons filled image by image."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from aesc.corruption import corrupt
from aesc.params_file import load_params
from benchmarks.reference.stain import draw_stain
from benchmarks.report import alternate, report

BATCH, ROUNDS, SIDES = 16, 25, (128, 512)
HARD, BLURRED = "ablation", "paper"  # presets, by the edge of their stains


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    seconds, ratios = {}, {}
    for preset in (HARD, BLURRED):
        seconds[preset], ratios[preset] = _compare(preset, side=256, inplace=True)
    copied, copied_ratio = _compare(HARD, side=256, inplace=False)
    more = {f"seconds_{side}": _compare(HARD, side=side, inplace=True)[0] for side in SIDES}
    report(
        "stain",
        value=BATCH / seconds[HARD],
        unit="images/s",
        ratio=ratios[HARD],
        n=ROUNDS,
        seconds=seconds[HARD],
        blurred_seconds=seconds[BLURRED],
        blurred_ratio=ratios[BLURRED],
        copied_seconds=copied,
        copied_ratio=copied_ratio,
        **more,
    )


def _compare(preset: str, *, side: int, inplace: bool) -> tuple[float, float]:
    """Seconds a batch, and how many times as fast as the reference."""
    params = load_params(Path(__file__).parents[1] / "params.yaml", preset=preset).corruption
    stream, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    images = torch.rand(BATCH, side, side, 3, generator=stream).permute(0, 3, 1, 2)
    plain = images.permute(0, 2, 3, 1).numpy().copy()
    ours, reference = alternate(
        lambda: corrupt(images, params=params, generator=stream, inplace=inplace),
        lambda: [draw_stain(image, params, rng) for image in plain],
        rounds=ROUNDS,
    )
    return ours, reference / ours


if __name__ == "__main__":
    main()
