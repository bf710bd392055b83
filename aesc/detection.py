"""Where a defect shows: MC-Dropout uncertainty, smoothing, and the image scores made of a map (section III-C).

The residual and the maps of all strategies are put together in aesc/scoring.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from aesc.mc_dropout import prepared
from aesc.network import AESc
from aesc.params import ImageScore

SMOOTHING_REACH = 4.0  # sigmas


@torch.inference_mode()
def mc_dropout_variance(network: AESc, images: Tensor, *, passes: int, seed: int) -> Tensor:
    """Variance over `passes` stochastic reconstructions, averaged over channels: batch x side x side, float32.

    A running variance (Welford): of a pass only its masks are kept. Every pass draws one dropout mask a layer for the
    whole batch from `seed`, so an image's map does not depend on its neighbours, nor on the call. Batch norm stays in
    inference mode.
    """
    return prepared(network).variance(images, passes=passes, seed=seed).mean(dim=1)


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of batch x side x side maps; sigma in pixels, 0 leaves them alone."""
    if sigma == 0.0:
        return maps
    reach = min(math.ceil(SMOOTHING_REACH * sigma), maps.shape[-1] - 1)
    kernel = [math.exp(-0.5 * (step / sigma) ** 2) for step in range(reach + 1)]
    total = 2.0 * sum(kernel) - kernel[0]
    shares = [weight / total for weight in kernel]
    padded = F.pad(maps, (reach, reach, reach, reach), mode="reflect")
    return _blur(_blur(padded, shares, dim=-1), shares, dim=-2)


def _blur(maps: Tensor, shares: Sequence[float], *, dim: int) -> Tensor:
    """By sums of shifted maps: a convolution of a single map takes a CPU five times as long.

    `shares` are those of the middle and of what lies 1, 2, ... before and after it.
    """
    reach = len(shares) - 1
    places = maps.shape[dim] - 2 * reach
    blurred = maps.narrow(dim, reach, places) * shares[0]
    for step in range(1, reach + 1):
        neighbours = maps.narrow(dim, reach - step, places) + maps.narrow(dim, reach + step, places)
        blurred.add_(neighbours, alpha=shares[step])
    return blurred


def enlarge(maps: Tensor, side: int) -> Tensor:
    """batch x channels x height x width to side x side, bilinear; what has that size is left alone."""
    if maps.shape[-1] == side:
        return maps
    return F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)


def image_scores(maps: Tensor, kind: ImageScore, *, top_fraction: float) -> Tensor:
    """One score a map (batch x side x side): L2 norm (the paper), maximum, or mean of the `top_fraction` of pixels."""
    flat = maps.flatten(1)
    if kind == "l2":
        norms: Tensor = torch.linalg.vector_norm(flat, dim=1)
        return norms
    if kind == "max":
        return flat.amax(dim=1)
    return flat.topk(max(1, round(top_fraction * flat.shape[1])), dim=1).values.mean(dim=1)
