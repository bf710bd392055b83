"""What the residual is made of, chosen for each product by corruptions that training did not use.

Features and structure find what hardly differs pixel by pixel. On a texture that is nowhere alike both are restless on
clean images too, and pixels alone find more. Which it is shows on validation images with held-out corruptions.
Calibration images are not looked at, so the choice costs the promise nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from aesc.choice import ResidualChoice, choose
from aesc.evaluation import held_out_kinds, job_images
from aesc.network import AESc
from aesc.params import LocalKind, Params, Strategy
from aesc.pixels import Pixels
from aesc.scoring import Reference, Scorer, measure_references
from aesc.separation import Separation, error_of_difference, separation

_ALONE: tuple[Strategy, ...] = ("residual",)


class ChosenResidual(NamedTuple):
    """The choice, None where there was none, and what maps are measured against with it."""

    choice: ResidualChoice | None
    reference: Reference


def choose_residual(network: AESc, validation: Pixels, *, params: Params) -> ChosenResidual:
    """Choose between `detection.residual`, which wins ties, and `calibration.residuals` (`aesc.choice.choose`).

    It is the residual's own image score that counts, whatever the strategy will be.

    Args:
        network: trained, in evaluation mode.
        validation: clean images, whose maps are the units too.
        params: detection, calibration, corruption and seed are used.

    Raises:
        AescError: scores that are not finite.
    """
    kinds = tuple(dict.fromkeys((params.detection.residual, *params.calibration.residuals)))
    seed = params.training.seed
    references = measure_references(network, validation, kinds=kinds, detection=params.detection, seed=seed)
    if len(kinds) == 1:
        return ChosenResidual(None, references[kinds[0]])
    found = {}
    for kind, (scales, place_maps) in references.items():
        detection = params.detection.model_copy(update={"residual": kind})
        scorer = Scorer(network, detection=detection, seed=seed, scales=scales, place_maps=place_maps)
        found[kind] = _separation(scorer, validation, params)
    chosen = choose(
        "residual",
        {kind: separated.auroc for kind, separated in found.items()},
        preference=kinds,
        tie=params.calibration.tie,
        error=lambda one, other: error_of_difference(found[one], found[other]),
    )
    choice = ResidualChoice(residual=chosen.chosen, means=chosen.means, evidence=chosen.evidence, reason=chosen.reason)
    return ChosenResidual(choice, references[choice.residual])


def _separation(scorer: Scorer, clean: Pixels, params: Params) -> Separation:
    column = f"residual_{params.detection.image_score}"

    def scores(number: int, corruption: LocalKind | None) -> npt.NDArray[np.float64]:
        batches = job_images(clean, number, corruption, params)
        found = [scorer(batch.images, strategies=_ALONE).scores[column] for batch in batches]
        return torch.cat(found).cpu().double().numpy()

    kinds = held_out_kinds(params)
    return separation(scores(0, None), {kind: scores(number, kind) for number, kind in enumerate(kinds, start=1)})
