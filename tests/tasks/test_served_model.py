"""The registered pyfunc, loaded from a real MLflow: what it takes, what it answers, how it refuses."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image

from aesc.detector import Detector
from aesc.params import STRATEGIES
from benchmarks.serving import png
from benchmarks.untrained import striped_image, untrained_detector
from tasks.registry import log_detector

SIDE = 64
NAMES = ["score", "threshold", "verdict", "abstained", "strategy", *STRATEGIES]


@dataclass(frozen=True)
class Served:
    """The loaded pyfunc, and the detector that was logged."""

    model: Any
    detector: Detector

    def predict(self, images: Any, **params: Any) -> pd.DataFrame:
        found: pd.DataFrame = self.model.predict(images, params=params or None)
        return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("served")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        overrides = ("detection.passes=3", "data.max_megapixels=0.05", "calibration.abstention_rate=0.4")
        detector = untrained_detector(folder, *overrides, side=SIDE)
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        experiment = client.create_experiment("x", artifact_location=(folder / "artifacts").as_uri())
        logged = log_detector(folder / "detector", client.create_run(experiment).info.run_id)
        return Served(mlflow.pyfunc.load_model(logged.model_uri), detector)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.stack([striped_image(90, number) for number in range(4)])


def test_every_kind_of_input_gets_the_same_answer(served: Served, pixels: np.ndarray, tmp_path: Path) -> None:
    files = [png(one) for one in pixels]
    paths = [tmp_path / f"{number}.png" for number in range(len(files))]
    for path, content in zip(paths, files, strict=True):
        path.write_bytes(content)
    text = [base64.b64encode(content).decode() for content in files]
    expected = served.predict(pixels)
    assert list(expected.columns) == NAMES
    for images in (
        list(pixels),
        pixels.astype(np.int64),
        pixels.tolist(),
        files,
        text,
        np.array(text),
        pd.Series(text),
        {"image": text},
        {"image": pixels},
        pd.DataFrame({"image": [str(path) for path in paths]}),
        pd.DataFrame({"image": [files[0], text[1], str(paths[2]), pixels[3]]}),
    ):
        pd.testing.assert_frame_equal(served.predict(images), expected)
    for single in (pixels[0], files[0], text[0], str(paths[0])):
        pd.testing.assert_frame_equal(served.predict(single), expected.head(1), rtol=1e-6)


def test_grey_arrays_are_taken_with_and_without_their_channel(served: Served) -> None:
    grey = np.stack([striped_image(80, number, channels=1) for number in range(2)])
    in_colour = served.predict(np.repeat(grey, 3, axis=3))
    pd.testing.assert_frame_equal(served.predict(grey), in_colour)
    pd.testing.assert_frame_equal(served.predict(grey[..., 0]), in_colour)
    mixed = [grey[0], striped_image(70, 5)[:60]]  # of two sizes
    assert served.predict(mixed)["score"].iloc[0] == pytest.approx(in_colour["score"].iloc[0], rel=1e-6)
    assert len(served.predict([one.tolist() for one in mixed])) == 2


def test_the_answers_are_those_of_the_detector(served: Served) -> None:
    images = np.stack([striped_image(SIDE, number) for number in range(12)])
    found = served.predict(images, all_scores=True)
    predictions = served.detector.predict_batch(list(images))
    for row, prediction in zip(found.to_dict("records"), predictions, strict=True):
        assert (row["verdict"], row["strategy"]) == (prediction.verdict, prediction.strategy)
        assert row["abstained"] is (row["verdict"] == "abstain")
        assert row["threshold"] == prediction.threshold
        assert row["score"] == row[row["strategy"]]
        for name in STRATEGIES:
            assert row[name] == pytest.approx(prediction.scores[name], rel=1e-6)


def test_passes_are_run_near_the_threshold_only_and_change_no_score_and_no_verdict(served: Served) -> None:
    images = np.stack([striped_image(SIDE, number) for number in range(12)])
    lazy, full = served.predict(images), served.predict(images, all_scores=True)
    band = served.detector.operating_point.abstention
    near = [band.near(score) for score in full["score"]]
    assert any(near)
    assert not all(near)
    assert lazy["uncertainty"].notna().tolist() == lazy["combined"].notna().tolist() == near
    assert all(
        value is None for value, known in zip(lazy["uncertainty"], near, strict=True) if not known
    )  # NaN: no JSON
    assert lazy["verdict"].tolist() == full["verdict"].tolist()
    np.testing.assert_allclose(lazy["score"], full["score"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_another_strategy_comes_with_its_own_threshold(served: Served, pixels: np.ndarray, strategy: str) -> None:
    found = served.predict(pixels, strategy=strategy)
    assert found["strategy"].tolist() == [strategy] * len(pixels)
    assert found["score"].tolist() == found[strategy].tolist()
    promises = {str(name): promise for name, promise in served.detector.operating_point.image_promises.items()}
    assert found["threshold"].tolist() == [promises[strategy].threshold] * len(pixels)


def test_heatmap_and_mask_come_as_png_where_they_are_asked_for(served: Served, pixels: np.ndarray) -> None:
    pixels = pixels.copy()
    pixels[:, 40:60, 40:60] = 255  # a defect that nobody overlooks
    assert list(served.predict(pixels, heatmap=True).columns) == [*NAMES, "heatmap"]
    found = served.predict(pixels, heatmap=True, mask=True)
    predictions = served.detector.predict_batch([served.detector.preprocess(_image(one)) for one in pixels])
    for row, prediction in zip(found.to_dict("records"), predictions, strict=True):
        heatmap, mask = (np.asarray(Image.open(io.BytesIO(base64.b64decode(row[key])))) for key in ("heatmap", "mask"))
        assert heatmap.shape == (SIDE, SIDE, 3)
        assert heatmap.std() > 0
        np.testing.assert_array_equal(mask, prediction.mask)
    assert all(prediction.mask.any() for prediction in predictions)


def _image(pixels: np.ndarray) -> Any:
    from aesc.images import Image as Decoded

    return Decoded(pixels=pixels, mode="rgb", bit_depth=8, width=pixels.shape[1], height=pixels.shape[0])


WHOLE = png(striped_image(90, 0))
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "another column": (lambda: pd.DataFrame({"picture": ["x"]}), "no column 'image', but picture; allowed: a table"),
    "none": (list, "no image; allowed"),
    "a number": (lambda: 5, "int; allowed"),
    "fractions": (lambda: striped_image(90, 0) / 255, "image 0: ndarray of float64, 90 x 90 x 3; allowed"),
    "two channels": (lambda: striped_image(90, 0, channels=2)[None], "image 0: ndarray of uint8, 90 x 90 x 2"),
    "too bright": (lambda: striped_image(90, 0).astype(int) * 2, "allowed: 0 to 255"),
    "ragged": (lambda: [[[[1, 2, 3]], [[1, 2]]]], "image 0: list of object"),
    "large array": (lambda: np.zeros((1, 300, 300, 3), np.uint8), "300 x 300 pixels; allowed: at most 0.05 megapixels"),
    "large file": (lambda: png(np.zeros((300, 300, 3), np.uint8)), "image 0: 300 x 300 pixels (0.09 megapixels)"),
    "no image": (lambda: b"%PDF-1.7", "image 0: not an image: begins with '%PDF-1.7'"),
    "no base64": (lambda: "?" * 5000, "image 0: 5,000 characters that are not base64"),
    "no file": (lambda: "no.png", "no.png: no such file"),
    "truncated": (lambda: [WHOLE, WHOLE[:1000]], "image 1: truncated"),
    "missing": (lambda: pd.DataFrame({"image": [WHOLE, None]}), "image 1: NoneType"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_as_the_caller_s_fault(served: Served, case: str) -> None:
    make, reason = BAD[case]
    with pytest.raises(MlflowException) as caught:
        served.predict(make())
    assert caught.value.get_http_status_code() == 400
    assert reason in caught.value.message


def test_an_unknown_strategy_is_refused(served: Served, pixels: np.ndarray) -> None:
    with pytest.raises(MlflowException, match="'guess': unknown; allowed: residual, uncertainty, combined") as caught:
        served.predict(pixels, strategy="guess")
    assert caught.value.get_http_status_code() == 400


def test_a_server_opens_files_of_one_folder_only(
    served: Served, pixels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside = tmp_path / "shown" / "a.png", tmp_path / "b.png"
    inside.parent.mkdir()
    for path in (inside, outside):
        path.write_bytes(png(pixels[0]))
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    for path in (inside, outside):
        with pytest.raises(MlflowException, match="nor a file that is served; served are those below: none"):
            served.predict(str(path))
    monkeypatch.setenv("AESC_SERVED_IMAGES", str(inside.parent))
    assert len(served.predict(str(inside))) == 1
    for path in (outside, inside.parent / ".." / "b.png"):
        with pytest.raises(MlflowException, match="nor a file that is served"):
            served.predict(str(path))
