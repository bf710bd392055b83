"""The ONNX file against PyTorch, run by ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from aesc import onnx_export
from aesc.detector import Detector
from aesc.errors import AescError
from aesc.images import Image
from aesc.onnx_export import TOLERANCE, export
from aesc.operating_point import OperatingPoint
from benchmarks.untrained import striped_image, untrained_detector

SIDE = 64


def make_detector(folder: Path, channels: int = 3) -> Detector:
    overrides = ("detection.passes=2", "detection.smoothing=1.5", "detection.whiten=true", "detection.normalise=true")
    overrides += ("detection.residual=all", "network.segmentation=true")
    return untrained_detector(folder, *overrides, side=SIDE, channels=channels, images=20)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return make_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def exported(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("onnx") / "new" / "model.onnx"
    parity = export(detector, file)
    assert parity.kept
    assert parity.n == 7
    assert 0 < parity.score < TOLERANCE
    return file


@pytest.fixture(scope="module")
def session(exported: Path) -> Any:
    return onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("count", "height", "width"), [(1, SIDE, SIDE), (5, 50, 33), (2, 200, 129), (1, 256, 256)])
def test_any_batch_of_any_size_is_scored_as_by_the_detector(
    detector: Detector, session: Any, count: int, height: int, width: int
) -> None:
    images = np.stack([striped_image(max(height, width), number)[:height, :width] for number in range(count)])
    reconstruction, residual, score = session.run(None, {"images": images})
    assert reconstruction.shape == (count, SIDE, SIDE, 3)
    for row, pixels in enumerate(images):
        image = Image(pixels=pixels, mode="rgb", bit_depth=8, width=width, height=height)
        expected = detector.predict(image, strategy="residual")
        assert score[row] == pytest.approx(expected.score, rel=1e-5)
        # An untrained head is sure of nothing, so rounding in its logits counts twenty times in the residual.
        np.testing.assert_allclose(residual[row], expected.maps["residual"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(reconstruction[row], expected.reconstruction, atol=1e-5)


def test_convolutions_are_exported_as_such(detector: Detector, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime has fast ones; sums written in another way would be as right and slower."""
    found = [node.op_type for node in onnx.load(exported).graph.node].count("Conv")
    calls: list[Any] = []
    convolution = torch.nn.functional.conv2d
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda *a, **k: calls.append(a) or convolution(*a, **k))
    with torch.inference_mode():
        detector.residual_path(torch.rand(1, 3, SIDE, SIDE))
    assert found == len(calls) > 8


def test_the_file_carries_its_operating_point(detector: Detector, session: Any, tmp_path: Path) -> None:
    said = session.get_modelmeta().custom_metadata_map
    point = detector.operating_point
    assert float(said["threshold"]) == point.image_promises["residual"].threshold
    assert float(said["pixel_threshold"]) == point.pixel_promises["residual"].threshold
    assert OperatingPoint.model_validate(json.loads(said["operating_point"])) == point
    assert said["weights_sha256"] == point.weights_sha256


def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    detector = make_detector(tmp_path, channels=1)
    export(detector, tmp_path / "grey.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "grey.onnx"), providers=["CPUExecutionProvider"])
    pixels = striped_image(100, 1, channels=1)
    image = Image(pixels=pixels[..., 0], mode="grey", bit_depth=8, width=100, height=100)
    (score,) = session.run(["score"], {"images": pixels[None]})
    assert score[0] == pytest.approx(detector.predict(image, strategy="residual").score, rel=1e-5)


def test_a_file_that_differs_is_not_written(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resize of the graph is made wrong; the network's own differences are far below what is allowed."""
    right = onnx_export.resize_as_pillow
    monkeypatch.setattr(onnx_export, "resize_as_pillow", lambda images, size: right(images, size) + 1.0)
    with pytest.raises(AescError, match="not written: on 7 images ONNX differs from PyTorch") as caught:
        export(detector, tmp_path / "wrong.onnx")
    assert "at most 0.0001" in caught.value.allowed
    assert not list(tmp_path.iterdir())


def test_what_is_not_installed_is_named(detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(AescError, match="not installed: onnxscript") as caught:
        export(detector, tmp_path / "model.onnx")
    assert "aesc-pipeline[onnx]" in caught.value.todo
