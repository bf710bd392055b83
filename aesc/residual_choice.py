"""What the residual is made of, chosen for each product by corruptions that training did not use.

Features and structure find what hardly differs pixel by pixel. On a texture that is nowhere alike both are restless on
clean images too, and pixels alone find more. Which it is shows on calibration images with held-out corruptions, before
the strategy is chosen by the same images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from aesc.calibration import ResidualChoice
from aesc.choice import choose
from aesc.evaluation import held_out_kinds, job_images
from aesc.network import AESc
from aesc.params import LocalKind, Params, ResidualKind, Strategy
from aesc.pixels import Pixels
from aesc.scoring import Reference, Scorer, measure_reference
from aesc.separation import Separation, error_of_difference, separation

_ALONE: tuple[Strategy, ...] = ("residual",)


class ChosenResidual(NamedTuple):
    """The choice, None where there was none, and what maps are measured against with it."""

    choice: ResidualChoice | None
    reference: Reference


def choose_residual(network: AESc, *, validation: Pixels, calibration: Pixels, params: Params) -> ChosenResidual:
    """Choose between `detection.residual` and `calibration.residuals`; the former wins ties (`aesc.choice.choose`).

    Args:
        network: trained, in evaluation mode.
        validation: clean images, whose maps are the units.
        calibration: clean images, in the manifest's order.
        params: detection, calibration, corruption and seed are used.

    Raises:
        AescError: scores that are not finite.
    """
    kinds: Sequence[ResidualKind] = tuple(dict.fromkeys((params.detection.residual, *params.calibration.residuals)))
    seed = params.training.seed
    references: dict[ResidualKind, Reference] = {}
    found: dict[ResidualKind, Separation] = {}
    for kind in kinds:
        detection = params.detection.model_copy(update={"residual": kind})
        references[kind] = reference = measure_reference(network, validation, detection=detection, seed=seed)
        if len(kinds) == 1:
            return ChosenResidual(None, reference)
        scorer = Scorer(network, detection=detection, seed=seed, scales=reference.scales, divisors=reference.divisors)
        found[kind] = _separation(scorer, calibration, params)
    choice = choose(
        "residual",
        {kind: separated.auroc for kind, separated in found.items()},
        preference=kinds,
        tie=params.calibration.tie,
        error=lambda one, other: error_of_difference(found[one], found[other]),
    )
    return ChosenResidual(
        ResidualChoice(residual=choice.chosen, means=choice.means, evidence=choice.evidence, reason=choice.reason),
        references[choice.chosen],
    )


def _separation(scorer: Scorer, calibration: Pixels, params: Params) -> Separation:
    """The image score's, with the corruptions that choose the strategy (`aesc.evaluation.plan_jobs`)."""
    column = f"residual_{params.detection.image_score}"

    def scores(number: int, corruption: LocalKind | None) -> npt.NDArray[np.float64]:
        batches = job_images(calibration, number, corruption, params)
        found = [scorer(batch.images, strategies=_ALONE).scores[column] for batch in batches]
        return torch.cat(found).cpu().double().numpy()

    kinds = held_out_kinds(params)
    return separation(scores(0, None), {kind: scores(number, kind) for number, kind in enumerate(kinds, start=1)})
