"""The cosine schedule of the learning rate: a linear warm-up, then half a cosine down to almost nothing.

Loshchilov & Hutter, "SGDR", arXiv 1608.03983, without restarts. The plateau schedule is PyTorch's own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

WARM_UP = 0.05  # of all training
FIRST_SHARE = LAST_SHARE = 0.01


def cosine_share(done: float) -> float:
    """The share of the learning rate where `done` of all training, 0 to 1, lies behind."""
    falling = LAST_SHARE + (1.0 - LAST_SHARE) * 0.5 * (1.0 + math.cos(math.pi * done))
    return min(1.0, FIRST_SHARE + done / WARM_UP) * falling


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Have the next step use `rate`."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
