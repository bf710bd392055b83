"""How far a product's images may be turned while they are learnt from: as far as its clean images look alike turned.

A screw that lies anywhere, or a texture without a direction, is as clean turned as it was, and then every clean image
is worth four. Whether that is so is asked of the clean images alone: turned and unturned they must not be told apart.
Turns are by quarters, which need no interpolation. Nothing is mirrored: a part that was put in the wrong way round may
look like one that is mirrored.

Images are described by the means of colours and of differences in four directions, in 16 x 16 cells. As a whole they
are compared by the energy distance (Szekely & Rizzo, "Energy statistics: a class of statistics based on distances",
Journal of Statistical Planning and Inference 143, 2013); place by place by the mean of what turning changes there, in
its standard deviations, the largest of all places: a key or a print is small, but always in one place. How large either
gets by chance is found by exchanging images with themselves turned at random. (After a half turn that leaves everything
as it was if the images have no direction; for quarters it does so nearly.)
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
_NO_DISTANCE = 0.02  # of the mean distance of two images: parts that lie a little off the centre turn about it
_NO_MARK = 0.7  # standard deviations: what lies a little off the centre changes the places at its edges by less
_LEAST_DEVIATION = 0.05  # of what turning changes, in units of the channel: a place that never changes proves nothing


def allowed_turns(clean: Pixels, wish: TurnsWish) -> Turns:
    """The quarter turns after which the clean images look as before.

    Args:
        clean: training images; 256 of them, spread over all, are looked at.
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
    spread = torch.linspace(0, len(clean) - 1, min(len(clean), _IMAGES)).long()
    batches = (clean.batch(indices) for indices in spread.split(_BATCH))
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
    signs = 2.0 * torch.randint(2, (_EXCHANGES, len(images)), generator=stream).double() - 1.0
    return _near_as_a_whole(plain, other, signs) and not _marked(plain - other, signs)


def _near_as_a_whole(plain: Tensor, other: Tensor, signs: Tensor) -> bool:
    apart = torch.cdist(plain, plain)
    across = torch.cdist(plain, other)
    # Of images i and j, one of them turned, how much farther apart they are than both as they are.
    gained = (0.5 * (across + across.T) - apart).fill_diagonal_(0.0)
    exchanged = ((signs @ gained) * signs).sum(dim=1)
    return bool(gained.sum() < _NO_DISTANCE * apart.sum()) or _by_chance(gained.sum(), exchanged)


def _marked(changes: Tensor, signs: Tensor) -> bool:
    """Whether some place is changed by turning in one direction."""
    squares = changes.square().mean(dim=0)

    def largest(means: Tensor) -> Tensor:
        return (means.abs() / ((squares - means.square()).clamp(min=0.0) + _LEAST_DEVIATION**2).sqrt()).amax(dim=-1)

    found = largest(changes.mean(dim=0))
    return bool(found >= _NO_MARK) and not _by_chance(found, largest(signs @ changes / len(changes)))


def _by_chance(found: Tensor, exchanged: Tensor) -> bool:
    return (1 + int((exchanged >= found).sum())) / (1 + _EXCHANGES) >= _LEAST_CHANCE
