"""One training step at 256 x 256 RGB, batch 16: the project's network and precision against the plain network."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from aesc.device import autocast
from aesc.network import build_network
from benchmarks.reference.network import PlainAESc, copy_weights
from benchmarks.report import alternate, report

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
    report("train_step", value=BATCH / mine, unit="images/s", ratio=theirs / mine, n=ROUNDS)


if __name__ == "__main__":
    main()
