"""What lamp and camera do to a scene, whatever lies under them."""

from __future__ import annotations

import numpy as np

from aesc.sample import fields as f
from aesc.sample.fields import Field


def light(rng: np.random.Generator, x: Field, y: Field, *, size: int) -> Field:
    """The lamp: exposure, a gradient in any direction, a slight vignette and a slow unevenness; near 1, (h, w)."""
    cos, sin = f.direction(rng)
    tilt = f.uniform(rng, 0.02, 0.22) / size
    exposure = f.uniform(rng, 0.88, 1.12)
    dx, dy = x - size / 2, y - size / 2
    vignette = f.uniform(rng, 0.0, 0.10) * 2.0 / (size * size)
    uneven = f.uniform(rng, 0.0, 0.03) * f.noise_at(f.lattice(rng), x / 48.0, y / 48.0)
    return np.asarray(exposure * (1.0 + tilt * (dx * cos + dy * sin) - vignette * (dx * dx + dy * dy) + uneven))


def sensor(rng: np.random.Generator, image: Field) -> Field:
    """Camera noise: a part that all channels share, a part of each channel's own, more where it is bright."""
    strength = f.uniform(rng, 1.6, 3.2)
    grain = 0.75 * f.normal(rng, (*image.shape[:2], 1)) + 0.65 * f.normal(rng, image.shape)
    return np.asarray(image + strength * np.sqrt(0.4 + image / 200.0) * grain)
