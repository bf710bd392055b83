"""Plain ground: where it is, and that few enough places are drawn there."""

from __future__ import annotations

import pytest
import torch

from aesc.plain_ground import cell_weights, off_plain_ground, plain_cells

SIDE = 128
CELLS = 32


def part_on_plain_ground(side: int = SIDE, channels: int = 3) -> torch.Tensor:
    """Two images with texture in a sixteenth, lower right and upper right; the ground has faint noise."""
    noise = torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0))
    images = 0.5 + 0.01 * noise
    part = slice(3 * side // 4, side)
    images[0, :, part, part] = noise[0, :, part, part]
    images[1, :, : side // 4, part] = noise[1, :, : side // 4, part]
    return images


def every_place(side: int) -> torch.Tensor:
    return torch.cartesian_prod(torch.arange(side), torch.arange(side))


@pytest.mark.parametrize("side", [64, 128, 512])
@pytest.mark.parametrize("channels", [1, 3])
def test_plain_is_where_there_is_nothing_and_each_image_has_its_own(side: int, channels: int) -> None:
    first, second = plain_cells(part_on_plain_ground(side, channels)).view(2, CELLS, CELLS)
    assert not first[24:, 24:].any()
    assert first[:20].all()
    assert first[:, :20].all()
    assert not second[:8, 24:].any()
    assert second[12:].all()


@pytest.mark.parametrize("image", [torch.full((1, 1, SIDE, SIDE), 0.3), torch.rand(1, 3, SIDE, SIDE)])
def test_all_cells_of_an_image_that_is_the_same_everywhere_weigh_alike(image: torch.Tensor) -> None:
    assert not plain_cells(image).any()
    assert cell_weights(image, most_on_plain=0.4).unique().numel() == 1


def test_plain_cells_are_drawn_at_most_so_often_and_never_more_often_than_by_their_area() -> None:
    images = part_on_plain_ground()
    plain = plain_cells(images)
    share = plain.float().mean(dim=1)
    assert (share > 0.8).all()
    for most in (0.0, 0.4):
        weights = cell_weights(images, most_on_plain=most)
        of_plain = (weights * plain).sum(dim=1) / weights.sum(dim=1)
        torch.testing.assert_close(of_plain, torch.full((2,), most), atol=2e-3, rtol=0.0)
    assert (cell_weights(images, most_on_plain=0.95) == 1000).all()


def test_places_move_from_cell_to_cell_by_weight() -> None:
    """Of all places of an image, each taken once, exactly so many lie in each cell afterwards."""
    places = every_place(SIDE)
    weights = torch.ones(1, CELLS**2, dtype=torch.int64)
    weights[0, 5 * CELLS + 7] = 3 * CELLS**2 + 1  # three quarters of all
    moved = off_plain_ground(places, weights.expand(len(places), -1), SIDE)
    assert moved.min() >= 0
    assert moved.max() < SIDE
    inside = ((moved // 4) == torch.tensor([5, 7])).all(dim=1)
    assert inside.float().mean() == pytest.approx(0.75, abs=1e-3)
    assert torch.equal(moved % 4, places % 4)
    per_place = torch.bincount((moved[inside] % 4) @ torch.tensor([4, 1]), minlength=16)
    assert per_place.float().std() < 0.01 * per_place.float().mean()


@pytest.mark.parametrize("side", [64, 128, 1024])
def test_where_all_cells_weigh_alike_nothing_moves(side: int) -> None:
    places = every_place(side)[:: side // 64]
    for weight in (1, 1000):
        weights = torch.full((1, CELLS**2), weight).expand(len(places), -1)
        assert torch.equal(off_plain_ground(places, weights, side), places)


def test_the_last_place_stays_inside() -> None:
    weights = cell_weights(part_on_plain_ground(), most_on_plain=0.4)
    last = torch.full((2, 2), SIDE - 1)
    assert (off_plain_ground(last, weights, SIDE) < SIDE).all()
    assert (off_plain_ground(torch.zeros_like(last), weights, SIDE) >= 0).all()
