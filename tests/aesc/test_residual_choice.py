"""The residual is chosen by held-out corruptions of validation images, and an operating point keeps the choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch

from aesc.choice import detection_with
from aesc.corruption import corrupt
from aesc.network import AESc, network_for
from aesc.operating_point import FILE, OperatingPoint, calibrate
from aesc.params import Params, ResidualKind
from aesc.params_file import load_params
from aesc.pixels import Pixels
from aesc.residual import FEATURE_LEVEL
from aesc.residual_choice import ChosenResidual, choose_residual
from aesc.scoring import Scorer, measure_reference
from aesc.seeding import Stream, generator
from aesc.separation import separation

ROOT = Path(__file__).parents[2]
SIDE = 64
IMAGES = 8


class Case(NamedTuple):
    """A choice, and what it was made from."""

    params: Params
    network: AESc
    validation: Pixels
    found: ChosenResidual


def choose(residual: ResidualKind, *others: ResidualKind, settings: tuple[str, ...] = ()) -> Case:
    """By an untrained network to which all images look alike, on grey ones, where corruptions show in the pixels."""
    params = load_params(
        ROOT / "params.yaml",
        preset="ablation",
        overrides=[
            f"data.image_size={SIDE}",
            "detection.passes=2",
            f"detection.residual={residual}",
            f"calibration.residuals=[{', '.join(others)}]",
            "calibration.tie=0.0",
            *settings,
        ],
    )
    network = network_for(params, channels=3, generator=torch.Generator().manual_seed(0)).eval()
    for name, parameter in network.encoder[FEATURE_LEVEL].named_parameters():
        torch.nn.init.constant_(parameter, 1.0 if name.endswith("bias") else 0.0)
    store = np.random.default_rng(3).integers(120, 136, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    validation = Pixels(store, np.arange(IMAGES), torch.device("cpu"))
    return Case(params, network, validation, choose_residual(network, validation, params=params))


@pytest.fixture(scope="module", params=["detection.normalise=false", "detection.normalise=true"])
def case(request: pytest.FixtureRequest) -> Case:
    """Asked for were features, and pixels take their place."""
    return choose("features", "pixels", settings=(request.param,))


def test_the_better_one_takes_the_place_of_the_one_asked_for(case: Case) -> None:
    assert case.found.choice is not None
    assert case.found.choice.residual == "pixels"
    assert case.found.choice.means["pixels"] > case.found.choice.means["features"]
    assert detection_with(case.params.detection, case.found.choice).residual == "pixels"
    kept = choose("pixels", "features").found.choice
    assert kept is not None
    assert kept.residual == "pixels"


def test_a_tie_goes_to_the_one_that_was_asked_for() -> None:
    tied = choose("features", "pixels", settings=("calibration.tie=1.0",)).found.choice
    assert tied is not None
    assert tied.residual == "features"


@pytest.mark.parametrize("kind", ["pixels", "features"])
def test_it_is_seen_in_held_out_corruptions_of_the_validation_images(case: Case, kind: ResidualKind) -> None:
    detection = case.params.detection.model_copy(update={"residual": kind})
    scales, place_maps = measure_reference(case.network, case.validation, detection=detection, seed=1)
    scorer = Scorer(case.network, detection=detection, seed=1, scales=scales, place_maps=place_maps)
    clean = case.validation.batch(torch.arange(IMAGES))

    def score(images: torch.Tensor) -> npt.NDArray[np.float64]:
        return scorer(images).scores["residual_top"].double().numpy()

    corrupted = {}
    for number, corruption in enumerate(("scratch", "drops"), start=1):
        params = case.params.corruption.model_copy(update={"kind": corruption})
        images, _ = corrupt(clean, params=params, generator=generator(1, Stream.HELD_OUT, number))
        corrupted[corruption] = score(images)
    assert case.found.choice is not None
    assert case.found.choice.evidence[kind] == pytest.approx(separation(score(clean), corrupted).auroc)


def test_maps_are_measured_against_clean_images_with_the_chosen_one(case: Case) -> None:
    detection = detection_with(case.params.detection, case.found.choice)
    alone = measure_reference(case.network, case.validation, detection=detection, seed=1)
    asked = measure_reference(case.network, case.validation, detection=case.params.detection, seed=1)
    assert case.found.reference.scales == alone.scales != asked.scales
    assert case.found.reference.place_maps.keys() == alone.place_maps.keys()
    for name, values in alone.place_maps.items():
        torch.testing.assert_close(case.found.reference.place_maps[name], values)


@pytest.mark.parametrize("others", [(), ("both",)])
def test_nothing_to_choose_from_is_no_choice(others: tuple[ResidualKind, ...]) -> None:
    alone = choose("both", *others)
    assert alone.found.choice is None
    assert detection_with(alone.params.detection, None) == alone.params.detection
    assert set(alone.found.reference.scales.parts) == {"pixels", "features"}


def test_an_operating_point_keeps_the_choice_and_older_ones_have_none(case: Case, tmp_path: Path) -> None:
    choice, (scales, _) = case.found
    scores = np.linspace(1.0, 2.0, IMAGES)
    columns = [f"{strategy}_{kind}" for strategy in ("residual", "uncertainty", "combined") for kind in ("top", "peak")]
    rows = pd.DataFrame({"path": [str(number) for number in range(IMAGES)]} | dict.fromkeys(columns, scores))
    corruptions = ("", "scratch", "drops")
    point = calibrate(
        pd.concat([rows.assign(split="calibration", corruption=corruption) for corruption in corruptions]),
        params=case.params,
        category="widget",
        data_version="abc",
        weights_sha256="0" * 64,
        channels=3,
        scales=scales,
        residual_choice=choice,
    )
    assert (case.params.detection.residual, point.detection.residual) == ("features", "pixels")
    point.save(tmp_path)
    assert OperatingPoint.load(tmp_path) == point
    assert point.residual_choice == choice
    said = json.loads((tmp_path / FILE).read_text())
    del said["residual_choice"]
    (tmp_path / FILE).write_text(json.dumps(said))
    assert OperatingPoint.load(tmp_path).residual_choice is None
