"""A stain drawn one image at a time: points, a periodic spline, a filled polygon, and a blend of the whole image."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter

from aesc.params import Corruption

POINTS, OUTLINE_POINTS = 20, 256


def draw_stain(
    image: NDArray[np.float32], params: Corruption, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A corrupted copy of `image` (side x side x channels in [0, 1]) and where it was changed (side x side)."""
    side = image.shape[0]
    low, high = params.size
    a, b = rng.uniform(low * side, high * side, size=2)
    turn = rng.uniform(0.0, math.pi)
    angles = (np.arange(POINTS) + rng.uniform(size=POINTS)) * (2 * math.pi / POINTS)
    moves = 1.0 + rng.uniform(-params.irregularity, params.irregularity, size=POINTS)
    spline = CubicSpline(np.append(angles, angles[0] + 2 * math.pi), np.append(moves, moves[0]), bc_type="periodic")
    outline = np.linspace(0.0, 2 * math.pi, OUTLINE_POINTS, endpoint=False)
    ellipse = a * b / np.hypot(b * np.cos(outline - turn), a * np.sin(outline - turn))
    radius = np.clip(ellipse * spline(outline), 0.0, max(a, b) * (1.0 + params.irregularity))
    x, y = radius * np.cos(outline), radius * np.sin(outline)

    margin_x, margin_y = np.ceil(np.abs(x).max()), np.ceil(np.abs(y).max())
    centre_x = rng.integers(margin_x, side - margin_x)
    centre_y = rng.integers(margin_y, side - margin_y)
    canvas = Image.new("L", (side, side), 0)
    ImageDraw.Draw(canvas).polygon(list(zip((centre_x + x).tolist(), (centre_y + y).tolist(), strict=True)), fill=255)
    opacity = np.asarray(canvas, dtype=np.float32) / 255.0
    if params.blur:
        opacity = gaussian_filter(opacity, params.blur * max(a, b))

    level = rng.uniform(*params.grey) / 255.0
    noise = rng.normal(0.0, math.sqrt(params.noise_variance), size=(side, side, 1))
    filling = np.clip(level + noise, 0.0, 1.0)
    corrupted = image * (1.0 - opacity[..., None]) + filling * opacity[..., None]
    return corrupted.astype(np.float32), opacity >= 0.5
