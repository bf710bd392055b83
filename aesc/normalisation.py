"""What each place of a clean image usually shows, so that a map can be read against it.

At an edge that the network never gives back quite right, a residual means less than on a smooth face. A map is divided,
pixel by pixel, by mean + 3 mean absolute deviations over clean validation images + the overall mean: the last term
keeps a place where clean images show nothing from making an alarm of everything. A few images say little about a single
pixel, so the statistics are blurred and drawn toward their average over the image, the more the fewer images there are.

Of the logits of a head that marks corruptions only the mean is taken, and subtracted: on an even ground, where nearly
everything painted shows but a faint blob leaves no trace, a head is never as sure as elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from aesc.detection import smooth
from aesc.errors import AescError
from aesc.files import write_atomically

FILE = "normalisation.safetensors"

MapName = Literal["pixels", "features", "structure", "uncertainty", "logits"]
PlaceMaps = Mapping[MapName, Tensor]
"""By map, what it is divided by, side x side, above 0; by "logits" what is subtracted from them, side x side.

Without an entry one number does for all places (`aesc.scoring.Scales`).
"""

_DEVIATIONS = 3.0
_PRIOR_IMAGES = 20.0  # the average over the image counts like so many images
_BLUR = 1 / 64  # of the side, sigma
_LOGITS_PRIOR_IMAGES = 5.0  # they are blurred more, so fewer images say as much
_LOGITS_BLUR = 1 / 32


def divisor(maps: Tensor) -> Tensor:
    """The divisor, side x side, from the maps of clean images: count x side x side, 0 or more."""
    count = len(maps)
    mean = maps.mean(dim=0)
    deviation = (maps - mean).abs().mean(dim=0)
    mean, deviation = (_steadied(values, count, blur=_BLUR, prior_images=_PRIOR_IMAGES) for values in (mean, deviation))
    found = mean + _DEVIATIONS * deviation + mean.mean()
    return torch.where(found > 0.0, found, 1.0)


def usual_logits(logits: Tensor) -> Tensor:
    """What is usual at each place, side x side, from the logits of clean images: count x side x side."""
    return _steadied(logits.mean(dim=0), len(logits), blur=_LOGITS_BLUR, prior_images=_LOGITS_PRIOR_IMAGES)


def _steadied(values: Tensor, count: int, *, blur: float, prior_images: float) -> Tensor:
    """Statistics of `count` images, side x side, blurred and drawn toward their average."""
    blurred = smooth(values[None], values.shape[-1] * blur)[0]
    return (count * blurred + prior_images * blurred.mean()) / (count + prior_images)


def save_place_maps(place_maps: PlaceMaps, folder: Path) -> str:
    """Write `folder/normalisation.safetensors`; its sha256. Nothing is written, and "" returned, if there are none."""
    if not place_maps:
        return ""
    content = _content(place_maps)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / FILE, lambda path: path.write_bytes(content))
    return hashlib.sha256(content).hexdigest()


def load_place_maps(folder: Path, *, sha256: str, device: torch.device) -> dict[MapName, Tensor]:
    """Read back what `save_place_maps` wrote.

    Args:
        folder: of the detector.
        sha256: which the file must have; "" if there is none.
        device: where they are wanted.

    Raises:
        AescError: the file is missing or another one.
    """
    if not sha256:
        return {}
    path = folder / FILE
    todo = "fetch the model version again, or retrain the category"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AescError(path, f"cannot be read: {error}", todo=todo) from error
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise AescError(path, f"sha256 {found[:12]}...", allowed=f"{sha256[:12]}..., which was calibrated", todo=todo)
    return dict(load_file(path, device=str(device)))


def _content(place_maps: PlaceMaps) -> bytes:
    return bytes(save({str(name): values.detach().cpu().contiguous() for name, values in sorted(place_maps.items())}))
