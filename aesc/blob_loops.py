"""Blobs of the structured corruption on a CPU: compiled loops over the box around each of them."""

from __future__ import annotations

import math
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from aesc.compiled import compiled
from aesc.params import Structured

BANK_SIDE = 512
REACH = 1.5  # ellipse radii after which a blob is cut off
LEAST_OPACITY = 0.02  # below it an edge is cut off
MASK_OPACITY = 0.3  # of a soft edge, from which a pixel counts as corrupted
_FAINTEST = math.log(LEAST_OPACITY / (1.0 - LEAST_OPACITY))  # depth over edge, where its sigmoid is that
_SATURATED = 17.0  # where it is 1 in float32

_Array = TypeVar("_Array")
_Floats = NDArray[np.float32]


class Blobs(NamedTuple, Generic[_Array]):
    """Up to `count` blobs an image. Tensors or arrays of count x batch x 1 x 1 if not said otherwise; lengths in
    pixels."""

    there: _Array  # 1.0 or 0.0: images have different numbers of blobs
    long: _Array
    short: _Array
    cos: _Array
    sin: _Array
    bend: _Array
    edge: _Array
    opacity: _Array
    centre: _Array  # count x batch x 2 (y, x), integers
    outline: _Array  # count x batch: layer of the bank
    texture: _Array
    at: _Array  # count x batch x 4: where in the bank outline (y, x) and texture (y, x) are taken
    source: _Array  # count x batch: which image of the batch the filling is taken from
    shift: _Array  # count x batch x 2: and how far from the same place
    gain: _Array  # count x batch x 1 x 1 x 1, of that image in the filling
    level: _Array  # count x batch x 1 x 1 x channels, added to it
    roughness: _Array  # count x batch x 1 x 1 x 1, amplitude of the texture added to it


def paint(pixels: Tensor, mask: Tensor, source: Tensor, blobs: Blobs[Tensor], bank: Tensor, params: Structured) -> None:
    """Paint the blobs of each image in their order, in place.

    Args:
        pixels: batch x side x side x channels in [0, 1], on the CPU, in any memory order.
        mask: batch x side x side, bool; is set where a blob counts.
        source: what fillings are taken from, the same shape as `pixels`.
        blobs: of each image.
        bank: layers x BANK_SIDE x BANK_SIDE of noise.
        params: the outline's irregularity is used.
    """
    ordered = pixels.contiguous()
    arrays: Blobs[NDArray[np.generic]] = Blobs._make(values.contiguous().numpy() for values in blobs)
    irregularity = np.float32(params.irregularity)
    _paint(ordered.numpy(), mask.numpy(), source.contiguous().numpy(), arrays, bank.numpy(), irregularity)
    if ordered is not pixels:
        pixels.copy_(ordered)


@compiled
def _paint(
    pixels: _Floats,
    mask: NDArray[np.bool_],
    source: _Floats,
    blobs: Blobs[NDArray[np.generic]],
    bank: _Floats,
    irregularity: np.float32,
) -> None:
    """`paint`, one blob after the other."""
    count, batch = blobs.outline.shape
    for number in range(count):
        for item in range(batch):
            if blobs.there[number, item, 0, 0] > 0.0:
                _paint_one(pixels[item], mask[item], source, blobs, number, item, bank, irregularity)


@compiled
def _paint_one(
    pixels: _Floats,
    mask: NDArray[np.bool_],
    source: _Floats,
    blobs: Blobs[NDArray[np.generic]],
    number: int,
    item: int,
    bank: _Floats,
    irregularity: np.float32,
) -> None:
    """One blob on one image (side x side x channels)."""
    zero, one = np.float32(0.0), np.float32(1.0)
    side, _, channels = pixels.shape
    blob = number, item, 0, 0
    long, short, edge = blobs.long[blob], blobs.short[blob], blobs.edge[blob]
    cos, sin, bend = blobs.cos[blob], blobs.sin[blob], blobs.bend[blob]
    opacity, level = blobs.opacity[blob], blobs.level[blob]
    gain, roughness = blobs.gain[number, item, 0, 0, 0], blobs.roughness[number, item, 0, 0, 0]
    centre_y, centre_x = blobs.centre[number, item]
    outline, texture = bank[blobs.outline[number, item]], bank[blobs.texture[number, item]]
    outline_y, outline_x, texture_y, texture_x = blobs.at[number, item]
    elsewhere = source[blobs.source[number, item]]
    down, across = blobs.shift[number, item]
    top, bottom, left, right = _box(long, short, cos, sin, bend)
    for y in range(max(centre_y + top, 0), min(centre_y + bottom + 1, side)):
        dy = np.float32(y - centre_y)
        for x in range(max(centre_x + left, 0), min(centre_x + right + 1, side)):
            dx = np.float32(x - centre_x)
            u = dx * cos + dy * sin
            v = dy * cos - dx * sin + bend * (u * u)
            u, v = u / long, v / short
            radius = np.sqrt(u * u + v * v)
            if radius >= np.float32(REACH):
                continue
            outlined = outline[(y - centre_y + outline_y) % BANK_SIDE, (x - centre_x + outline_x) % BANK_SIDE]
            inside = (one - radius + irregularity * outlined) * short / edge
            if inside < np.float32(_FAINTEST):
                continue
            shape = one if inside > np.float32(_SATURATED) else one / (one + np.exp(-inside))
            mask[y, x] |= shape > np.float32(MASK_OPACITY)
            grain = zero
            if roughness > zero:
                grain = texture[(y - centre_y + texture_y) % BANK_SIDE, (x - centre_x + texture_x) % BANK_SIDE]
            for channel in range(channels):
                filling = level[channel] + roughness * grain
                if gain > zero:  # an image is in it too
                    filling += gain * elsewhere[(y + down) % side, (x + across) % side, channel]
                filling = min(max(filling, zero), one)
                under = pixels[y, x, channel]
                pixels[y, x, channel] = under + shape * opacity * (filling - under)


@compiled
def _box(
    long: np.float32, short: np.float32, cos: np.float32, sin: np.float32, bend: np.float32
) -> tuple[int, int, int, int]:
    """What a blob cannot be outside of: top, bottom, left, right, from its centre.

    Along its axis a blob ends at `REACH` semi-major axes; across, at `REACH` semi-minor ones from where its axis is
    bent to.
    """
    far, wide = np.float32(REACH) * long, np.float32(REACH) * short
    bent = bend * (far * far)
    top, bottom, left, right = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for along in (-far, far):
        for across in (-wide - max(bent, np.float32(0.0)), wide - min(bent, np.float32(0.0))):
            dy, dx = along * sin + across * cos, along * cos - across * sin
            top, bottom = min(top, dy), max(bottom, dy)
            left, right = min(left, dx), max(right, dx)
    return math.floor(top), math.ceil(bottom), math.floor(left), math.ceil(right)
