"""From images to the maps and scores of all strategies, in one place for evaluation, calibration and prediction."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from aesc.detection import image_scores, mc_dropout_variance, smooth
from aesc.network import AESc
from aesc.normalisation import MapName, PlaceMaps, divisor, usual_logits
from aesc.params import IMAGE_SCORES, STRATEGIES, Detection, ResidualKind, Strategy
from aesc.pixels import Pixels
from aesc.residual import PARTS, Part, ResidualPath, feature_length, join, residual_parts, smoothed_logits
from aesc.segmentation import FLOOR, WEIGHT, LogitScale, above_usual, weighed
from aesc.whitening import Covariance, Matrix

INFERENCE_BATCH = 16
_LEAST_UNIT = 0.1  # of logits: a head that says the same everywhere must not make mountains of rounding
REFERENCE_IMAGES = 256  # whose maps are held at once: 64 MB of each kind at 256 x 256


class Scales(BaseModel):
    """What clean validation images typically show: in these units maps are added.

    residual and uncertainty: the median pixel of the two maps; parts: the mean pixel of each part of the residual,
    where there are several and no place maps; feature_length: of the encoder's vectors, 0 where they are not used;
    whitening: of the pixels' differences, empty where they are summed; segmentation: of the head's logits and what a
    mark counts for, None without a head.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    residual: float = Field(gt=0.0)
    uncertainty: float = Field(gt=0.0)
    parts: dict[Part, float] = {}
    feature_length: float = Field(default=0.0, ge=0.0)
    whitening: tuple[Matrix, ...] = ()
    segmentation: LogitScale | None = None


class Reference(NamedTuple):
    """What maps are measured against."""

    scales: Scales
    place_maps: PlaceMaps


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
        scales, place_maps: from `measure_reference`.
    """

    def __init__(
        self, network: AESc, *, detection: Detection, seed: int, scales: Scales, place_maps: PlaceMaps | None = None
    ) -> None:
        place_maps = place_maps or {}
        self.network = network
        units = {name: place_maps.get(name, scales.parts.get(name, 1.0)) for name in PARTS[detection.residual]}
        self.residual_path = ResidualPath(
            network,
            detection=detection,
            units=units,
            feature_length=scales.feature_length,
            whitening=scales.whitening,
            segmentation=scales.segmentation,
            usual_logits=place_maps.get("logits"),
        )
        self._detection = detection
        self._seed = seed
        self._scales = scales
        self._divisor = place_maps.get("uncertainty")

    @torch.inference_mode()
    def __call__(self, images: Tensor, *, strategies: Collection[Strategy] = STRATEGIES) -> Scored:
        """Score `images`, batch x channels x side x side in [0, 1] on the network's device, by `strategies`.

        The residual alone needs one pass through the network, the others `detection.passes` more.
        """
        reconstruction, residual = self.residual_path(images)
        maps: dict[Strategy, Tensor] = {"residual": residual}
        if not {"residual"}.issuperset(strategies):
            uncertainty = _uncertainty(self.network, images, detection=self._detection, seed=self._seed)
            maps["uncertainty"] = uncertainty if self._divisor is None else uncertainty / self._divisor
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


def measure_reference(network: AESc, clean: Pixels, *, detection: Detection, seed: int) -> Reference:
    """What `network` shows on clean images that calibration does not use; the first `REFERENCE_IMAGES` of them.

    A median of 0 (a network that is certain of half of all pixels) falls back on the mean, and on 1 if that is 0 too.
    """
    kind = detection.residual
    return measure_references(network, clean, kinds=(kind,), detection=detection, seed=seed)[kind]


@torch.inference_mode()
def measure_references(
    network: AESc, clean: Pixels, *, kinds: Sequence[ResidualKind], detection: Detection, seed: int
) -> dict[ResidualKind, Reference]:
    """As `measure_reference`, for several residuals in the place of its own; what they share is measured once."""
    names = tuple(dict.fromkeys(name for kind in kinds for name in PARTS[kind]))
    maps, logits, length, whitening = _clean_maps(network, clean, names, detection=detection, seed=seed)
    place_maps: dict[MapName, Tensor] = {}
    if detection.normalise:
        place_maps = {name: divisor(values) for name, values in maps.items()}
        maps = {name: values / place_maps[name] for name, values in maps.items()}
        if logits is not None:
            place_maps["logits"] = usual_logits(logits)
    above, scale = None, None
    if logits is not None:
        level = logits.mean()
        above = above_usual(logits, place_maps.get("logits", level))
        unit = max(_top(above, detection.top_fraction), _LEAST_UNIT)
        scale = LogitScale(level=level.item(), unit=unit, weight=WEIGHT)

    def reference(kind: ResidualKind) -> Reference:
        joined, marks = PARTS[kind], scale
        parts: dict[Part, float] = {}
        if not detection.normalise and len(joined) > 1:
            parts = {name: maps[name].mean().item() or 1.0 for name in joined}
        residuals = join([maps[name] / parts.get(name, 1.0) for name in joined])
        if marks is not None and above is not None:
            marks = marks.model_copy(update={"floor": FLOOR * _top(residuals, detection.top_fraction)})
            residuals = weighed(residuals, above, marks)
        scales = Scales(
            residual=_typical(residuals),
            uncertainty=_typical(maps["uncertainty"]),
            parts=parts,
            feature_length=length if "features" in joined else 0.0,
            whitening=whitening,
            segmentation=marks,
        )
        needed = {*joined, "uncertainty", "logits"}
        return Reference(scales, {name: found for name, found in place_maps.items() if name in needed})

    return {kind: reference(kind) for kind in kinds}


class _CleanMaps(NamedTuple):
    """Of clean images, images x side x side each: maps by name, the head's logits, and what the maps were made with."""

    maps: dict[MapName, Tensor]
    logits: Tensor | None
    feature_length: float
    whitening: tuple[Matrix, ...]


