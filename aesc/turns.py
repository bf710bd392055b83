"""How far a product's images may be turned while they are learnt from: as far as its clean images look alike turned.

A screw that lies anywhere, or a texture without a direction, is as clean turned as it was, and then every clean image
is worth four. Whether that is so is asked of the clean images alone: turned and unturned they must not be told apart.
Turns are by quarters, which need no interpolation. Nothing is mirrored: a part that was put in the wrong way round may
look like one that is mirrored.

Images are described by the means of colours and of differences in four directions, in 16 x 16 cells, and compared by
the energy distance (Szekely & Rizzo, "Energy statistics: a class of statistics based on distances", Journal of
Statistical Planning and Inference 143, 2013). If turned images have the same distribution, exchanging any image with
itself turned changes nothing, which is how the chance of a distance is found.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from aesc.params import TurnsWish
from aesc.pixels import Pixels
from aesc.seeding import Stream, generator

Turns = tuple[int, ...]
"""Numbers of quarter turns, 0 among them: (0,), (0, 2) or (0, 1, 2, 3)."""

UNTURNED: Turns = (0,)

_CELLS = 16
_BATCH = 16
_IMAGES = 256  # that are looked at
_LEAST_IMAGES = 20  # with fewer a difference may go unseen
_EXCHANGES = 999
_LEAST_CHANCE = 0.01
_LEAST_UNIT = 1e-3
_NO_DIFFERENCE = 0.02  # of the mean distance of two images: parts that lie a little off the centre turn about it


def allowed_turns(clean: Pixels, wish: TurnsWish) -> Turns:
    """The quarter turns after which the clean images look as before.

    Args:
        clean: training images; the first 256 of them are looked at.
        wish: none, or auto for what the images allow.
    """
    if wish == "none" or len(clean) < _LEAST_IMAGES:
        return UNTURNED
    as_they_are = _described(clean, turned_by=0)
    stream = generator(0, Stream.TURNS)  # another seed of the training must not find otherwise

    def alike(quarters: int) -> bool:
        return _alike(as_they_are, _described(clean, turned_by=quarters), stream)

    if not alike(2):
        return UNTURNED
    return (0, 1, 2, 3) if alike(1) else (0, 2)


def draw_turns(allowed: Turns, count: int, *, seed: int, epoch: int) -> Tensor | None:
    """The numbers of quarter turns of an epoch's images: (count,), int64; None where none is turned."""
    if allowed == UNTURNED:
        return None
    stream = generator(seed, Stream.TURNS, epoch)
    return torch.tensor(allowed)[torch.randint(len(allowed), (count,), generator=stream)]


def _described(clean: Pixels, *, turned_by: int) -> Tensor:
    """images x channels and directions x cells, float64, on the CPU."""
    batches = clean.batches(_BATCH, most=_IMAGES)
    return torch.cat([_describe(torch.rot90(batch, turned_by, dims=(2, 3))) for batch in batches])


def _describe(images: Tensor) -> Tensor:
    grey = images.mean(dim=1, keepdim=True)
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    beside = (
        padded[:, :, 2:, 1:-1],  # below
        padded[:, :, 1:-1, 2:],  # to the right
        padded[:, :, 2:, 2:],
        padded[:, :, 2:, :-2],
    )
    channels = torch.cat([images, *((grey - other).abs() for other in beside)], dim=1)
    return F.avg_pool2d(channels, images.shape[-1] // _CELLS).flatten(2).cpu().double()


def _alike(images: Tensor, turned: Tensor, stream: torch.Generator) -> bool:
    """Whether images x channels x cells and the same images turned may be of one distribution."""
    unit = images.std(dim=(0, 2), keepdim=True) + _LEAST_UNIT  # so that no channel outweighs the others
    plain, other = (images / unit).flatten(1), (turned / unit).flatten(1)
    apart = torch.cdist(plain, plain)
    across = torch.cdist(plain, other)
    # Of images i and j, one of them turned, how much farther apart they are than both unturned (or both turned).
    gained = (0.5 * (across + across.T) - apart).fill_diagonal_(0.0)
    if gained.sum() < _NO_DIFFERENCE * apart.sum():
        return True
    signs = 2.0 * torch.randint(2, (_EXCHANGES, len(images)), generator=stream).double() - 1.0
    exchanged = ((signs @ gained) * signs).sum(dim=1)
    chance = (1 + int((exchanged >= gained.sum()).sum())) / (1 + _EXCHANGES)
    return chance >= _LEAST_CHANCE
