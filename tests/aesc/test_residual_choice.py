"""The residual is chosen by the images that choose the strategy, and an operating point keeps the choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

from aesc.calibration import detection_with
from aesc.evaluation import evaluate
from aesc.network import AESc, network_for
from aesc.operating_point import FILE, OperatingPoint, calibrate
from aesc.params import Params, ResidualKind
from aesc.params_file import load_params
from aesc.pixels import Pixels
from aesc.residual_choice import ChosenResidual, choose_residual
from aesc.scoring import Scorer, measure_reference
from benchmarks.untrained import striped_image

ROOT = Path(__file__).parents[2]
SIDE = 64
CPU = torch.device("cpu")
IMAGES = 8  # of each split


class Chosen(NamedTuple):
    """A choice, and what it was made from."""

    params: Params
    network: AESc
    store: np.ndarray
    found: ChosenResidual


def chosen(residual: ResidualKind, *others: ResidualKind, tie: float = 0.0) -> Chosen:
    """By an untrained network."""
    params = load_params(
        ROOT / "params.yaml",
        preset="ablation",
        overrides=[
            f"data.image_size={SIDE}",
            "detection.passes=2",
            f"detection.residual={residual}",
            f"calibration.residuals=[{', '.join(others)}]",
            f"calibration.tie={tie}",
        ],
    )
    network = network_for(params, channels=3, generator=torch.Generator().manual_seed(0)).eval()
    store = np.stack([striped_image(SIDE, number) for number in range(2 * IMAGES)])
    validation, calibration = (Pixels(store, rows, CPU) for rows in np.arange(2 * IMAGES).reshape(2, IMAGES))
    return Chosen(
        params, network, store, choose_residual(network, validation=validation, calibration=calibration, params=params)
    )


def manifest() -> pd.DataFrame:
    """Of the images that choose, and one clean test image."""
    splits = ["calibration"] * IMAGES + ["test"]
    paths = [f"{number}.png" for number in range(len(splits))]
    return pd.DataFrame(
        {"path": paths, "sha256": paths, "split": splits, "defect": "good", "label": 0, "mask_path": None}
    )


def operating_point(case: Chosen, folder: Path) -> OperatingPoint:
    """Everything scored and calibrated by what was chosen, as a run does it."""
    choice, (scales, divisors) = case.found
    detection = detection_with(case.params.detection, choice)
    scores = evaluate(
        Scorer(case.network, detection=detection, seed=case.params.training.seed, scales=scales, divisors=divisors),
        manifest(),
        case.store,
        np.arange(IMAGES, 2 * IMAGES + 1) % (2 * IMAGES),
        data_root=folder,
        folder=folder,
        params=case.params,
        device=CPU,
    )
    return calibrate(
        scores,
        params=case.params,
        category="widget",
        data_version="abc",
        weights_sha256="0" * 64,
        channels=3,
        scales=scales,
        residual_choice=choice,
    )


@pytest.fixture(scope="module")
def case() -> Chosen:
    return chosen("pixels", "both")


def test_it_sees_the_images_that_choose_the_strategy(case: Chosen, tmp_path: Path) -> None:
    choice = case.found.choice
    assert choice is not None
    point = operating_point(case, tmp_path)
    assert point.choice is not None
    assert choice.evidence[choice.residual] == pytest.approx(point.choice.evidence["residual"])
    assert choice.evidence["pixels"] != choice.evidence["both"]
    assert set(choice.evidence["pixels"]) == {"scratch", "drops"}


def test_the_better_one_wins_whichever_was_asked_for_first() -> None:
    found = [chosen(*names).found.choice for names in (("pixels", "features"), ("features", "pixels"))]
    first, second = found
    assert first is not None
    assert second is not None
    assert first.means == pytest.approx(second.means)
    assert first.means["pixels"] > first.means["features"] + 0.1
    assert first.residual == second.residual == "pixels"


@pytest.mark.parametrize("asked", ["pixels", "features"])
def test_a_tie_goes_to_the_one_that_was_asked_for(asked: ResidualKind) -> None:
    other: ResidualKind = "features" if asked == "pixels" else "pixels"
    choice = chosen(asked, other, tie=1.0).found.choice
    assert choice is not None
    assert choice.residual == asked


def test_maps_are_measured_against_clean_images_with_the_chosen_one(case: Chosen) -> None:
    detection = detection_with(case.params.detection, case.found.choice)
    validation = Pixels(case.store, np.arange(IMAGES), CPU)
    reference = measure_reference(case.network, validation, detection=detection, seed=case.params.training.seed)
    assert case.found.reference.scales == reference.scales


@pytest.mark.parametrize("others", [(), ("both",)])
def test_nothing_to_choose_from_is_no_choice(others: tuple[ResidualKind, ...]) -> None:
    case = chosen("both", *others)
    assert case.found.choice is None
    assert detection_with(case.params.detection, None) == case.params.detection
    assert case.found.reference.scales.feature_length > 0


def test_an_operating_point_keeps_the_choice_and_older_ones_have_none(case: Chosen, tmp_path: Path) -> None:
    point = operating_point(case, tmp_path)
    assert case.found.choice is not None
    assert point.detection.residual == case.found.choice.residual
    point.save(tmp_path)
    assert OperatingPoint.load(tmp_path) == point
    said = json.loads((tmp_path / FILE).read_text())
    del said["residual_choice"]
    (tmp_path / FILE).write_text(json.dumps(said))
    assert OperatingPoint.load(tmp_path).residual_choice is None
