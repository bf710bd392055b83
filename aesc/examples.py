"""What the network learns from: a corrupted image, the image to give back, and how the two are compared."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from aesc.corruption import corrupt
from aesc.params import Corruption

BANK = 2**22  # stretches of noise to choose from
_BANK_SEED = 11


class Example(NamedTuple):
    """A batch: corrupted and target, batch x channels x side x side; mask, batch x 1 x side x side, bool."""

    corrupted: Tensor
    target: Tensor
    mask: Tensor


def make_example(clean: Tensor, *, params: Corruption, generator: torch.Generator) -> Example:
    """Corrupt a batch of clean images (batch x channels x side x side in [0, 1]; left as they are).

    With `kept_noise` both sides carry the same Gaussian noise, each image of another strength. What is not corrupted
    must then be passed on as it is, which anchors the network to the identity (arXiv 2511.07233).
    """
    corrupted, mask = corrupt(clean, params=params, generator=generator)
    if params.kept_noise == 0.0:
        return Example(corrupted, clean, mask)
    strength = params.kept_noise * torch.rand(len(clean), 1, 1, 1, generator=generator, device=clean.device)
    noise = _noise(clean.permute(0, 2, 3, 1).shape, generator).permute(0, 3, 1, 2) * strength
    return Example(corrupted + noise, clean + noise, mask)


def _noise(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Standard normal numbers, batch first; on a CPU a stretch of a bank for each image, anew from `generator`, because
    drawing a number takes longer than all else that is done to a pixel before the network."""
    if generator.device.type != "cpu":
        return torch.randn(shape, generator=generator, device=generator.device)
    length = shape[1:].numel()
    bank = _bank(length)
    starts = torch.randint(BANK, (shape[0],), generator=generator).tolist()
    return torch.stack([bank[start : start + length] for start in starts]).view(shape)


@lru_cache(maxsize=4)
def _bank(length: int) -> Tensor:
    """BANK + `length` standard normal numbers, always the same."""
    return torch.randn(BANK + length, generator=torch.Generator().manual_seed(_BANK_SEED))


def restoration_loss(output: Tensor, example: Example, *, corrupted_weight: float) -> Tensor:
    """Mean squared error; with a weight above 0, that share of it is the mean over the corrupted pixels.

    A stain covers about 1 % of an image; unweighted, its repair counts for as little (weights as in arXiv 2206.11723).

    Args:
        output: batch x channels x side x side.
        example: what it is compared with.
        corrupted_weight: 0 to 1; the rest is the mean over the other pixels.

    Returns:
        A scalar.
    """
    if corrupted_weight == 0.0:
        return F.mse_loss(output, example.target)
    error = (output - example.target).square().mean(dim=1, keepdim=True)
    corrupted = example.mask.to(error.dtype)
    repaired = (error * corrupted).sum() / corrupted.sum().clamp(min=1.0)
    kept = (error * (1.0 - corrupted)).sum() / (1.0 - corrupted).sum().clamp(min=1.0)
    return corrupted_weight * repaired + (1.0 - corrupted_weight) * kept
