"""Outlines as distances in pixels, negative inside: irregular blobs and curved lines."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import numpy as np

from aesc.sample import fields as f
from aesc.sample.fields import Field


@dataclass(frozen=True)
class Blob:
    """An irregular, stretched disc around 0, 0."""

    radius: float  # mean radius in pixels
    irregularity: float  # how far the outline leaves the ellipse, as a share of the radius
    stretch: float  # ratio of the axes
    orientation: tuple[float, float]
    coarse: Field
    fine: Field

    @classmethod
    def draw(cls, rng: np.random.Generator, *, radius: float, irregularity: float, stretch: float = 1.0) -> Blob:
        return cls(radius, irregularity, stretch, f.direction(rng), f.lattice(rng), f.lattice(rng))

    def distance(self, dx: Field, dy: Field) -> Field:
        """Roughly the distance to the outline."""
        cos, sin = self.orientation
        along, across = (dx * cos + dy * sin) / sqrt(self.stretch), (dy * cos - dx * sin) * sqrt(self.stretch)
        away = np.sqrt(along * along + across * across)
        # Noise around the unit circle gives a closed outline without an angle.
        unit_x, unit_y = along / (away + 1e-9), across / (away + 1e-9)
        outline = 0.7 * f.noise_at(self.coarse, unit_x * 1.3 + 7.3, unit_y * 1.3 + 5.1)
        outline = outline + 0.3 * f.noise_at(self.fine, unit_x * 3.1 + 9.2, unit_y * 3.1 + 4.7)
        return np.asarray(away - self.radius * (1.0 + self.irregularity * outline))


def path_distance(x: Field, y: Field, points: list[tuple[float, float]]) -> Field:
    """Distance in pixels from x, y to a line through the points."""
    nearest = np.full(x.shape, np.inf)
    for (x0, y0), (x1, y1) in pairwise(points):
        ux, uy = x1 - x0, y1 - y0
        share = np.clip(((x - x0) * ux + (y - y0) * uy) / (ux * ux + uy * uy), 0.0, 1.0)
        ex, ey = x - x0 - share * ux, y - y0 - share * uy
        nearest = np.minimum(nearest, ex * ex + ey * ey)
    return np.asarray(np.sqrt(nearest), dtype=np.float64)


def curve(
    start: tuple[float, float], middle: tuple[float, float], end: tuple[float, float], *, pieces: int = 16
) -> list[tuple[float, float]]:
    """Points of the quadratic Bezier curve with these control points."""
    points = []
    for index in range(pieces + 1):
        t = index / pieces
        a, b, c = (1.0 - t) * (1.0 - t), 2.0 * t * (1.0 - t), t * t
        points.append((a * start[0] + b * middle[0] + c * end[0], a * start[1] + b * middle[1] + c * end[1]))
    return points
