"""Differences of pixels, measured in how those of clean images vary, for each scale and its colours together.

A network gives some things back worse than others: fine texture worse than broad shades, brightness worse than hue. In
a plain sum of absolute differences what is never given back well drowns what nearly always is, such as a faint change
of hue over many pixels. So the differences are split into a Laplacian pyramid (Burt, Adelson, "The Laplacian Pyramid as
a Compact Image Code", 1983; here with means of 2 x 2 pixels), and the colours of each of its bands are measured by
their Mahalanobis distance from zero under the covariance of clean images. A defect has to show in one band, not in all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from aesc.detection import enlarge

Matrix = tuple[tuple[float, ...], ...]

BANDS = 4  # the coarsest has an eighth of the image's side
_RIDGE = 0.1  # of the variance: colours that hardly ever differ on clean images do not become one alarm each time
_LEAST_DEVIATION = 1e-4  # of white, a fortieth of a grey level: nothing is given back more exactly than that


def bands(differences: Tensor) -> Iterator[Tensor]:
    """Fine first, each batch x channels x side x side of half the side of the one before; the last is the mean of each
    8 x 8 pixels of `differences`, which are batch x channels x side x side."""
    for _ in range(BANDS - 1):
        coarser = F.avg_pool2d(differences, 2)
        yield differences - enlarge(coarser, differences.shape[-1])
        differences = coarser
    yield differences


def whitened_squares(differences: Tensor, whitening: Sequence[Tensor]) -> Tensor:
    """The squared Mahalanobis distance from zero of each band, joined to its largest ones: batch x side x side.

    Joined are bands by the root of the sum of squares. Squares are what is to be smoothed; their root is a length.

    Args:
        differences: batch x channels x side x side.
        whitening: for each band channels x channels, from `Covariance.whitening`.
    """
    side = differences.shape[-1]
    squares = [
        enlarge(F.conv2d(band, matrix[:, :, None, None]).square().sum(dim=1, keepdim=True), side)
        for band, matrix in zip(bands(differences), whitening, strict=True)
    ]
    # The norm over a dimension of four takes a CPU twenty times as long.
    return torch.cat([one.square() for one in squares], dim=1).sum(dim=1).sqrt()


class Covariance:
    """Of the colours of clean images' differences in each band, about zero, over all pixels; fed batch by batch."""

    def __init__(self) -> None:
        self._sums: list[Tensor | float] = [0.0] * BANDS
        self._pixels = [0] * BANDS

    def add(self, differences: Tensor) -> None:
        """Count `differences`, batch x channels x side x side."""
        for number, band in enumerate(bands(differences)):
            columns = band.transpose(0, 1).flatten(1)
            self._sums[number] = self._sums[number] + (columns @ columns.T).cpu().double()
            self._pixels[number] += columns.shape[1]

    def whitening(self) -> tuple[Matrix, ...]:
        """For each band the lower triangular matrix, channels x channels, that makes colours uncorrelated.

        The inverse Cholesky factor of the covariance, whose variances are taken a tenth larger than they are.
        """
        sums = (torch.as_tensor(one) for one in self._sums)
        return tuple(_whitening(one / pixels) for one, pixels in zip(sums, self._pixels, strict=True))


def _whitening(covariance: Tensor) -> Matrix:
    deviations = covariance.diagonal().sqrt().clamp_min(_LEAST_DEVIATION)
    correlation = covariance / deviations[:, None] / deviations
    correlation.diagonal().fill_(1.0 + _RIDGE)
    factor = torch.linalg.cholesky(correlation)
    inverse = torch.linalg.solve_triangular(factor, torch.diag(1.0 / deviations), upper=False)
    return tuple(map(tuple, inverse.tolist()))
