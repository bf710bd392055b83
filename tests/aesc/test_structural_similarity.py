"""Structural similarity without brightness, against its formula window by window."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from aesc.structural_similarity import WINDOW, structural_dissimilarity

SIDE = 32
C2 = 0.03**2


def noise(seed: int, channels: int = 3) -> Tensor:
    return torch.rand(2, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def test_it_is_contrast_and_structure_of_ssim_in_each_window() -> None:
    images = noise(1)
    others = 0.6 * images + 0.4 * noise(2)
    found = structural_dissimilarity(images, others)
    half = WINDOW // 2
    for row, column in ((half, half), (10, 20), (SIDE - 1 - half, SIDE - 1 - half)):
        window = np.s_[1, :, row - half : row + half + 1, column - half : column + half + 1]
        shares = []
        for a, b in zip(images.double().numpy()[window], others.double().numpy()[window], strict=True):
            covariance = ((a - a.mean()) * (b - b.mean())).mean()
            shares.append(1.0 - (2.0 * covariance + C2) / (a.var() + b.var() + C2))
        assert abs(found[1, row, column].item() - np.mean(shares)) < 1e-4
    assert found.shape == (2, SIDE, SIDE)


def test_what_is_given_back_has_none() -> None:
    images = noise(1)
    assert structural_dissimilarity(images, images).abs().max() == 0.0


def test_brightness_is_left_to_the_pixels() -> None:
    images = 0.5 * noise(1)
    found = structural_dissimilarity(images, images + 0.4)
    assert found.max() < 1e-3
    assert found.min() >= 0.0


def test_a_texture_that_was_smoothed_away_has_nearly_one() -> None:
    images = noise(1)
    found = structural_dissimilarity(images, torch.full_like(images, 0.5))
    assert found.min() > 0.97
    assert found.max() < 1.0


def test_opposites_have_nearly_two() -> None:
    images = noise(1)
    found = structural_dissimilarity(images, 1.0 - images)
    assert found.min() > 1.95
    assert found.max() <= 2.0 + 1e-4


@pytest.mark.parametrize(("grey_levels", "most"), [(1.0, 0.01), (4.0, 0.1)])
def test_what_hardly_varies_counts_for_little(grey_levels: float, most: float) -> None:
    """A camera's noise on an even background must not look like a defect."""
    images, others = (noise(seed, channels=1) * grey_levels / 255.0 for seed in (1, 2))
    assert structural_dissimilarity(images, others).max() < most
    assert structural_dissimilarity(100.0 * images / grey_levels, 100.0 * others / grey_levels).mean() > 0.9


def test_channels_count_alike() -> None:
    images, others = noise(1, channels=1), noise(2, channels=1)
    of_three = structural_dissimilarity(images.expand(-1, 3, -1, -1), others.expand(-1, 3, -1, -1))
    torch.testing.assert_close(of_three, structural_dissimilarity(images, others))
    one_differs = torch.cat([others, images, images], dim=1)
    found = structural_dissimilarity(images.expand(-1, 3, -1, -1), one_differs)
    torch.testing.assert_close(found, structural_dissimilarity(images, others) / 3)


def test_an_image_does_not_depend_on_its_neighbours_in_a_batch() -> None:
    images, others = noise(1), noise(2)
    assert torch.equal(structural_dissimilarity(images, others)[1:], structural_dissimilarity(images[1:], others[1:]))


def test_at_the_border_the_image_goes_on_as_its_mirror_image() -> None:
    images, others, reach = noise(1), noise(2), WINDOW // 2
    wide = [torch.nn.functional.pad(one, (reach,) * 4, mode="reflect") for one in (images, others)]
    inner = structural_dissimilarity(*wide)[:, reach:-reach, reach:-reach]
    torch.testing.assert_close(structural_dissimilarity(images, others), inner)
