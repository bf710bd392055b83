"""The same network with every upsampling convolution written down plainly: upsample, then a 5x5 convolution."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

MAPS = (16, 32, 64, 128, 256, 512)


class PlainAESc(nn.Module):
    """AESc for 256 x 256 images, batch x channels x 256 x 256 to the same."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.01))
            for i, o in pairwise((channels, *MAPS))
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(
                nn.Upsample(scale_factor=2, mode="nearest"),
                nn.Conv2d(i, o, 5, padding=2, bias=False),
                nn.BatchNorm2d(o),
                nn.LeakyReLU(0.01),
            )
            for i, o in pairwise(reversed(MAPS))
        )
        self.head = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(MAPS[0], channels, 5, padding=2), nn.Sigmoid()
        )

    def forward(self, images: Tensor) -> Tensor:
        x, levels = images, []
        for down in self.encoder:
            x = down(x)
            levels.append(x)
        for up, skipped in zip(self.decoder, reversed(levels[:-1]), strict=True):
            x = up(x) + skipped
        return self.head(x)


def copy_weights(plain: PlainAESc, weights: dict[str, Tensor]) -> None:
    """Give `plain` the weights of an `aesc.network.AESc` (its state dict)."""
    target = plain.state_dict()
    for name in target:
        part, index, *rest = name.split(".")
        if part == "encoder":
            source = f"encoder.{index}.{'conv' if rest[0] == '0' else 'norm'}.{rest[1]}"
        elif part == "decoder":
            source = f"decoder.{index}.weight" if rest[0] == "1" else f"decoder.{index}.norm.{rest[1]}"
        else:
            source = f"head.{rest[0]}"
        target[name] = weights[source]
    plain.load_state_dict({name: torch.as_tensor(tensor) for name, tensor in target.items()})