def _clean_maps(
    network: AESc, clean: Pixels, names: tuple[Part, ...], *, detection: Detection, seed: int
) -> _CleanMaps:
    def batches() -> Iterator[Tensor]:
        return clean.batches(INFERENCE_BATCH, most=REFERENCE_IMAGES)

    length = 0.0
    if "features" in names:
        length = torch.cat([feature_length(network, batch) for batch in batches()]).mean().item()
    whitening = _whitening(network, batches()) if detection.whiten else ()
    matrices = list(torch.tensor(whitening, device=next(network.parameters()).device))
    everything: tuple[MapName, ...] = (*names, "uncertainty")
    kept: dict[MapName, list[Tensor]] = {name: [] for name in everything}
    logits: list[Tensor] = []
    for batch in batches():
        reconstruction, found = residual_parts(
            network, batch, names, smoothing=detection.smoothing, feature_length=length, whitening=matrices
        )
        for name, values in found.items():
            kept[name].append(values)
        if network.segmentation is not None:
            logits.append(smoothed_logits(network.segmentation, batch, reconstruction, smoothing=detection.smoothing))
        kept["uncertainty"].append(_uncertainty(network, batch, detection=detection, seed=seed))
    maps = {name: torch.cat(values) for name, values in kept.items()}
    return _CleanMaps(maps, torch.cat(logits) if logits else None, length, whitening)


def _whitening(network: AESc, batches: Iterator[Tensor]) -> tuple[Matrix, ...]:
    covariance = Covariance()
    for batch in batches:
        covariance.add(batch - network(batch))
    return covariance.whitening()


def _top(maps: Tensor, fraction: float) -> float:
    """How high clean images' maps (images x side x side) are where they are highest, in the mean."""
    return image_scores(maps, "top", top_fraction=fraction).mean().item()


def _uncertainty(network: AESc, images: Tensor, *, detection: Detection, seed: int) -> Tensor:
    return smooth(mc_dropout_variance(network, images, passes=detection.passes, seed=seed), detection.smoothing)


def _typical(maps: Tensor) -> float:
    return maps.median().item() or maps.mean().item() or 1.0
