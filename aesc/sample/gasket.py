"""The object category: a turned steel gasket with six bolt holes, an O-ring groove and a keyway, on a conveyor belt."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from aesc.sample import camera
from aesc.sample import fields as f
from aesc.sample.fields import Field
from aesc.sample.shapes import Blob, curve, path_distance

DEFECTS = ("chip", "contamination", "dent", "scratch")

_OUTER, _INNER, _BOLT_CIRCLE, _BOLT = 47.0, 18.0, 36.0, 4.8
_HIGH = sqrt(0.75)
_SIXTHS = ((1.0, 0.0), (0.5, _HIGH), (-0.5, _HIGH), (-1.0, 0.0), (-0.5, -_HIGH), (0.5, -_HIGH))
_BELT, _STEEL = (180.0, 181.0, 178.0), (126.0, 129.0, 134.0)
_TARNISH = (7.0, 0.0, -8.0)
_DIRT = ((70.0, 58.0, 46.0), (86.0, 84.0, 78.0), (150.0, 118.0, 78.0), (176.0, 168.0, 140.0))


@dataclass(frozen=True)
class _Pose:
    """Where the part lies: from image coordinates to its own, in which its centre is 0, 0."""

    x: float
    y: float
    cos: float
    sin: float
    scale: float

    def own(self, x: Field, y: Field) -> tuple[Field, Field]:
        dx, dy = (x - self.x) / self.scale, (y - self.y) / self.scale
        return self.cos * dx + self.sin * dy, self.cos * dy - self.sin * dx


def draw(scene: np.random.Generator, *, size: int, defect: str | None, damage: np.random.Generator) -> Field:
    """One image, (size, size, 3), 0 to 255 but not rounded or clipped.

    Args:
        scene: draws the part, belt, lamp and camera; consumed alike with and without a defect.
        size: side in pixels; the part is drawn for 128.
        defect: one of DEFECTS, or None for a clean image.
        damage: draws the defect.
    """
    x, y = f.grid(size)
    cos, sin = f.turn(f.uniform(scene, -0.06, 0.06))
    pose = _Pose(
        x=size / 2 + f.uniform(scene, -4.0, 4.0),
        y=size / 2 + f.uniform(scene, -4.0, 4.0),
        cos=cos,
        sin=sin,
        scale=f.uniform(scene, 0.975, 1.025),
    )
    chip = _Chip.draw(damage) if defect == "chip" else None
    edge = _edge(pose, x, y, chip)
    cover = np.clip(0.5 - edge, 0.0, 1.0)

    steel = _steel(scene, pose, x, y, edge)
    if defect == "dent":
        steel = _dent(damage, pose, steel, x, y)
    elif defect == "scratch":
        steel = _scratch(damage, pose, steel, x, y)
    shadow_x, shadow_y = f.uniform(scene, 2.0, 4.0), f.uniform(scene, 2.5, 4.5)
    depth = f.uniform(scene, 0.26, 0.42)
    shade = depth * f.smooth(0.5 - _edge(pose, x - shadow_x, y - shadow_y, chip) / 6.0)
    belt = _belt(scene, x, y) * (1.0 - shade[..., None])
    image = f.mix(belt, steel, cover)
    if defect == "contamination":
        image = _contamination(damage, pose, image, x, y)
    return camera.sensor(scene, image * camera.light(scene, x, y, size=size)[..., None])


@dataclass(frozen=True)
class _Chip:
    """A piece broken off the outer rim, in the part's own coordinates."""

    x: float
    y: float
    outline: Blob

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Chip:
        cos, sin = f.direction(rng)
        away = _OUTER + f.uniform(rng, -3.0, 1.0)
        outline = Blob.draw(rng, radius=f.uniform(rng, 8.5, 15.0), irregularity=0.4)
        return cls(x=cos * away, y=sin * away, outline=outline)


