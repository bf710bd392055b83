"""Detectability: the smallest stain that a detector finds, by size and by contrast to its surroundings.

Stains of a grid of sizes and contrasts are painted on clean images that pass, and the detector is asked about each. The
share found at a contrast grows with the size; an isotonic regression (the closest non-decreasing sequence, by pooling
adjacent violators: Barlow et al., "Statistical Inference under Order Restrictions", 1972), linear in the logarithm of
the size between grid points, says where it reaches the wished rate. It supposes no form: a logistic curve would start
at 0, and the share found of the tiniest stains is whatever the images near the threshold make of it.

The uncertainty is that of the images: they are resampled, each with all of its stains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import isotonic_regression
from scipy.stats import norm
from torch import Tensor
from torch.nn import functional as F

from aesc.corruption import corrupt
from aesc.detector import Detector
from aesc.errors import AescError
from aesc.params import Corruption, Monitoring
from aesc.seeding import Stream, derive_seed, generator

FORMAT = 1
LEAST_IMAGES = 5  # with fewer the interval spans the grid and says nothing
_SURROUNDINGS = 0.5  # of the stain's semi-axis: how wide the ring is whose mean the contrast is measured against
_SLACK = 1e-9  # of rates that are means of zeros and ones

Pixels = npt.NDArray[np.uint8]


class Smallest(BaseModel):
    """The smallest stain found at the wished rate, at one contrast.

    Attributes:
        contrast: difference to the surroundings, grey levels of 255.
        size: semi-axis in pixels of the network's image; None: not even the largest is found so often.
        low, high: its interval over images; None: beyond the largest size.
        at_most: `size` is the smallest of the grid, which is found often enough already.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    contrast: float
    size: float | None
    low: float | None
    high: float | None
    at_most: bool


class Detectability(BaseModel):
    """What was measured on `n` images.

    Attributes:
        found: contrasts x sizes x images, whether the stain was found.
        rates: contrasts x sizes, the share found.
        curve: one entry a contrast.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    weights_sha256: str
    strategy: str
    threshold: float
    image_size: int
    seed: int
    images: str
    n: Annotated[int, Field(ge=1)]
    sizes: tuple[float, ...]
    contrasts: tuple[float, ...]
    reference_contrast: float
    find_rate: float
    confidence: float
    found: tuple[tuple[tuple[bool, ...], ...], ...]
    rates: tuple[tuple[float, ...], ...]
    curve: tuple[Smallest, ...]

    @property
    def figure(self) -> Smallest:
        """The one that stands for all: at the reference contrast."""
        return next(point for point in self.curve if point.contrast == self.reference_contrast)

    def headline(self) -> dict[str, Any]:
        """The figure with what it needs to travel, JSON-ready."""
        point = self.figure
        return {
            "size": point.size,
            "low": point.low,
            "high": point.high,
            "at_most": point.at_most,
            "contrast": point.contrast,
            "find_rate": self.find_rate,
            "confidence": self.confidence,
            "n": self.n,
            "images": self.images,
            "words": describe(self),
        }


class Loss(BaseModel):
    """What has become of the figure since the registration.

    Attributes:
        before, now: semi-axes in pixels; None beyond the largest size of the grid.
        ratio: now / before; a size beyond the grid counts as one step beyond its largest.
        low: lower end of the ratio's one-sided interval at the look's level.
        lost: the ratio is beyond the tolerance, and its lower end above 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: float | None
    now: float | None
    ratio: float
    low: float
    level: float
    tolerance: float
    lost: bool
    words: str


