"""From images to the maps and scores of all strategies, in one place for evaluation, calibration and prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from aesc.detection import anomaly_maps, image_scores
from aesc.network import AESc
from aesc.params import IMAGE_SCORES, Detection, Strategy
from aesc.pixels import Pixels

INFERENCE_BATCH = 16


class Scales(BaseModel):
    """Median residual and uncertainty of a pixel on clean validation images; they make the two maps addable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    residual: float = Field(gt=0.0)
    uncertainty: float = Field(gt=0.0)


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
        self._detection = detection
        self._seed = seed
        self._scales = scales

    def __call__(self, images: Tensor) -> Scored:
        """Score `images`, batch x channels x side x side in [0, 1] on the network's device."""
        settings = self._detection
        found = anomaly_maps(
            self.network, images, passes=settings.passes, seed=self._seed, smoothing=settings.smoothing
        )
        maps: dict[Strategy, Tensor] = {
            "residual": found.residual,
            "uncertainty": found.uncertainty,
            "combined": found.residual / self._scales.residual + found.uncertainty / self._scales.uncertainty,
        }
        scores = {}
        for strategy, values in maps.items():
            for kind in IMAGE_SCORES:
                scores[f"{strategy}_{kind}"] = image_scores(values, kind, top_fraction=settings.top_fraction)
            scores[f"{strategy}_peak"] = values.flatten(1).amax(dim=1)
        return Scored(found.reconstruction, maps, scores)


def measure_scales(network: AESc, clean: Pixels, *, detection: Detection, seed: int) -> Scales:
    """The scales of `network` on clean images that calibration does not use.

    A median of 0 (a network that is certain of half of all pixels) falls back on the mean, and on 1 if that is 0 too.
    """
    maps = [
        anomaly_maps(network, batch, passes=detection.passes, seed=seed, smoothing=detection.smoothing)
        for batch in clean.batches(INFERENCE_BATCH)
    ]
    return Scales(
        residual=_typical(torch.cat([batch.residual for batch in maps])),
        uncertainty=_typical(torch.cat([batch.uncertainty for batch in maps])),
    )


def _typical(maps: Tensor) -> float:
    return maps.median().item() or maps.mean().item() or 1.0
