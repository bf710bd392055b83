"""The deterministic part of detection: from an image to its reconstruction and its residual map.

The residual of the paper is |input - reconstruction| summed over channels. Where a product's own texture is hard to
give back, that is mostly texture; so the two can also be compared as the network's own encoder sees them, in the maps
of its second and third level, which is where a pixel's surroundings count and its noise does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aesc.detection import smooth
from aesc.network import AESc
from aesc.params import Detection, ResidualKind

Part = Literal["pixels", "features_2", "features_3"]
PARTS: dict[ResidualKind, tuple[Part, ...]] = {
    "pixels": ("pixels",),
    "features": ("features_2", "features_3"),
    "both": ("pixels", "features_2", "features_3"),
}
_LEVELS: dict[Part, int] = {"features_2": 1, "features_3": 2}


class ResidualPath(nn.Module):
    """Everything that is deterministic, from an image to its residual map; evaluation, serving and ONNX all use it.

    Args:
        network: trained, in evaluation mode.
        detection: residual and smoothing are used.
        parts: what each part of the residual typically is on clean images: they are added in these units. Not used for
            a residual of one part.
        divisor: side x side, what the residual map is divided by; None for 1.
    """

    _divisor: Tensor | None

    def __init__(
        self, network: AESc, *, detection: Detection, parts: Mapping[Part, float], divisor: Tensor | None
    ) -> None:
        super().__init__()
        self.network = network
        self._smoothing = detection.smoothing
        self._names = PARTS[detection.residual]
        self._units = {name: parts[name] for name in self._names} if len(self._names) > 1 else {self._names[0]: 1.0}
        self.register_buffer("_divisor", divisor, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and residual map (batch x side x side) of batch x channels x side x side in [0, 1]."""
        reconstruction, found = residual_parts(self.network, images, self._names)
        total = torch.zeros_like(found[self._names[0]])
        for name, values in found.items():
            total = total + values / self._units[name]
        residual = smooth(total, self._smoothing)
        return reconstruction, residual if self._divisor is None else residual / self._divisor


def residual_parts(network: AESc, images: Tensor, names: tuple[Part, ...]) -> tuple[Tensor, dict[Part, Tensor]]:
    """The reconstruction of `images`, and each part's map, batch x side x side.

    Pixels: the absolute difference, summed over channels. Features: the root mean square difference over an encoder
    level's maps, interpolated to the image's size.
    """
    seen = network.encode(images)
    reconstruction = network.decode(seen)
    found: dict[Part, Tensor] = {}
    if "pixels" in names:
        found["pixels"] = (images - reconstruction).abs().sum(dim=1)
    levels = {_LEVELS[name]: name for name in names if name in _LEVELS}
    there = reconstruction
    for level, (here, down) in enumerate(zip(seen, network.encoder, strict=True)):
        if not levels or level > max(levels):
            break
        there = down(there)
        if level in levels:
            difference = (here - there).square().mean(dim=1, keepdim=True).sqrt()
            size = images.shape[-2:]
            found[levels[level]] = F.interpolate(difference, size=size, mode="bilinear", align_corners=False)[:, 0]
    return reconstruction, found
