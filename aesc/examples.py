"""What the network learns from: a corrupted image, the image to give back, and how the two are compared."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from aesc.corruption import corrupt
from aesc.noise_bank import stretches
from aesc.params import Corruption, Loss

_CHARBONNIER = 0.03  # of white: smaller differences count by their square, larger ones by their size


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
    noise = _noise(clean.permute(0, 2, 3, 1).shape, strength, generator).permute(0, 3, 1, 2)
    # In place: fresh memory for a batch takes longer than the sums.
    return Example(corrupted.add_(noise), noise.add_(clean), mask)


def _noise(shape: torch.Size, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Normal numbers, batch first, each image's of its `strength` (batch x 1 x 1 x 1)."""
    if generator.device.type != "cpu":
        return torch.randn(shape, generator=generator, device=generator.device) * strength
    noise = torch.empty(shape)
    found = stretches(shape[0], noise[0].numel(), generator)
    for image, numbers, its_strength in zip(noise, found, strength.flatten(), strict=True):
        torch.mul(numbers.view(image.shape), its_strength, out=image)
    return noise


def restoration_loss(output: Tensor, example: Example, *, kind: Loss, corrupted_weight: float) -> Tensor:
    """The mean of what each number of the output is off; with a weight above 0, that share of it is the mean over the
    corrupted pixels.

    A stain covers about 1 % of an image; unweighted, its repair counts for as little (weights as in arXiv 2206.11723).

    Args:
        output: batch x channels x side x side.
        example: what it is compared with.
        kind: squared differences d, or `charbonnier`: sqrt(d^2 + e^2) - e with e = 0.03, which is nearly the absolute
            difference beyond 0.03 (https://doi.org/10.1109/ICIP.1994.413553).
        corrupted_weight: 0 to 1; the rest is the mean over the other pixels.

    Returns:
        A scalar.
    """
    if corrupted_weight == 0.0:
        if kind == "squared":
            return F.mse_loss(output, example.target)
        weights = torch.full((), 1.0 / output.numel(), device=output.device)
    else:
        corrupted = example.mask.sum()
        untouched = example.mask.numel() - corrupted
        of_corrupted = corrupted_weight / corrupted.clamp(min=1)
        of_untouched = (1.0 - corrupted_weight) / untouched.clamp(min=1)
        weights = torch.where(example.mask, of_corrupted, of_untouched) / output.shape[1]
    weighted = _WeightedSquares if kind == "squared" else _WeightedCharbonnier
    loss: Tensor = weighted.apply(output, example.target, weights)  # type: ignore[no-untyped-call]  # PyTorch's
    return loss


class _WeightedSquares(torch.autograd.Function):
    """Sum of weights times squared differences. The gradient is twice what was summed up, so that a batch is gone
    through half as often as by single operations."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        difference = output - target
        weighted = difference * weights
        ctx.save_for_backward(weighted)
        return difference.mul_(weighted).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weighted,) = ctx.saved_tensors
        return weighted * (2.0 * gradients[0]), None, None


class _WeightedCharbonnier(torch.autograd.Function):
    """Sum of weights times Charbonnier's function of the differences, its gradient made in the same pass."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        difference = output - target
        root = difference.square().add_(_CHARBONNIER**2).sqrt_()
        ctx.save_for_backward(difference.div_(root).mul_(weights))
        return root.sub_(_CHARBONNIER).mul_(weights).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * gradients[0], None, None