def _edge(pose: _Pose, x: Field, y: Field, chip: _Chip | None) -> Field:
    """Distance in pixels to the part's edge, negative on the part."""
    u, v = pose.own(x, y)
    away = np.sqrt(u * u + v * v)
    edge = np.maximum(away - _OUTER, _INNER - away)
    for cos, sin in _SIXTHS:
        hole_u, hole_v = u - _BOLT_CIRCLE * cos, v - _BOLT_CIRCLE * sin
        edge = np.maximum(edge, _BOLT - np.sqrt(hole_u * hole_u + hole_v * hole_v))
    keyway = np.maximum(np.abs(u) - 3.6, np.abs(v + _INNER) - 4.6)
    edge = np.maximum(edge, -keyway)
    if chip is not None:
        edge = np.maximum(edge, -chip.outline.distance(u - chip.x, v - chip.y))
    return np.asarray(edge * pose.scale)


def _belt(rng: np.random.Generator, x: Field, y: Field) -> Field:
    """Light grey rubber with faint ribs along the direction of travel, and scuffs."""
    offset = f.uniform(rng, 0.0, 32.0)
    ribs = 3.0 * f.noise_at(f.lattice(rng), x / 14.0, y / 1.3 + offset)
    scuffs = 5.0 * f.noise_at(f.lattice(rng), x / 19.0, y / 11.0) + 2.5 * f.noise_at(f.lattice(rng), x / 2.2, y / 2.2)
    base = f.uniform(rng, -9.0, 9.0)
    tint = [f.uniform(rng, -2.5, 2.5) for _ in range(3)]
    return np.stack([grey + base + hue + ribs + scuffs for grey, hue in zip(_BELT, tint, strict=True)], axis=-1)


def _steel(rng: np.random.Generator, pose: _Pose, x: Field, y: Field, edge: Field) -> Field:
    """Turned steel: rings of tool marks, a bow-tie highlight, a groove, edges that catch the light."""
    dx, dy = x - pose.x, y - pose.y
    u, v = pose.own(x, y)
    away = np.sqrt(u * u + v * v)
    marks, slow = f.lattice(rng), f.lattice(rng)
    depth = f.uniform(rng, 4.0, 8.0)
    rings = depth * f.noise_at(marks, away * 0.9, u * 0.03 + v * 0.02) + 3.0 * f.noise_at(slow, u / 20.0, v / 20.0)

    lamp_x, lamp_y = -0.6 + f.uniform(rng, -0.15, 0.15), -0.8 + f.uniform(rng, -0.1, 0.1)
    towards = (dx * lamp_x + dy * lamp_y) / (away * pose.scale + 1e-9)
    gloss = f.uniform(rng, 10.0, 24.0) * (towards * towards - 0.5)

    slope_x, slope_y = np.zeros_like(edge), np.zeros_like(edge)
    slope_x[:, 1:-1], slope_y[1:-1] = 0.5 * (edge[:, 2:] - edge[:, :-2]), 0.5 * (edge[2:] - edge[:-2])
    bevel = np.clip(1.0 + edge / 2.6, 0.0, 1.0) * (slope_x * lamp_x + slope_y * lamp_y) * f.uniform(rng, 24.0, 38.0)

    groove = np.clip(2.2 - np.abs(away - 25.0), 0.0, 1.0)
    inside = (away - 25.0) / 2.2  # from the groove's inner wall to its outer wall
    groove_shade = groove * (-24.0 - 12.0 * np.clip(inside, -1.0, 1.0) * towards)

    base = f.uniform(rng, -9.0, 9.0)
    warmth = f.uniform(rng, -4.0, 4.0)
    shade = base + rings + gloss + bevel + groove_shade
    return np.stack([grey + shade + warmth * part for grey, part in zip(_STEEL, (1.0, 0.1, -1.0), strict=True)], -1)


def _spot(rng: np.random.Generator, pose: _Pose, x: Field, y: Field, *, away: float) -> tuple[Field, Field]:
    """Offsets from a place on the part that far from its middle, in its own coordinates."""
    u, v = pose.own(x, y)
    cos, sin = f.direction(rng)
    return u - away * cos, v - away * sin


