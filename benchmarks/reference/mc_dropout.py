"""MC-Dropout written down plainly: the plain network with dropout layers, one pass after the other, all kept."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.reference.network import PlainAESc


def plain_pass(network: PlainAESc, images: Tensor, rates: tuple[float, ...], stream: torch.Generator) -> Tensor:
    """One reconstruction with dropout on, one mask a layer for the whole batch."""

    def dropout(x: Tensor, rate: float) -> Tensor:
        if rate == 0.0:
            return x
        _, maps, height, width = x.shape
        # The maps last, as the project draws them: the same seed must give the same masks.
        keep = torch.rand(1, height, width, maps, generator=stream, device=stream.device).permute(0, 3, 1, 2) >= rate
        return x * keep / (1.0 - rate)

    x, levels = images, []
    for down, rate in zip(network.encoder, rates, strict=True):
        x = dropout(down(x), rate)
        levels.append(x)
    for up, skipped, rate in zip(network.decoder, reversed(levels[:-1]), reversed(rates[:-1]), strict=True):
        x = dropout(up(x), rate) + skipped
    output: Tensor = network.head(x)
    return output


@torch.no_grad()
def plain_variance(
    network: PlainAESc, images: Tensor, rates: tuple[float, ...], *, passes: int, stream: torch.Generator
) -> Tensor:
    """Variance over the passes, averaged over channels: batch x side x side."""
    outputs = [plain_pass(network, images, rates, stream) for _ in range(passes)]
    return torch.stack(outputs).var(dim=0).mean(dim=1)
