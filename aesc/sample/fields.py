"""Randomness and smooth fields that are the same to the last bit on every machine.

Two rules make them so. Of `np.random.Generator` only `random` is used: it is 53 bits of PCG64 as they come, while the
other methods may change between NumPy versions (NEP 19). On arrays only + - * / sqrt, comparisons and floor are used:
IEEE 754 fixes their results, while sin, exp and sums in blocks differ between processors.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float64]

_WRAP = 32  # lattices repeat after so many cells; a power of two


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """One number in [low, high)."""
    return low + (high - low) * float(rng.random())


def choice(rng: np.random.Generator, count: int) -> int:
    """One of 0 .. count - 1."""
    return min(int(rng.random() * count), count - 1)


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Field:
    """Bell-shaped noise of mean 0 and variance 1: the scaled sum of four uniform numbers, within +-3.5."""
    total = rng.random(shape) + rng.random(shape) + rng.random(shape) + rng.random(shape)
    return np.asarray((total - 2.0) * sqrt(3.0))


def direction(rng: np.random.Generator) -> tuple[float, float]:
    """A unit vector of any orientation."""
    cos, sin = turn(uniform(rng, -1.0, 1.0))
    return (cos, sin) if rng.random() < 0.5 else (-cos, -sin)


def turn(half_tangent: float) -> tuple[float, float]:
    """Cosine and sine of the angle whose half has this tangent: a rotation without sin or cos."""
    square = half_tangent * half_tangent
    return (1.0 - square) / (1.0 + square), 2.0 * half_tangent / (1.0 + square)


def grid(size: int, *, per_pixel: int = 1) -> tuple[Field, Field]:
    """Coordinates x and y of the sample points in pixels, each (size * per_pixel, size * per_pixel)."""
    axis = (np.arange(size * per_pixel) + 0.5) / per_pixel
    x, y = np.meshgrid(axis, axis)
    return x, y


def halve(field: Field) -> Field:
    """Mean over 2 x 2 sample points; (2h, 2w, ...) to (h, w, ...)."""
    return np.asarray((field[0::2, 0::2] + field[1::2, 0::2] + field[0::2, 1::2] + field[1::2, 1::2]) * 0.25)


def lattice(rng: np.random.Generator) -> Field:
    """Random values in [-1, 1) for `noise_at`."""
    return np.asarray(rng.random((_WRAP, _WRAP)) * 2.0 - 1.0)


def noise_at(values: Field, x: Field, y: Field) -> Field:
    """Value noise in [-1, 1): the lattice interpolated smoothly at x, y, given in cells."""
    left, top = np.floor(x), np.floor(y)
    across, down = x - left, y - top
    across, down = across * across * (3.0 - 2.0 * across), down * down * (3.0 - 2.0 * down)
    i, j = left.astype(np.int32) & (_WRAP - 1), top.astype(np.int32) & (_WRAP - 1)
    right, row, below = (i + 1) & (_WRAP - 1), j * _WRAP, ((j + 1) & (_WRAP - 1)) * _WRAP
    flat = values.ravel()
    upper, lower = flat.take(row + i), flat.take(below + i)
    upper += (flat.take(row + right) - upper) * across
    lower += (flat.take(below + right) - lower) * across
    return np.asarray(upper + (lower - upper) * down)


def smooth(share: Field) -> Field:
    """Smoothstep: 0 to 1 without a kink, for a share clipped into [0, 1]."""
    part = np.clip(share, 0.0, 1.0)
    return np.asarray(part * part * (3.0 - 2.0 * part))


def mix(under: Field, over: Field | npt.ArrayLike, alpha: Field) -> Field:
    """`over` laid on `under`; images (h, w, 3), alpha (h, w)."""
    return np.asarray(under + (np.asarray(over) - under) * alpha[..., None])
