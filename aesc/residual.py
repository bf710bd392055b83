"""The deterministic part of detection: from an image to its reconstruction and its residual map.

The residual of the paper is |input - reconstruction| summed over channels. Where a product's own texture is hard to
give back, that is mostly texture; where a defect is faint but large, its pixels hardly differ. So the two can also be
compared as the network's own encoder sees them, in the maps of its third level, where a pixel's surroundings count and
its noise does not, and by how alike they vary in small windows (aesc/structural_similarity.py). A defect has to show in
one of these, not in all: they are joined by a power mean that is close to the largest one.

In place of the sum, pixels can be measured in how clean images' differences vary (aesc/whitening.py), and where the
network has a head that marks corruptions (aesc/segmentation.py), the residual counts for more at what it marks, even
where next to nothing differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from aesc.detection import enlarge, smooth
from aesc.network import AESc
from aesc.params import Detection, ResidualKind
from aesc.segmentation import LogitScale, SegmentationHead, above_usual, weighed
from aesc.structural_similarity import structural_dissimilarity
from aesc.whitening import Matrix, whitened_squares

Part = Literal["pixels", "features", "structure"]
PARTS: dict[ResidualKind, tuple[Part, ...]] = {
    "pixels": ("pixels",),
    "features": ("features",),
    "both": ("pixels", "features"),
    "all": ("pixels", "features", "structure"),  # of what operating points name so; a fourth part needs another name
}
FEATURE_LEVEL = 2  # of the encoder, from 0: maps of an eighth of the image's side
_FLOOR = 0.3  # of the typical length of a feature vector: below it a direction says little


class ResidualPath(nn.Module):
    """Everything that is deterministic, from an image to its residual map; evaluation, serving and ONNX all use it.

    Args:
        network: trained, in evaluation mode.
        detection: residual and smoothing are used.
        units: what each part of the residual is divided by: a number, or side x side.
        feature_length: of a feature vector on clean images; 0 where features are not used.
        whitening: of the pixels' differences; empty where their absolute values are summed.
        segmentation: of the head's logits; None where there is no head.
        usual_logits: what is usual at each place, side x side; None where it is `segmentation.level` everywhere.
    """

    _whitening: Tensor
    _usual_logits: Tensor

    def __init__(
        self,
        network: AESc,
        *,
        detection: Detection,
        units: Mapping[Part, Tensor | float],
        feature_length: float,
        whitening: Sequence[Matrix] = (),
        segmentation: LogitScale | None = None,
        usual_logits: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self._smoothing = detection.smoothing
        self._names = PARTS[detection.residual]
        self._feature_length = feature_length
        self._logit_scale = segmentation
        device = next(network.parameters()).device
        for name in self._names:
            unit = torch.as_tensor(units[name], dtype=torch.float32, device=device)
            self.register_buffer(f"_unit_of_{name}", unit, persistent=False)
        level = 0.0 if segmentation is None else segmentation.level
        usual = torch.as_tensor(level if usual_logits is None else usual_logits, dtype=torch.float32, device=device)
        self.register_buffer("_usual_logits", usual, persistent=False)
        self.register_buffer("_whitening", torch.tensor(whitening, device=device), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and residual map (batch x side x side) of batch x channels x side x side in [0, 1]."""
        reconstruction, found = residual_parts(
            self.network,
            images,
            self._names,
            smoothing=self._smoothing,
            feature_length=self._feature_length,
            whitening=list(self._whitening),
        )
        residual = join([found[name] / getattr(self, f"_unit_of_{name}") for name in self._names])
        if self.network.segmentation is not None and self._logit_scale is not None:
            logits = smoothed_logits(self.network.segmentation, images, reconstruction, smoothing=self._smoothing)
            residual = weighed(residual, above_usual(logits, self._usual_logits), self._logit_scale)
        return reconstruction, residual


def residual_parts(
    network: AESc,
    images: Tensor,
    names: tuple[Part, ...],
    *,
    smoothing: float,
    feature_length: float,
    whitening: Sequence[Tensor] = (),
) -> tuple[Tensor, dict[Part, Tensor]]:
    """The reconstruction of `images`, and each part's smoothed map, batch x side x side.

    Pixels: the absolute difference, summed over channels, or its whitened length. Features: how far the encoder's
    vectors of input and reconstruction, each shortened to a length of less than 1, lie apart, interpolated to the
    image's size. Structure: how differently the two vary around each pixel.
    """
    seen = network.encode(images)
    reconstruction = network.decode(seen)
    found: dict[Part, Tensor] = {}
    if "pixels" in names:
        differences = images - reconstruction
        if whitening:
            found["pixels"] = smooth(whitened_squares(differences, whitening), smoothing).sqrt()
        else:
            found["pixels"] = smooth(differences.abs().sum(dim=1), smoothing)
    if "features" in names:
        given_back = reconstruction
        for down in network.encoder[: FEATURE_LEVEL + 1]:
            given_back = down(given_back)
        apart = _directions(seen[FEATURE_LEVEL], feature_length) - _directions(given_back, feature_length)
        distance = apart.square().sum(dim=1, keepdim=True).sqrt()
        found["features"] = smooth(enlarge(distance, images.shape[-1])[:, 0], smoothing)
    if "structure" in names:
        found["structure"] = smooth(structural_dissimilarity(images, reconstruction), smoothing)
    return reconstruction, found


def smoothed_logits(head: SegmentationHead, images: Tensor, reconstruction: Tensor, *, smoothing: float) -> Tensor:
    """What the head marks: batch x side x side."""
    return smooth(head(images, reconstruction), smoothing)


def feature_length(network: AESc, images: Tensor) -> Tensor:
    """The mean length of the encoder's vectors on each image: batch."""
    return _length(network.encode(images)[FEATURE_LEVEL]).mean(dim=(1, 2, 3))


def join(maps: Sequence[Tensor]) -> Tensor:
    """The maps' power mean of exponent 4; one alone stays as it is."""
    if len(maps) == 1:
        return maps[0]
    return torch.stack([one.square().square() for one in maps]).mean(dim=0).sqrt().sqrt()


def _directions(maps: Tensor, typical: float) -> Tensor:
    """Each place's vector without most of its length; where there is little of anything it stays short."""
    return maps / (_length(maps) + _FLOOR * typical)


def _length(maps: Tensor) -> Tensor:
    return maps.square().sum(dim=1, keepdim=True).sqrt()
