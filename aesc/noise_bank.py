"""Normal numbers for a CPU, where drawing one takes longer than all else that is done to a pixel before the network.

They are drawn once for a process; who needs some gets a stretch of them, from a place that is drawn.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

_STARTS = 2**22
_LEAST = 2**18  # of 256 x 256 pixels in colour; shorter stretches come from the same numbers
_SEED = 11


def stretches(count: int, length: int, generator: torch.Generator) -> list[Tensor]:
    """`count` times `length` standard normal numbers, one after the other in memory; not to be written to.

    Each begins at one of four million places, which `generator` draws.
    """
    starts = torch.randint(_STARTS, (count,), generator=generator).tolist()
    bank = _bank(max(_LEAST, 1 << (length - 1).bit_length()))
    return [bank[start : start + length] for start in starts]


@lru_cache(maxsize=4)
def _bank(most: int) -> Tensor:
    return torch.randn(_STARTS + most, generator=torch.Generator().manual_seed(_SEED))
