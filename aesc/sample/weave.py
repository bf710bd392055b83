"""A plain weave: every warp (vertical) thread goes over one weft (horizontal) thread and under the next.

All threads are numbered; u counts them from left to right and v from top to bottom, so a thread is 1 wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aesc.sample import fields as f
from aesc.sample.fields import Field

THREADS = 64  # each way; more than an image shows, whatever its rotation
MIDDLE = 25  # number of the threads near the image's centre

_WARP, _WEFT, _TABLE = (112.0, 124.0, 148.0), (166.0, 158.0, 142.0), (80.0, 74.0, 69.0)
_ABSENT = -9.0  # height where there is no thread
_STRIP = 32  # rows painted at once: small arrays stay in the cache, three times as fast


@dataclass(frozen=True)
class Damage:
    """What a defect does to the threads."""

    warp_gap: Field  # (THREADS, 2): centre and half-length along the thread, in threads; length 0 is whole
    weft_gap: Field
    floats: list[tuple[int, int, int]]  # weft threads on top: number, first warp thread, how many
    grain: Field  # lattice of the table seen through a hole


@dataclass(frozen=True)
class _Yarn:
    """The threads of one direction: each differs, and along its length too."""

    width: Field
    tone: Field
    slubs: Field
    fibres: Field

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Yarn:
        width, tone = 0.39 + 0.10 * rng.random(THREADS), 0.20 * (rng.random(THREADS) - 0.5)
        return cls(width=width, tone=tone, slubs=f.lattice(rng), fibres=f.lattice(rng))

    def lay(self, number: npt.NDArray[np.int64], across: Field, along: Field, left: Field) -> tuple[Field, Field]:
        """Height of the round thread (0 beside it), and its own tone."""
        which = number.astype(np.float64)
        slub = 1.0 + 0.14 * f.noise_at(self.slubs, along / 3.0, which * 1.37)
        relative = across / (self.width.take(number) * slub * (0.05 + 0.95 * left))
        body = np.where(left > 0.0, np.sqrt(np.maximum(0.0, 1.0 - relative * relative)), 0.0)
        # The yarn is twisted: its fibres run slantwise.
        twist = f.noise_at(self.fibres, across * 5.0 + along * 2.5, along * 0.8 + which * 3.7)
        return body, self.tone.take(number) + 0.08 * twist


class Cloth:
    """One piece of cloth as it lies under the camera."""

    def __init__(self, rng: np.random.Generator, *, size: int) -> None:
        self._size = size
        self._cos, self._sin = f.turn(f.uniform(rng, -0.025, 0.025))
        self._pitch, self._pull = f.uniform(rng, 6.8, 7.3), f.uniform(rng, 0.3, 1.1)
        self._shift = MIDDLE - f.uniform(rng, 0.0, 2.0), MIDDLE - f.uniform(rng, 0.0, 2.0)
        self._wobble = f.lattice(rng), f.lattice(rng)
        self._warp, self._weft = _Yarn.draw(rng), _Yarn.draw(rng)
        self._contrast, self._fade = f.uniform(rng, 0.75, 1.25), f.uniform(rng, -0.12, 0.12)
        self._tint = [1.0 + f.uniform(rng, -0.025, 0.025) for _ in range(3)]

    def paint(self, damage: Damage) -> Field:
        """The cloth in even light, (size, size, 3), from 2 x 2 sample points a pixel."""
        x, y = f.grid(self._size, per_pixel=2)
        rows = range(0, len(x), _STRIP)
        return np.concatenate([f.halve(self._strip(x[r : r + _STRIP], y[r : r + _STRIP], damage)) for r in rows])

    def _threads(self, x: Field, y: Field) -> tuple[Field, Field]:
        """u and v of points in the image: rotated, shifted and a little pulled out of shape."""
        dx, dy = x - self._size / 2, y - self._size / 2
        pull_u, pull_v = (self._pull * f.noise_at(wobble, x / 37.0, y / 37.0) for wobble in self._wobble)
        u = (self._cos * dx + self._sin * dy + pull_u) / self._pitch + self._shift[0]
        v = (self._cos * dy - self._sin * dx + pull_v) / self._pitch + self._shift[1]
        return u, v

    def _strip(self, x: Field, y: Field, damage: Damage) -> Field:
        u, v = self._threads(x, y)
        i, j = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
        across_u, across_v = u - i - 0.5, v - j - 0.5

        # (1 - 4 t^2) with a sign that alternates from crossing to crossing is a smooth wave.
        sign = 1.0 - 2.0 * ((i + j) % 2)
        warp_rise = sign * (1.0 - 4.0 * across_v * across_v)
        weft_rise = -sign * (1.0 - 4.0 * across_u * across_u)
        for row, first, count in damage.floats:
            inside = (j == row) & (i >= first) & (i < first + count)
            warp_rise, weft_rise = np.where(inside, -0.8, warp_rise), np.where(inside, 0.75, weft_rise)

        warp_left, weft_left = _left(damage.warp_gap, i, v), _left(damage.weft_gap, j, u)
        # A thread with nothing to cross lies flat.
        warp_rise, weft_rise = warp_rise * (0.2 + 0.8 * weft_left), weft_rise * (0.2 + 0.8 * warp_left)
        warp_body, warp_tone = self._warp.lay(i, across_u, v, warp_left)
        weft_body, weft_tone = self._weft.lay(j, across_v, u, weft_left)

        warp_height = np.where(warp_body > 0.0, 0.5 * warp_body + 0.6 * warp_rise, _ABSENT)
        weft_height = np.where(weft_body > 0.0, 0.5 * weft_body + 0.6 * weft_rise, _ABSENT)
        on_top = warp_height > weft_height
        bare = np.maximum(warp_height, weft_height) == _ABSENT
        body, rise = np.where(on_top, warp_body, weft_body), np.where(on_top, warp_rise, weft_rise)
        tone = np.where(on_top, warp_tone, weft_tone)
        shade = 0.92 + self._contrast * (0.42 * body - 0.34 + 0.17 * rise) + tone
        # Between whole threads hardly any light reaches the table; in a hole it does, and the grain shows.
        opening = (1.0 - warp_left) * (1.0 - weft_left)
        ground = 0.4 + opening * (0.65 + 0.25 * f.noise_at(damage.grain, x / 2.6, y / 2.6))

        channels = []
        for warp, weft, table, hue in zip(_WARP, _WEFT, _TABLE, self._tint, strict=True):
            faded = 0.5 * self._fade * (weft - warp)
            yarn = np.where(on_top, (warp + faded) * hue, (weft - faded) * hue)
            channels.append(np.where(bare, table * ground, yarn * shade))
        return np.stack(channels, axis=-1)


def _left(gap: Field, number: npt.NDArray[np.int64], along: Field) -> Field:
    """1 where a thread is whole, 0 where it is cut, falling over its frayed end."""
    centre, half = gap[:, 0].take(number), gap[:, 1].take(number)
    return np.where(half > 0.0, f.smooth((np.abs(along - centre) - half) / 0.9), 1.0)
