"""What maps are measured against: learned from clean images, kept with the operating point."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from aesc.detector import Detector
from aesc.images import Image
from aesc.normalisation import FILE as NORMALISATION
from aesc.operating_point import FILE, OperatingPoint
from aesc.weights import load_network
from aesc.whitening import BANDS, Covariance
from benchmarks.untrained import striped_image, untrained_detector

SIDE = 64


def whitening_detector(folder: Path, *others: str) -> Detector:
    settings = ("detection.whiten=true", "detection.residual=all", "detection.passes=2", *others)
    return untrained_detector(folder, *settings, side=SIDE, images=20)


def test_whitening_is_learned_from_the_clean_images(tmp_path: Path) -> None:
    detector = whitening_detector(tmp_path)
    network, _ = load_network(tmp_path / "detector", device=torch.device("cpu"))
    clean = np.stack([striped_image(SIDE, number) for number in range(20)])
    covariance = Covariance()
    with torch.inference_mode():
        for batch in (torch.from_numpy(clean).permute(0, 3, 1, 2).float() / 255.0).split(16):
            covariance.add(batch - network(batch))
    found = torch.tensor(detector.operating_point.scales.whitening)
    assert found.shape == (BANDS, 3, 3)
    torch.testing.assert_close(found, torch.tensor(covariance.whitening()), rtol=1e-3, atol=1e-3)


def test_a_loaded_detector_whitens_as_the_saved_one_did(tmp_path: Path) -> None:
    detector = whitening_detector(tmp_path)
    image = Image(pixels=striped_image(SIDE, 99), mode="rgb", bit_depth=8, width=SIDE, height=SIDE)
    before, after = detector.predict(image), Detector.load(tmp_path / "detector", device="cpu").predict(image)
    assert after.scores == before.scores
    assert set(detector.operating_point.scales.parts) == {"pixels", "features", "structure"}
    plain = untrained_detector(tmp_path / "plain", "detection.passes=2", side=SIDE, images=20)
    assert plain.predict(image).scores["residual"] != before.scores["residual"]


def test_a_loaded_detector_takes_the_same_marks_for_usual(tmp_path: Path) -> None:
    detector = whitening_detector(tmp_path, "network.segmentation=true", "detection.normalise=true")
    assert "logits" in load_file(tmp_path / "detector" / NORMALISATION)
    image = Image(pixels=striped_image(SIDE, 99), mode="rgb", bit_depth=8, width=SIDE, height=SIDE)
    assert Detector.load(tmp_path / "detector", device="cpu").predict(image).scores == detector.predict(image).scores


def test_an_operating_point_that_says_nothing_of_whitening_does_none(tmp_path: Path) -> None:
    """Detectors that were calibrated before there was any are read as they were."""
    untrained_detector(tmp_path, "detection.passes=2", side=SIDE, images=20)
    path = tmp_path / "detector" / FILE
    said = json.loads(path.read_text())
    assert said["detection"].pop("whiten") is False
    assert said["scales"].pop("whitening") == []
    assert said["scales"].pop("segmentation") is None
    path.write_text(json.dumps(said))
    point = OperatingPoint.load(path.parent)
    assert not point.detection.whiten
    assert point.scales.whitening == ()