def _dent(rng: np.random.Generator, pose: _Pose, steel: Field, x: Field, y: Field) -> Field:
    """A shallow blow between two bolt holes: one flank lit, the other not, tool marks battered, a slight tarnish."""
    u, v = pose.own(x, y)
    first = f.choice(rng, len(_SIXTHS))
    (ax, ay), (bx, by) = _SIXTHS[first], _SIXTHS[first - 1]
    away = f.uniform(rng, 33.0, 36.0) / sqrt(3.0)
    du, dv = u - away * (ax + bx), v - away * (ay + by)
    radius = f.uniform(rng, 9.0, 11.0)
    edge = Blob.draw(rng, radius=radius, irregularity=0.25, stretch=f.uniform(rng, 1.0, 1.3)).distance(du, dv)
    inside = np.clip(0.3 - edge / (0.35 * radius), 0.0, 1.0)
    flank = (0.6 * du + 0.8 * dv) / radius
    battered = f.noise_at(f.lattice(rng), x / 2.7, y / 2.7)
    change = f.uniform(rng, 20.0, 28.0) * flank + 12.0 * battered - 6.0
    return np.asarray(steel + inside[..., None] * (change[..., None] + np.array(_TARNISH)))


def _scratch(rng: np.random.Generator, pose: _Pose, steel: Field, x: Field, y: Field) -> Field:
    """Bright bare metal with a dark burr beside it, deeper in places; two or three strokes."""
    u, v = pose.own(x, y)
    cos, sin = f.direction(rng)
    away = f.uniform(rng, 31.0, 37.0)
    middle = (away * cos, away * sin)
    lean = f.uniform(rng, -0.35, 0.35)
    along = (-sin + lean * cos, cos + lean * sin)
    pressure = f.lattice(rng)
    for stroke in range(2 + f.choice(rng, 2)):
        reach, bend = f.uniform(rng, 20.0, 28.0), f.uniform(rng, -5.0, 5.0)
        start = (middle[0] - 4.5 * stroke * cos, middle[1] - 4.5 * stroke * sin)
        points = curve(
            (start[0] - reach * along[0], start[1] - reach * along[1]),
            (start[0] + bend * cos, start[1] + bend * sin),
            (start[0] + reach * along[0], start[1] + reach * along[1]),
        )
        half = f.uniform(rng, 0.9, 1.3)
        strength = f.uniform(rng, 34.0, 58.0) * (0.75 + 0.35 * f.noise_at(pressure, u / 5.0 + 11.0 * stroke, v / 5.0))
        bright = np.clip(half + 0.5 - path_distance(u, v, points), 0.0, 1.0)
        burr = np.clip(half + 0.7 - path_distance(u - 1.5, v - 1.5, points), 0.0, 1.0)
        steel = np.asarray(steel + (strength * (bright - 0.7 * burr * (1.0 - bright)))[..., None])
    return steel


def _contamination(rng: np.random.Generator, pose: _Pose, image: Field, x: Field, y: Field) -> Field:
    """Dirt in one large and some small clots, lit from above, lying on part and belt alike."""
    du, dv = _spot(rng, pose, x, y, away=f.uniform(rng, 22.0, 42.0))
    radius = f.uniform(rng, 7.5, 13.0)
    edge = Blob.draw(rng, radius=radius, irregularity=0.5, stretch=f.uniform(rng, 1.0, 1.7)).distance(du, dv)
    for _ in range(2 + f.choice(rng, 4)):
        cos, sin = f.direction(rng)
        away = radius * f.uniform(rng, 1.3, 1.9)
        drop = Blob.draw(rng, radius=f.uniform(rng, 1.2, 2.8), irregularity=0.4)
        edge = np.minimum(edge, drop.distance(du - away * cos, dv - away * sin))
    colour = np.array(_DIRT[f.choice(rng, len(_DIRT))])
    lumps = f.noise_at(f.lattice(rng), x / 2.5, y / 2.5) + 0.6 * f.noise_at(f.lattice(rng), x / 6.0, y / 6.0)
    surface = colour * (1.0 + 0.16 * lumps)[..., None]
    alpha = np.clip(0.5 - edge, 0.0, 1.0) * (0.88 + 0.12 * f.noise_at(f.lattice(rng), x / 4.0, y / 4.0))
    return f.mix(image, surface, alpha)