def stained(
    images: Tensor, *, size: float, contrast: float, corruption: Corruption, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Paint one stain of a size and a contrast on every image.

    The shape is that of the training's stain with both semi-axes equal to `size` and a hard edge; its filling is the
    mean of a ring around it, a channel at a time, plus or minus the contrast: the sign is drawn, and turned where it
    would leave the range of an image.

    Args:
        images: batch x channels x side x side in [0, 1]; left as they are.
        size: semi-axis, pixels.
        contrast: grey levels of 255.
        corruption: its irregularity is used.
        generator: on the images' device.

    Returns:
        The images, same shape, and the stains: batch x 1 x side x side, bool.
    """
    batch, _, side, _ = images.shape
    share = size / side
    params = corruption.model_copy(
        update={
            "kind": "stain",
            "size": (share, share),
            "grey": (255.0, 255.0),
            "noise_variance": 0.0,
            "blur": 0.0,
            "colour": False,
        }
    )
    _, mask = corrupt(torch.zeros_like(images[:, :1]), params=params, generator=generator)
    reach = max(1, math.ceil(_SURROUNDINGS * size))
    wide = F.max_pool2d(mask.float(), 2 * reach + 1, stride=1, padding=reach) > 0.5
    ring = (wide & ~mask).float()
    around = (images * ring).sum(dim=(2, 3)) / ring.sum(dim=(2, 3)).clamp(min=1.0)
    sign = (torch.randint(2, (batch, 1), generator=generator, device=images.device) * 2 - 1).float()
    step = contrast / 255.0
    moved = around + sign * step
    outside = (moved < 0.0).any(dim=1, keepdim=True) | (moved > 1.0).any(dim=1, keepdim=True)
    level = torch.where(outside, around - sign * step, moved).clamp(0.0, 1.0)
    return torch.where(mask, level[:, :, None, None], images), mask


def measure(
    detector: Detector, images: Sequence[Pixels], *, settings: Monitoring, corruption: Corruption, seed: int, said: str
) -> Detectability:
    """Paint the grid's stains on `images` and ask the detector about each.

    Args:
        detector: weights and threshold.
        images: clean and preprocessed (side x side x channels), which pass without a stain; the first
            `monitoring.images` of them are used. The i-th image gets the same shapes whoever measures.
        settings: sizes, contrasts, find rate, resamples.
        corruption: the stains' irregularity.
        seed: of the run.
        said: which images these are, for the record.

    Raises:
        AescError: too few images.
    """
    if len(images) < LEAST_IMAGES:
        raise AescError(
            "detectability",
            f"{len(images)} clean images that pass",
            allowed=f"at least {LEAST_IMAGES}",
            todo="name a folder with more of them",
        )
    used = np.stack(images[: settings.images])
    batch = torch.from_numpy(used).permute(0, 3, 1, 2).float() / 255.0
    point = detector.operating_point
    found = np.zeros((len(settings.contrasts), len(settings.sizes), len(used)), dtype=bool)
    for row, contrast in enumerate(settings.contrasts):
        for column, size in enumerate(settings.sizes):
            # Anew for each: an image has the same stain in every cell, but for size and contrast.
            stream = generator(seed, Stream.DETECTABILITY)
            painted, _ = stained(batch, size=size, contrast=contrast, corruption=corruption, generator=stream)
            pixels = (painted * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
            found[row, column] = [score > point.promise.threshold for score in detector.scores(list(pixels))]
    resamples = _resampled(found, settings, seed)
    return Detectability(
        weights_sha256=point.weights_sha256,
        strategy=point.strategy,
        threshold=point.promise.threshold,
        image_size=point.image_size,
        seed=seed,
        images=said,
        n=len(used),
        sizes=settings.sizes,
        contrasts=settings.contrasts,
        reference_contrast=settings.reference_contrast,
        find_rate=settings.find_rate,
        confidence=settings.confidence,
        found=tuple(tuple(tuple(bool(one) for one in cell) for cell in row) for row in found),
        rates=tuple(tuple(float(cell.mean()) for cell in row) for row in found),
        curve=tuple(
            _smallest(contrast, found[row], resamples[row], settings) for row, contrast in enumerate(settings.contrasts)
        ),
    )


def smallest_size(rates: npt.ArrayLike, sizes: Sequence[float], wished: float) -> float:
    """Where the isotonic fit of `rates` (one a size, ascending) reaches `wished`; infinite if it never does."""
    fitted = isotonic_regression(np.asarray(rates, dtype=float)).x
    reached = np.flatnonzero(fitted >= wished - _SLACK)
    if not len(reached):
        return math.inf
    at = int(reached[0])
    if at == 0:
        return float(sizes[0])
    low, high = fitted[at - 1], fitted[at]
    share = (wished - low) / (high - low)
    return float(math.exp(math.log(sizes[at - 1]) + share * (math.log(sizes[at]) - math.log(sizes[at - 1]))))


def compare(before: Detectability, now: Detectability, *, tolerance: float, level: float, bootstrap: int) -> Loss:
    """Whether the figure is worse than at the registration: beyond the tolerance, and beyond chance.

    Chance: the logarithm of the ratio has the standard error of two independent bootstraps over images, and its lower
    one-sided normal limit at `level` must be above 0. With the level of a look (`aesc.drift.spent`) the looks of a
    model's whole life share one error rate, as far as the normal law holds.

    Args:
        tolerance: 0.25 tolerates stains that must be 25 % larger.
        level: of the one-sided limit.
        bootstrap: resamples.

    Raises:
        AescError: the two were not measured alike.
    """
    for name in ("sizes", "contrasts", "reference_contrast", "find_rate", "image_size"):
        if getattr(before, name) != getattr(now, name):
            raise AescError(
                f"detectability ({name})",
                f"{getattr(now, name)}",
                allowed=f"{getattr(before, name)}, as at the registration",
                todo="measure with the same grid",
            )
    logs = [_log_figures(one, bootstrap) for one in (before, now)]
    (before_log, before_draws), (now_log, now_draws) = logs
    error = math.sqrt(float(before_draws.var()) + float(now_draws.var()))
    ratio = math.exp(now_log - before_log)
    low = math.exp(now_log - before_log - float(norm.isf(level)) * error)
    lost = ratio > 1.0 + tolerance and low > 1.0
    sizes = f"{_pixels(before.figure.size, before)} at the registration, {_pixels(now.figure.size, now)} now"
    words = f"{sizes}: {ratio:.2f} times, beyond {low:.2f} at level {level:.2g}; tolerated {1.0 + tolerance:g} times"
    return Loss(
        before=before.figure.size,
        now=now.figure.size,
        ratio=ratio,
        low=low,
        level=level,
        tolerance=tolerance,
        lost=lost,
        words=words,
    )


def describe(found: Detectability) -> str:
    """The figure in words."""
    point = found.figure
    if point.size is None:
        interval = "" if point.low is None else f"{100 * found.confidence:g} % interval from {point.low:.2f} px on, "
        return (
            f"stains of {point.contrast:g} grey levels contrast are not found with {100 * found.find_rate:g} % "
            f"probability up to a semi-axis of {found.sizes[-1]:g} px, the largest measured "
            f"({interval}{found.n} images of {found.image_size} pixels)"
        )
    interval = f"{_pixels(point.low, found)} to {_pixels(point.high, found)}"
    return (
        f"a stain of {point.contrast:g} grey levels contrast is found with {100 * found.find_rate:g} % probability "
        f"from a semi-axis of {'at most ' if point.at_most else ''}{_pixels(point.size, found)} on "
        f"({100 * found.confidence:g} % interval {interval}, {found.n} images of {found.image_size} pixels)"
    )


def _pixels(size: float | None, found: Detectability) -> str:
    return f"more than {found.sizes[-1]:g} px" if size is None else f"{size:.2f} px"


def _log_figures(found: Detectability, bootstrap: int) -> tuple[float, npt.NDArray[np.float64]]:
    """The logarithm of the reference figure and of its resamples; beyond the grid it is one step beyond its end."""
    row = found.contrasts.index(found.reference_contrast)
    table = np.array(found.found[row], dtype=float)
    beyond = found.sizes[-1] * found.sizes[-1] / found.sizes[-2]
    rng = np.random.default_rng(derive_seed(found.seed, Stream.DETECTABILITY, found.n))

    def log_size(rates: npt.NDArray[np.float64]) -> float:
        return math.log(min(smallest_size(rates, found.sizes, found.find_rate), beyond))

    draws = [log_size(table[:, rng.integers(found.n, size=found.n)].mean(axis=1)) for _ in range(bootstrap)]
    return log_size(table.mean(axis=1)), np.array(draws)


def _resampled(found: npt.NDArray[np.bool_], settings: Monitoring, seed: int) -> npt.NDArray[np.float64]:
    """Contrasts x resamples: the smallest size each time."""
    n = found.shape[2]
    rng = np.random.default_rng(derive_seed(seed, Stream.DETECTABILITY, n))
    draws = np.empty((len(found), settings.bootstrap))
    for column in range(settings.bootstrap):
        rates = found[:, :, rng.integers(n, size=n)].mean(axis=2)
        draws[:, column] = [smallest_size(row, settings.sizes, settings.find_rate) for row in rates]
    return draws


def _smallest(
    contrast: float, found: npt.NDArray[np.bool_], draws: npt.NDArray[np.float64], settings: Monitoring
) -> Smallest:
    size = smallest_size(found.mean(axis=1), settings.sizes, settings.find_rate)
    tail = (1.0 - settings.confidence) / 2.0
    # Order statistics, not interpolated: an infinite size is a size that the grid does not reach.
    low, high = (float(np.quantile(draws, share, method="inverted_cdf")) for share in (tail, 1.0 - tail))
    return Smallest(
        contrast=contrast,
        size=_finite_or_none(size),
        low=_finite_or_none(low),
        high=_finite_or_none(high),
        at_most=size == settings.sizes[0],
    )


def _finite_or_none(size: float) -> float | None:
    return size if math.isfinite(size) else None
