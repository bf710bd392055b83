"""Where a reconstruction does not vary as its image does: structural similarity without its comparison of brightness.

What a network leaves out of a texture, or smooths away, changes no pixel by much; that nothing varies there any more,
or something else does, shows in small windows.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

_DOUBLINGS = 3
WINDOW = (1 << _DOUBLINGS) + 1  # 9 pixels, each weighing alike
_LEAST_VARIATION = 0.03**2  # of a range of 1: where both vary less, differences count for little


def structural_dissimilarity(images: Tensor, reconstruction: Tensor) -> Tensor:
    """1 minus the product of contrast and structure of SSIM (https://doi.org/10.1109/TIP.2003.819861).

    That is how much the difference varies in a window, as a share of how much the two do: 1 - (2 cov + c) / (var(image)
    + var(reconstruction) + c) = var(difference) / (var(image) + var(reconstruction) + c) with c = 0.03^2; the mean over
    channels. Beyond its border an image goes on as its mirror image.

    Args:
        images, reconstruction: float32, batch x channels x height x width in [0, 1], of at least 5 x 5 pixels.

    Returns:
        batch x height x width: 0 where the two vary alike, nearly 1 where one varies and the other does not or they
        have nothing in common, at most 2, where they are opposite.
    """
    seen, given_back = images - 0.5, reconstruction - 0.5  # squares of small numbers lose fewer digits
    difference = seen - given_back
    mean_seen, mean_difference = _window_means(seen), _window_means(difference)
    mean_given_back = mean_seen - mean_difference
    of_difference = _window_means(difference.square()) - mean_difference.square()
    squares = _window_means(seen.square() + given_back.square())
    of_both = squares - mean_seen.square() - mean_given_back.square()
    # Rounding can bring a variance below 0.
    share = of_difference.clamp(min=0.0) / (of_both.clamp(min=0.0) + _LEAST_VARIATION)
    return share.mean(dim=1)


def _window_means(values: Tensor) -> Tensor:
    """By sums of neighbours: PyTorch's pooling adds up every window anew, on a CPU twenty times as long."""
    reach = WINDOW // 2
    wide = F.pad(values, (reach, reach, reach, reach), mode="reflect")
    return _window_sums(_window_sums(wide, dim=-1), dim=-2) / WINDOW**2


def _window_sums(values: Tensor, *, dim: int) -> Tensor:
    """Sums of two neighbours, of four, of eight, and of those and the ninth: half as many additions as one by one."""
    sums = values
    for doubling in range(_DOUBLINGS):
        sums = _plus_shifted(sums, sums, by=1 << doubling, dim=dim)
    return _plus_shifted(sums, values, by=WINDOW - 1, dim=dim)


def _plus_shifted(here: Tensor, there: Tensor, *, by: int, dim: int) -> Tensor:
    places = there.shape[dim] - by
    return here.narrow(dim, 0, places) + there.narrow(dim, by, places)
