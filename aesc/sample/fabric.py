"""The texture category: cloth of blue warp and natural weft threads."""

from __future__ import annotations

from math import sqrt

import numpy as np

from aesc.sample import camera
from aesc.sample import fields as f
from aesc.sample.fields import Field
from aesc.sample.shapes import Blob, curve, path_distance
from aesc.sample.weave import MIDDLE, THREADS, Cloth, Damage

DEFECTS = ("foreign_thread", "hole", "misweave", "stain")

_LINT = ((150.0, 62.0, 54.0), (62.0, 104.0, 70.0), (196.0, 170.0, 84.0), (52.0, 48.0, 54.0), (206.0, 202.0, 196.0))


def draw(scene: np.random.Generator, *, size: int, defect: str | None, damage: np.random.Generator) -> Field:
    """One image, (size, size, 3), 0 to 255 but not rounded or clipped.

    Args:
        scene: draws the fabric, lamp and camera; consumed alike with and without a defect.
        size: side in pixels.
        defect: one of DEFECTS, or None for a clean image.
        damage: draws the defect.
    """
    image = Cloth(scene, size=size).paint(_hurt_threads(damage, defect))
    x, y = f.grid(size)
    if defect == "stain":
        image = _stain(damage, image, x, y, size=size)
    elif defect == "foreign_thread":
        image = _lint(damage, image, x, y, size=size)
    return camera.sensor(scene, image * camera.light(scene, x, y, size=size)[..., None])


def _hurt_threads(rng: np.random.Generator, defect: str | None) -> Damage:
    """A hole cuts threads both ways, round and frayed; in a misweave a weft thread skips several warp threads."""
    warp, weft = np.zeros((THREADS, 2)), np.zeros((THREADS, 2))
    floats = []
    centre_u, centre_v = MIDDLE + f.uniform(rng, -5.0, 5.0), MIDDLE + f.uniform(rng, -5.0, 5.0)
    if defect == "hole":
        radius_u, radius_v = f.uniform(rng, 1.35, 1.95), f.uniform(rng, 1.35, 1.95)
        for gaps, mine, other, radius, reach in (
            (warp, centre_u, centre_v, radius_u, radius_v),
            (weft, centre_v, centre_u, radius_v, radius_u),
        ):
            for number in range(THREADS):
                off = (number + 0.5 - mine) / radius
                cut = reach * sqrt(max(0.0, 1.0 - off * off)) * f.uniform(rng, 0.6, 1.25)
                gaps[number] = (other + f.uniform(rng, -0.4, 0.4), cut if cut > 0.3 else 0.0)
    elif defect == "misweave":
        row, first = int(centre_v), int(centre_u)
        for step in range(1 + f.choice(rng, 2)):
            count = 5 + f.choice(rng, 5)
            floats.append((row + 2 * step, first - count // 2 + f.choice(rng, 3) - 1, count))
    return Damage(warp_gap=warp, weft_gap=weft, floats=floats, grain=f.lattice(rng))


def _stain(rng: np.random.Generator, image: Field, x: Field, y: Field, *, size: int) -> Field:
    """Oil that the threads soaked up: darker and browner, with a rim, the weave still visible."""
    dx, dy = x - f.uniform(rng, 0.22, 0.78) * size, y - f.uniform(rng, 0.22, 0.78) * size
    radius = f.uniform(rng, 9.0, 17.0)
    edge = Blob.draw(rng, radius=radius, irregularity=0.45, stretch=f.uniform(rng, 1.0, 1.6)).distance(dx, dy)
    depth = f.uniform(rng, 0.20, 0.38)
    rim = np.clip(1.0 - np.abs(edge + 1.5) / 2.5, 0.0, 1.0)
    blotch = f.noise_at(f.lattice(rng), x / 5.0, y / 5.0)
    soak = np.clip(0.5 - edge / 1.5, 0.0, 1.0) * (depth + 0.10 * rim + 0.05 * blotch)
    return np.asarray(image * (1.0 - soak[..., None] * np.array([0.85, 1.0, 1.2])))


def _lint(rng: np.random.Generator, image: Field, x: Field, y: Field, *, size: int) -> Field:
    """A foreign thread lying on the cloth, with the shadow beside it."""
    middle = (f.uniform(rng, 0.3, 0.7) * size, f.uniform(rng, 0.3, 0.7) * size)
    (ax, ay), (bx, by) = f.direction(rng), f.direction(rng)
    reach, bend = f.uniform(rng, 28.0, 42.0), f.uniform(rng, 10.0, 34.0)
    points = curve(
        (middle[0] - reach * ax, middle[1] - reach * ay),
        (middle[0] + bend * bx, middle[1] + bend * by),
        (middle[0] + reach * ax, middle[1] + reach * ay),
    )
    half = f.uniform(rng, 1.1, 1.6)
    colour = np.array(_LINT[f.choice(rng, len(_LINT))])
    shadow = np.clip(half + 0.8 - path_distance(x - 1.0, y - 1.2, points), 0.0, 1.0)
    image = np.asarray(image * (1.0 - 0.28 * shadow[..., None]))
    distance = path_distance(x, y, points)
    twist = f.noise_at(f.lattice(rng), (x + y) / 1.6, (x - y) / 3.0)
    shade = 1.10 - 0.25 * distance * distance / (half * half) + 0.10 * twist
    return f.mix(image, colour * np.maximum(shade, 0.4)[..., None], np.clip(half + 0.5 - distance, 0.0, 1.0))
