"""The registered model, logged from this file (models from code): images in, scores and three-way verdicts out.

MLflow runs this file by itself when it loads a version, so it imports nothing of the project but `aesc`, which travels
with the version.

The signature has no input schema: with a column in it MLflow would turn an array of images away, with a tensor it would
turn files away. What comes in is checked here instead, and what is wrong with it is said in an answer 400.
"""

from __future__ import annotations

import base64
import binascii
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

if TYPE_CHECKING:
    import numpy.typing as npt

    from aesc.detector import Prediction
    from aesc.images import Image

COLUMN = "image"
ALLOWED = (
    f"a table with the column {COLUMN!r} (paths, base64 text, bytes or arrays), a list of those, or an array "
    "N x H x W x C, N x H x W or H x W x C of whole numbers from 0 to 255, with 1 or 3 channels"
)
FOLDER = "AESC_SERVED_IMAGES"  # a served model opens only files below the folder that this names
_SERVING = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"  # set by MLflow's scoring server
_LONGEST_PATH = 4096


class ServedDetector(PythonModel):  # type: ignore[misc]
    """One row of answers an image; see docs/serving.md."""

    def load_context(self, context: PythonModelContext) -> None:
        from aesc.detector import Detector

        self._detector = Detector.load(Path(context.artifacts["detector"]))
        # A server calls from many threads. One image at a time has all cores; several would only fight for them, each
        # with threads and buffers of its own.
        self._turn = threading.Lock()

    # A table is the hint that MLflow leaves alone; what else is taken, `_values` says.
    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """The answers to `model_input`, a table with one row an image.

        Columns: score, threshold, verdict (pass, reject, abstain), abstained, strategy, and residual, uncertainty,
        combined: None where the verdict did not need them. Params: `strategy` (another than the calibrated one),
        `all_scores`, and `heatmap`, `mask`, which add columns of PNGs in base64.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE (HTTP 400) with the reason.
        """
        from aesc.errors import AescError
        from aesc.params import STRATEGIES

        asked = {"strategy": "", "all_scores": False, "heatmap": False, "mask": False, **(params or {})}
        strategy = asked["strategy"] or None
        if strategy not in (None, *STRATEGIES):
            raise _bad(f"strategy {strategy!r}: unknown; allowed: {', '.join(STRATEGIES)}, or nothing for its own")
        try:
            images = [self._read(value, f"image {number}") for number, value in enumerate(_values(model_input))]
        except AescError as error:
            reason = f"{error.where}: {error.found}"
            reason += f"; allowed: {error.allowed}" if error.allowed else ""
            raise _bad(reason + (f"; to do: {error.todo}" if error.todo else "")) from error
        with self._turn:
            found = self._detector.predict_batch(images, strategy=strategy, lazy=not asked["all_scores"])
        answers = pd.DataFrame([self._answer(one, asked) for one in found], dtype=object)
        return answers.astype({"score": float, "threshold": float, "abstained": bool})

    def _read(self, value: Any, name: str) -> npt.NDArray[np.uint8]:
        from aesc.images import read_image, read_image_bytes

        most = self._detector.operating_point.max_megapixels
        if isinstance(value, str):
            value = _path_or_content(value, name)
        if isinstance(value, Path):
            return self._detector.preprocess(read_image(value, max_megapixels=most))
        if isinstance(value, bytes | bytearray):
            return self._detector.preprocess(read_image_bytes(bytes(value), name, max_megapixels=most))
        return self._detector.preprocess(_from_array(value, name, most))

    def _answer(self, one: Prediction, asked: Mapping[str, Any]) -> dict[str, Any]:
        from aesc.params import STRATEGIES

        answer: dict[str, Any] = {
            "score": one.score,
            "threshold": one.threshold,
            "verdict": one.verdict,
            "abstained": one.verdict == "abstain",
            "strategy": one.strategy,
        }
        answer |= {name: one.scores.get(name) for name in STRATEGIES}
        if asked["heatmap"] or asked["mask"]:
            from aesc.heatmaps import overlay, to_png

            if asked["heatmap"]:
                answer["heatmap"] = _text(to_png(overlay(one, self._detector.operating_point)))
            if asked["mask"]:
                answer["mask"] = _text(to_png(one.mask))
        return answer


