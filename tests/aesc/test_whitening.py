"""Differences in units of how those of clean images vary: bands that lose nothing, colours that are uncorrelated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aesc.whitening import BANDS, Covariance, bands, whitened_squares

SIDE = 64
COLOURS = torch.tensor([[1.0, 0.0, 0.0], [0.98, 0.2, 0.0], [0.97, 0.1, 0.2]])  # of nearly the same brightness


def noise(count: int, seed: int, colours: Tensor = COLOURS) -> Tensor:
    """What a network does not give back of clean images: fine, and bright or dark rather than of another hue."""
    drawn = torch.randn(count, len(colours), SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return 0.05 * torch.einsum("kc,nchw->nkhw", colours, drawn)


def learned(differences: Tensor, size: int = 8) -> list[Tensor]:
    covariance = Covariance()
    for batch in differences.split(size):
        covariance.add(batch)
    return list(torch.tensor(covariance.whitening()))


def test_bands_add_up_to_the_differences() -> None:
    differences = noise(2, 1)
    found = list(bands(differences))
    assert [band.shape[-1] for band in found] == [64, 32, 16, 8]
    torch.testing.assert_close(found[-1], F.avg_pool2d(differences, 8))
    total = found[-1]
    for band in reversed(found[:-1]):
        total = band + F.interpolate(total, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(total, differences)


def test_each_band_s_colours_are_uncorrelated_and_alike_in_size_on_clean_images() -> None:
    clean = noise(16, 1)
    for band, matrix in zip(bands(clean), learned(clean), strict=True):
        columns = band.transpose(0, 1).flatten(1)
        assert torch.corrcoef(columns)[0, 1] > 0.95, "they are alike before"
        covariance = columns @ columns.T / columns.shape[1]
        covariance.diagonal().mul_(1.1)
        torch.testing.assert_close(matrix @ covariance @ matrix.T, torch.eye(3), atol=1e-3, rtol=0.0)
        assert torch.equal(matrix, matrix.tril())


def test_without_correlation_distances_are_in_standard_deviations() -> None:
    scales = torch.diag(torch.tensor([1.0, 2.0, 4.0]))
    clean, image = noise(16, 1, scales), noise(1, 2, scales)
    expected = torch.zeros(1, 1, SIDE, SIDE)
    for band, seen in zip(bands(image), bands(clean), strict=True):
        variances = seen.square().mean(dim=(0, 2, 3)).view(1, -1, 1, 1)
        square = (band.square() / (1.1 * variances)).sum(dim=1, keepdim=True)
        expected += F.interpolate(square, size=(SIDE, SIDE), mode="bilinear", align_corners=False).square()
    found = whitened_squares(image, learned(clean))
    assert found.shape == (1, SIDE, SIDE)
    torch.testing.assert_close(found, expected.squeeze(1).sqrt(), rtol=0.05, atol=0.05)


def test_a_defect_has_to_show_in_one_band() -> None:
    """Added up, the others' noise would drown it."""
    matrices = [torch.eye(1)] * BANDS
    broad = torch.full((1, 1, SIDE, SIDE), 3.0)  # in the coarsest band alone
    torch.testing.assert_close(whitened_squares(broad, matrices), torch.full((1, SIDE, SIDE), 9.0))
    noisy = whitened_squares(broad + noise(1, 1, torch.full((1, 1), 20.0)), matrices)
    assert 9.0 < noisy.mean() < 10.5


def test_a_faint_broad_change_of_hue_is_seen_through_brighter_noise() -> None:
    clean, image = noise(16, 1), noise(1, 2)
    place = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    place[16:40, 16:40] = True
    image[0, :, place] += torch.tensor([0.02, -0.02, 0.0])[:, None]
    plain = image.abs().sum(dim=1)[0]
    found = whitened_squares(image, learned(clean))[0].sqrt()
    assert plain[place].mean() < 1.15 * plain[~place].mean()
    assert found[place].mean() > 1.5 * found[~place].mean()


def test_batches_do_not_matter() -> None:
    clean = noise(10, 1)
    for one, other in zip(learned(clean, 3), learned(clean, 10), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_given_back_exactly_is_no_division_by_zero(channels: int) -> None:
    clean = torch.zeros(4, channels, SIDE, SIDE)
    matrices = learned(clean)
    assert len(matrices) == BANDS
    assert all(matrix.shape == (channels, channels) for matrix in matrices)
    assert whitened_squares(clean, matrices).abs().max() == 0.0
    grey_level = whitened_squares(clean + 1 / 255, matrices)
    assert torch.isfinite(grey_level).all()
    assert grey_level.min() > 1.0, "it is still seen"
