"""One training step at 256 x 256 RGB, batch 16: the project's network and precision against the plain network.

Beside it, without a reference: whole steps of the presets, with what they corrupt, drop and weigh.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from aesc.device import autocast
from aesc.network import build_network, network_for
from aesc.params_file import load_params
from aesc.pixels import Pixels
from aesc.training_step import TrainingStep
from benchmarks.reference.network import PlainAESc, copy_weights
from benchmarks.report import alternate, report, timed

BATCH, ROUNDS = 16, 5


def main() -> None:
    """Measure and print."""
    stream = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, 3, 256, 256, generator=stream)
    fast_images = images.to(memory_format=torch.channels_last)
    fast = build_network(image_size=256, channels=3, skip="add", dropout=(0.0,), generator=stream)
    plain = PlainAESc()
    copy_weights(plain, fast.state_dict())
    fast_optimiser = torch.optim.Adam(fast.parameters(), lr=1e-3, fused=True)
    plain_optimiser = torch.optim.Adam(plain.parameters(), lr=1e-3)

    def ours() -> None:
        fast_optimiser.zero_grad(set_to_none=True)
        with autocast(torch.device("cpu"), "auto"):
            output = fast(fast_images)
        F.mse_loss(output, fast_images).backward()
        fast_optimiser.step()

    def reference() -> None:
        plain_optimiser.zero_grad()
        F.mse_loss(plain(images), images).backward()
        plain_optimiser.step()

    mine, theirs = alternate(ours, reference, rounds=ROUNDS)
    whole = {f"{preset}_images_per_second": BATCH / _whole_step(preset, side=256) for preset in ("paper", "best")}
    sides = {f"best_seconds_side_{side}": _whole_step("best", side=side) for side in (128, 512)}
    report("train_step", value=BATCH / mine, unit="images/s", ratio=theirs / mine, n=ROUNDS, **whole, **sides)


def _whole_step(preset: str, *, side: int) -> float:
    """Seconds of a step of `aesc.training_step`, gathering the batch included."""
    size = f"data.image_size={side}"
    params = load_params(Path(__file__).parents[1] / "params.yaml", preset=preset, overrides=[size])
    cpu, stream = torch.device("cpu"), torch.Generator().manual_seed(0)
    store = torch.randint(256, (BATCH, side, side, 3), generator=stream, dtype=torch.uint8).numpy()
    images, indices = Pixels(store, np.arange(BATCH), cpu), torch.arange(BATCH)
    network = network_for(params, channels=3, generator=stream)
    step = TrainingStep(network, params=params, device=cpu)
    step.begin_epoch(0)
    step(images, indices)
    return min(timed(lambda: step(images, indices)) for _ in range(ROUNDS))


if __name__ == "__main__":
    main()