def _values(model_input: Any) -> list[Any]:
    """One entry an image: text, bytes, or an array."""
    values = model_input
    if isinstance(values, pd.DataFrame | dict):
        if COLUMN not in values:
            raise _bad(f"no column {COLUMN!r}, but {', '.join(map(str, values)) or 'none'}; allowed: {ALLOWED}")
        values = values[COLUMN]
    if isinstance(values, str | bytes | bytearray):
        values = [values]
    if isinstance(values, pd.Series):
        values = values.tolist()
    if isinstance(values, list) and not any(
        isinstance(value, str | bytes | bytearray | np.ndarray) for value in values
    ):
        with suppress(ValueError):  # lists of different lengths: images of several sizes
            values = np.asarray(values)
    if isinstance(values, np.ndarray) and values.ndim == 3 and values.shape[2] in (1, 3):
        values = values[None]
    if isinstance(values, np.ndarray) and values.ndim:
        values = values.tolist() if values.ndim == 1 else list(values)
    if not isinstance(values, list) or not values:
        found = "no image" if isinstance(values, list) else type(values).__name__
        raise _bad(f"{found}; allowed: {ALLOWED}")
    return values


def _path_or_content(value: str, name: str) -> Path | bytes:
    """The file that `value` names and that may be opened, or the content that it is in base64."""
    short = len(value) <= _LONGEST_PATH and "\0" not in value
    if short and _may_be_opened(Path(value)) and Path(value).is_file():
        return Path(value)
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pass
    if not short:
        raise _bad(f"{name}: {len(value):,} characters that are not base64; allowed: {ALLOWED}")
    if not _may_be_opened(Path(value)):
        where = os.environ.get(FOLDER) or f"none, {FOLDER} names no folder"
        raise _bad(f"{name}: {value[:200]!r} is not base64, nor a file that is served; served are those below: {where}")
    return Path(value)  # reading it gives the error that names it


def _may_be_opened(path: Path) -> bool:
    """Who may ask a server is not always who may read its files; a process may read what its user may."""
    if os.environ.get(_SERVING) != "true":
        return True
    folder = os.environ.get(FOLDER)
    return bool(folder) and path.resolve().is_relative_to(Path(str(folder)).resolve())


def _from_array(value: Any, name: str, max_megapixels: float) -> Image:
    from aesc.images import Image

    try:
        pixels = np.asarray(value)
    except ValueError:
        pixels = np.empty(0, dtype=object)
    kind, shape = pixels.dtype.kind, " x ".join(map(str, pixels.shape))
    if kind not in "ui" or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (1,), (3,)) or pixels.size == 0:
        raise _bad(f"{name}: {type(value).__name__} of {pixels.dtype}, {shape or 'a single value'}; allowed: {ALLOWED}")
    if pixels.dtype != np.uint8 and (pixels.min() < 0 or pixels.max() > 255):
        raise _bad(f"{name}: values from {pixels.min()} to {pixels.max()}; allowed: 0 to 255")
    height, width = pixels.shape[:2]
    if height * width / 1e6 > max_megapixels:
        raise _bad(f"{name}: {width:,} x {height:,} pixels; allowed: at most {max_megapixels:g} megapixels")
    pixels = np.ascontiguousarray(pixels.astype(np.uint8).squeeze(2) if pixels.shape[2:] == (1,) else pixels, np.uint8)
    return Image(pixels=pixels, mode="grey" if pixels.ndim == 2 else "rgb", bit_depth=8, width=width, height=height)


def _text(png: bytes) -> str:
    return base64.b64encode(png).decode("ascii")


def _bad(reason: str) -> MlflowException:
    return MlflowException(" ".join(reason.split()), error_code=INVALID_PARAMETER_VALUE)


set_model(ServedDetector())
