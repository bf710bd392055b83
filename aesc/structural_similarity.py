"""Where a reconstruction does not vary as its image does: structural similarity without its comparison of brightness.

What a network leaves out of a texture, or smooths away, changes no pixel by much; that nothing varies there any more,
or something else does, shows in small windows.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

WINDOW = 9  # pixels, each weighing alike
_LEAST_VARIATION = 0.03**2  # of a range of 1: where both vary less, differences count for little


def structural_dissimilarity(images: Tensor, reconstruction: Tensor) -> Tensor:
    """1 - contrast x structure of SSIM (https://doi.org/10.1109/TIP.2003.819861), the mean over channels.

    That is how much the difference varies in a window, as a share of how much the two do: 1 - (2 cov + C2) / (var + var
    + C2) = var(difference) / (var + var + C2). Beyond the border the image goes on as its mirror image.

    Args:
        images, reconstruction: batch x channels x side x side in [0, 1].

    Returns:
        batch x side x side: 0 where the two vary alike, 1 where they have nothing in common, 2 where they are opposite.
    """
    seen = images.contiguous() - 0.5  # squares of small numbers lose fewer digits
    given_back = reconstruction.contiguous() - 0.5
    difference = seen - given_back
    mean_seen, mean_difference = _mean(seen), _mean(difference)
    mean_given_back = mean_seen - mean_difference
    of_difference = _mean(difference.square()) - mean_difference.square()
    of_both = _mean(seen.square() + given_back.square()) - mean_seen.square() - mean_given_back.square()
    # Rounding can bring a variance below 0.
    share = of_difference.clamp(min=0.0) / (of_both.clamp(min=0.0) + _LEAST_VARIATION)
    return share.mean(dim=1)


def _mean(values: Tensor) -> Tensor:
    """Of each window. Two products are several times as fast as PyTorch's pooling on a CPU."""
    means = _means(values.shape[-1], values.device)
    return torch.matmul(torch.matmul(means, values), means.T)


@lru_cache(maxsize=8)
def _means(side: int, device: torch.device) -> Tensor:
    """side x side: row i is the mean of the window around i, of pixels beyond the border by their mirror images."""
    with torch.inference_mode(False):
        reach = WINDOW // 2
        places = torch.arange(side)[:, None] + torch.arange(-reach, reach + 1)
        places = (side - 1) - ((side - 1) - places.abs()).abs()
        shares = torch.full(places.shape, 1.0 / WINDOW)
        return torch.zeros(side, side).scatter_add_(1, places, shares).to(device)
