"""Where a reconstruction does not vary as its image does: structural similarity without its comparison of brightness.

What a network leaves out of a texture, or smooths away, changes no pixel by much; that nothing varies there any more,
or something else does, shows in small windows.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

WINDOW = 9  # pixels, each weighing alike
_LEAST_VARIATION = 0.03**2  # of a range of 1: where both vary less, differences count for little


def structural_dissimilarity(images: Tensor, reconstruction: Tensor) -> Tensor:
    """1 - contrast x structure of SSIM (https://doi.org/10.1109/TIP.2003.819861), the mean over channels.

    That is how much the difference varies in a window, as a share of how much the two do: 1 - (2 cov + C2) / (var + var
    + C2) = var(difference) / (var + var + C2).

    Args:
        images, reconstruction: batch x channels x side x side in [0, 1].

    Returns:
        batch x side x side: 0 where the two vary alike, 1 where they have nothing in common, 2 where they are opposite.
    """
    difference = images - reconstruction
    seen, given_back = images - 0.5, reconstruction - 0.5  # squares of small numbers lose fewer digits
    of_difference = _mean(difference.square()) - _mean(difference).square()
    of_both = _mean(seen.square() + given_back.square()) - _mean(seen).square() - _mean(given_back).square()
    # Rounding can bring a variance below 0.
    share = of_difference.clamp(min=0.0) / (of_both.clamp(min=0.0) + _LEAST_VARIATION)
    return share.mean(dim=1)


def _mean(values: Tensor) -> Tensor:
    reach = WINDOW // 2
    return F.avg_pool2d(F.pad(values, (reach, reach, reach, reach), mode="reflect"), WINDOW, stride=1)
