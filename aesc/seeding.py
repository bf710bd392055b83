"""One seed in the parameters, many independent random streams: nothing draws from a global generator."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What a generator is for. The numbers are part of every recorded result: never renumber, only add."""

    WEIGHTS = 0
    ORDER = 1
    CORRUPTION = 2
    DROPOUT = 3
    VALIDATION = 4
    MC_DROPOUT = 5
    HELD_OUT = 6
    BOOTSTRAP = 7
    DRILL = 8
    COURT = 9
    DETECTABILITY = 10
    TURNS = 11


def derive_seed(seed: int, stream: Stream, *path: int) -> int:
    """A 63-bit seed for `stream` and, for instance, an epoch, independent of every other one."""
    return int(np.random.SeedSequence([seed, int(stream), *path]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, stream: Stream, *path: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on `device`, seeded by `derive_seed`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, stream, *path))
