"""From images to the maps and scores of all strategies, in one place for evaluation, calibration and prediction."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from aesc.detection import image_scores, mc_dropout_variance, smooth
from aesc.network import AESc
from aesc.params import IMAGE_SCORES, STRATEGIES, Detection, Strategy
from aesc.pixels import Pixels

INFERENCE_BATCH = 16


class Scales(BaseModel):
    """Median residual and uncertainty of a pixel on clean validation images; they make the two maps addable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    residual: float = Field(gt=0.0)
    uncertainty: float = Field(gt=0.0)


class ResidualPath(nn.Module):
    """Everything that is deterministic, from an image to its residual map; evaluation, serving and ONNX all use it.

    Args:
        network: trained, in evaluation mode.
        smoothing: sigma of the Gaussian on the map, pixels.
    """

    def __init__(self, network: AESc, *, smoothing: float) -> None:
        super().__init__()
        self.network = network
        self._smoothing = smoothing

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and residual map (batch x side x side) of batch x channels x side x side in [0, 1]."""
        reconstruction = self.network(images)
        return reconstruction, smooth((images - reconstruction).abs().sum(dim=1), self._smoothing)


class Scored(NamedTuple):
    """What a batch of images gets.

    reconstruction: batch x channels x side x side. maps: strategy to batch x side x side. scores: column name
    (`residual_l2`, ...; `residual_peak` is the map's maximum, for the pixel threshold) to one value an image.
    """

    reconstruction: Tensor
    maps: Mapping[Strategy, Tensor]
    scores: Mapping[str, Tensor]


class Scorer:
    """Scores images with one network.

    Args:
        network: trained, in evaluation mode.
        detection: passes, smoothing and top fraction are used.
        seed: of the dropout masks.
        scales: from `measure_scales`.
    """

    def __init__(self, network: AESc, *, detection: Detection, seed: int, scales: Scales) -> None:
        self.network = network
        self.residual_path = ResidualPath(network, smoothing=detection.smoothing)
        self._detection = detection
        self._seed = seed
        self._scales = scales

    @torch.inference_mode()
    def __call__(self, images: Tensor, *, strategies: Collection[Strategy] = STRATEGIES) -> Scored:
        """Score `images`, batch x channels x side x side in [0, 1] on the network's device, by `strategies`.

        The residual alone needs one pass through the network, the others `detection.passes` more.
        """
        reconstruction, residual = self.residual_path(images)
        maps: dict[Strategy, Tensor] = {"residual": residual}
        if not {"residual"}.issuperset(strategies):
            maps["uncertainty"] = _uncertainty(self.network, images, detection=self._detection, seed=self._seed)
            maps["combined"] = residual / self._scales.residual + maps["uncertainty"] / self._scales.uncertainty
        maps = {strategy: maps[strategy] for strategy in STRATEGIES if strategy in strategies}
        scores: dict[str, Tensor] = {}
        for strategy, values in maps.items():
            scores |= score_columns(strategy, values, top_fraction=self._detection.top_fraction)
        return Scored(reconstruction, maps, scores)


def score_columns(strategy: Strategy, maps: Tensor, *, top_fraction: float) -> dict[str, Tensor]:
    """Every image score of one strategy's maps (batch x side x side) by column name, and the maps' maximum."""
    found = {f"{strategy}_{kind}": image_scores(maps, kind, top_fraction=top_fraction) for kind in IMAGE_SCORES}
    return {**found, f"{strategy}_peak": maps.flatten(1).amax(dim=1)}


@torch.inference_mode()
def measure_scales(network: AESc, clean: Pixels, *, detection: Detection, seed: int) -> Scales:
    """The scales of `network` on clean images that calibration does not use.

    A median of 0 (a network that is certain of half of all pixels) falls back on the mean, and on 1 if that is 0 too.
    """
    path = ResidualPath(network, smoothing=detection.smoothing)
    maps = [
        (path(batch)[1], _uncertainty(network, batch, detection=detection, seed=seed))
        for batch in clean.batches(INFERENCE_BATCH)
    ]
    residuals, uncertainties = (torch.cat(kind) for kind in zip(*maps, strict=True))
    return Scales(residual=_typical(residuals), uncertainty=_typical(uncertainties))


def _uncertainty(network: AESc, images: Tensor, *, detection: Detection, seed: int) -> Tensor:
    return smooth(mc_dropout_variance(network, images, passes=detection.passes, seed=seed), detection.smoothing)


def _typical(maps: Tensor) -> float:
    return maps.median().item() or maps.mean().item() or 1.0
