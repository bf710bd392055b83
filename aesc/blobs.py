"""What a blob of the structured corruption is, for those who paint it: whole images, or loops over a box around it."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

BANK_SIDE = 512
REACH = 1.5  # ellipse radii after which a blob is cut off
LEAST_OPACITY = 0.02  # below it an edge is cut off
MASK_OPACITY = 0.3  # of a soft edge, from which a pixel counts as corrupted

_Array = TypeVar("_Array")


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
