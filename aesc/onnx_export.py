"""A detector as one ONNX file: from uint8 pixels to reconstruction, residual map and score, without PyTorch or Pillow.

It holds what is deterministic: preprocessing (`aesc/resampling.py`), network, residual map, its image score. MC-Dropout
is left out, so a verdict by it never abstains. The operating point travels in the file's metadata.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from aesc.detection import image_scores
from aesc.detector import Detector
from aesc.errors import AescError
from aesc.files import write_atomically
from aesc.images import Image
from aesc.operating_point import OperatingPoint
from aesc.resampling import resize_as_pillow
from aesc.residual import ResidualPath

OPSET = 18
INPUT, OUTPUTS = "images", ("reconstruction", "residual", "score")
# Sums of up to 12,800 float32 products in another order differ by about 1e-5 of their size; measured are 1e-6. A wrong
# layer, axis or padding differs by 1e-2 and more. Of the score's size, of the largest in the map if that is above 1,
# and of white for the reconstruction.
TOLERANCE = 1e-4
INSTALL = "pip install 'aesc-pipeline[onnx]'"


class DeterministicDetector(nn.Module):
    """What the file computes: uint8 batch x height x width x channels in, of any height and width.

    Out come the reconstruction (batch x side x side x channels in [0, 1]), the residual map (batch x side x side) and
    its score (batch).
    """

    def __init__(self, path: ResidualPath, point: OperatingPoint) -> None:
        super().__init__()
        self.path = path
        self._size = point.image_size
        self._detection = point.detection

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pixels = resize_as_pillow(images.permute(0, 3, 1, 2).double(), self._size)
        reconstruction, residual = self.path(pixels.float() / 255.0)
        settings = self._detection
        score = image_scores(residual, settings.image_score, top_fraction=settings.top_fraction)
        return reconstruction.permute(0, 2, 3, 1), residual, score


@dataclass(frozen=True)
class Parity:
    """How far the file's answers were from PyTorch's on n images: the largest differences.

    score is relative, residual too where the map exceeds 1; reconstruction is in units of white.
    """

    n: int
    score: float
    residual: float
    reconstruction: float

    @property
    def kept(self) -> bool:
        return max(self.score, self.residual, self.reconstruction) <= TOLERANCE


def export(detector: Detector, path: Path) -> Parity:
    """Write `detector` to `path`, after its answers were compared with PyTorch's on images of several sizes.

    Raises:
        AescError: ONNX is not installed, or the answers differ; then there is no file.
    """
    _require_installed()
    model = DeterministicDetector(copy.deepcopy(detector.residual_path).cpu(), detector.operating_point).eval()
    model.requires_grad_(False)  # what learns may be computed in another way
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / "model.onnx"
        _write(model, detector.operating_point, draft)
        parity = compare(draft, detector)
        if not parity.kept:
            raise AescError(
                path,
                f"not written: on {parity.n} images ONNX differs from PyTorch by {parity.score:.1e} of the score, "
                f"{parity.residual:.1e} in the map, {parity.reconstruction:.1e} in the reconstruction",
                allowed=f"at most {TOLERANCE:g}",
                todo="try other versions of onnxscript and onnxruntime, and report it",
            )
        content = draft.read_bytes()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: temporary.write_bytes(content))
    except OSError as error:
        raise AescError(path, f"cannot be written: {error}", todo="name a writable file with --out") from error
    return parity


def compare(path: Path, detector: Detector) -> Parity:
    """The largest differences between the file's answers and PyTorch's, on batches of several sizes and shapes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences, n = np.zeros(3), 0
    for batch in _trial_images(detector.operating_point):
        reconstruction, residual, score = session.run(list(OUTPUTS), {INPUT: batch})
        images = [detector.preprocess(_decoded(one)) for one in batch]
        found = detector.predict_batch(images, strategy="residual", lazy=True)
        n += len(found)
        for row, one in enumerate(found):
            here = (
                abs(float(score[row]) / one.score - 1.0) if one.score else abs(float(score[row])),
                np.abs(residual[row] - one.maps["residual"]).max() / max(1.0, one.maps["residual"].max()),
                np.abs(reconstruction[row] - one.reconstruction).max(),
            )
            differences = np.fmax(differences, np.where(np.isfinite(here), here, np.inf))
    return Parity(n, *map(float, differences))


def _write(model: DeterministicDetector, point: OperatingPoint, path: Path) -> None:
    size = point.image_size
    # Of a size of its own in every respect: an axis that is exported at a special value would be fixed to it.
    example = torch.zeros((2, size + 8, size + 24, point.channels), dtype=torch.uint8)
    with torch.inference_mode():
        model(example[:1])  # what the network keeps between calls must not be a symbol of the export
    names = ("batch", "height", "width")
    axes = {axis: torch.export.Dim(name, min=1) for axis, name in enumerate(names)}
    with _quiet():
        program = torch.onnx.export(
            model,
            (example,),
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes=(axes,),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise AescError(path, "PyTorch exported nothing", todo="try another version of torch")
    program.model.metadata_props.update(metadata(point))
    program.save(str(path))


def metadata(point: OperatingPoint) -> dict[str, str]:
    """What the file says of itself: thresholds and the whole operating point, as text."""
    return {
        "category": point.category,
        "data_version": point.data_version,
        "weights_sha256": point.weights_sha256,
        "image_size": str(point.image_size),
        "strategy": "residual",
        "threshold": repr(point.image_promises["residual"].threshold),
        "pixel_threshold": repr(point.pixel_promises["residual"].threshold),
        "promise": point.image_promises["residual"].message,
        "operating_point": json.dumps(point.model_dump(mode="json")),
    }


def _require_installed() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise AescError("ONNX export", f"not installed: {', '.join(missing)}", todo=f"{INSTALL}, then again")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own insides."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _trial_images(point: OperatingPoint) -> Iterator[npt.NDArray[np.uint8]]:
    """Batches of images at the network's size, smaller, larger and oblong: smooth, noisy, plain."""
    side, random = point.image_size, np.random.default_rng(point.seed)
    for count, height, width in ((2, side, side), (1, side // 2, side), (3, 2 * side, side + 37), (1, 1, 1)):
        rows, columns = np.mgrid[:height, :width]
        smooth = 127 + 90 * np.sin(rows / 9 + columns / 13)[None, ..., None]
        strength = np.array([0.0, 20.0, 120.0])[:count, None, None, None]
        noise = random.normal(size=(count, height, width, point.channels))
        yield np.clip(smooth + strength * noise, 0, 255).astype(np.uint8)


def _decoded(pixels: npt.NDArray[np.uint8]) -> Image:
    height, width, channels = pixels.shape
    grey = channels == 1
    plane = pixels[..., 0] if grey else pixels
    return Image(pixels=plane, mode="grey" if grey else "rgb", bit_depth=8, width=width, height=height)
