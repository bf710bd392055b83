"""The registered model, logged from this file (models from code): an image in, score and verdict out.

MLflow runs this file by itself when it loads a version, so it imports nothing of the project but `aesc`, which travels
with the version.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class ServedDetector(PythonModel):  # type: ignore[misc]
    """Column `image`: the path of an image file, or the file's content in base64."""

    def load_context(self, context: PythonModelContext) -> None:
        from aesc.detector import Detector

        self._detector = Detector.load(Path(context.artifacts["detector"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One row an image: score, threshold, verdict, strategy, residual, uncertainty, combined."""
        images = [self._detector.preprocess(_decode(value)) for value in model_input["image"]]
        found = self._detector.predict_batch(images)
        return pd.DataFrame(
            [
                {
                    "score": one.score,
                    "threshold": one.threshold,
                    "verdict": one.verdict,
                    "strategy": one.strategy,
                    **one.scores,
                }
                for one in found
            ]
        )


def _decode(value: str) -> Any:
    """The path, or the decoded image if `value` is not an existing file but base64."""
    from aesc.images import read_image_bytes

    if len(value) < 4096 and Path(value).is_file():
        return Path(value)
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return Path(value)  # reading it gives the error that names it
    return read_image_bytes(data, "image in base64", max_megapixels=100.0)


set_model(ServedDetector())
