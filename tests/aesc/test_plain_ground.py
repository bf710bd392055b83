"""Plain ground: where it is, and that few enough places are drawn there."""

from __future__ import annotations

import pytest
import torch

from aesc.plain_ground import drawn_cells, off_plain_ground, plain_cells

SIDE = 128
CELLS = 32


def noise(seed: int = 0, *, side: int = SIDE, channels: int = 3, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, channels, side, side, generator=torch.Generator().manual_seed(seed))


def part_on_plain_ground(side: int = SIDE, channels: int = 3) -> torch.Tensor:
    """Two images with texture in a sixteenth, lower right and upper right; the ground has faint noise."""
    texture = noise(side=side, channels=channels, batch=2)
    images = 0.5 + 0.01 * texture
    part = slice(3 * side // 4, side)
    images[0, :, part, part] = texture[0, :, part, part]
    images[1, :, : side // 4, part] = texture[1, :, : side // 4, part]
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


def test_it_is_found_in_either_memory_order_and_alike_in_a_turned_image() -> None:
    images = part_on_plain_ground()
    found = plain_cells(images)
    assert torch.equal(plain_cells(images.contiguous(memory_format=torch.channels_last)), found)
    assert torch.equal(plain_cells(images[1:]), found[1:])
    turned = plain_cells(images.rot90(dims=(2, 3))).view(2, CELLS, CELLS)
    assert torch.equal(turned, found.view(2, CELLS, CELLS).rot90(dims=(1, 2)))


def test_no_cell_of_an_image_that_is_the_same_everywhere_is_plain() -> None:
    flat = torch.full((1, 1, SIDE, SIDE), 0.3)
    assert not plain_cells(flat).any()
    assert drawn_cells(flat, most_on_plain=0.4).weight.unique().numel() == 1
    assert plain_cells(noise(3, batch=200)).sum() <= 20  # of 204,800


def test_no_corner_of_an_image_is_plainer_than_another() -> None:
    """The same texture is found alike in all four: no border lacks the differences that another has."""
    images = 0.5 + 0.001 * noise(batch=4)
    for image, (y, x) in zip(images, ((0, 0), (0, 96), (96, 0), (96, 96)), strict=True):
        image[:, y : y + 32, x : x + 32] = noise(5)[0, :, :32, :32]
    corners = (~plain_cells(images)).sum(dim=1)
    assert corners.max() <= 1.05 * corners.min()


def test_plain_cells_are_drawn_at_most_so_often_and_never_more_often_than_by_their_area() -> None:
    images = part_on_plain_ground()
    plain = plain_cells(images)
    assert (plain.float().mean(dim=1) > 0.8).all()
    for most in (0.0, 0.4):
        weight, end = drawn_cells(images, most_on_plain=most)
        assert torch.equal(end, weight.cumsum(dim=1))
        of_plain = (weight * plain).sum(dim=1) / weight.sum(dim=1)
        torch.testing.assert_close(of_plain, torch.full((2,), most), atol=1e-4, rtol=0.0)
    assert drawn_cells(images, most_on_plain=0.95).weight.unique().numel() == 1


@pytest.mark.parametrize("side", [64, 128])
def test_places_are_drawn_by_the_weights_of_cells_and_evenly_within_each(side: int) -> None:
    """All places of an image, each taken once."""
    places = every_place(side)
    cells = drawn_cells(part_on_plain_ground(side)[:1], most_on_plain=0.4)
    (moved,) = off_plain_ground(places[None], cells, side)
    assert moved.min() == 0
    assert moved.max() == side - 1
    width = side // CELLS
    cell, inside = (moved // width) @ torch.tensor([CELLS, 1]), (moved % width) @ torch.tensor([width, 1])
    hits = torch.bincount(cell, minlength=CELLS**2)
    expected = cells.weight[0] * len(places) / cells.weight.sum()
    assert (hits - expected).abs().max() <= 1.0
    # In a cell that is drawn more often than it has places, each of them comes about as often.
    each = torch.bincount(inside[cell == hits.argmax()], minlength=width**2)
    assert each.max() - each.min() <= 1
    # And over all that are drawn less often, every place of a cell does.
    spread = torch.bincount(inside[expected[cell] < width**2], minlength=width**2).float()
    assert spread.min() > 0.5 * spread.mean()


@pytest.mark.parametrize("side", [64, 128, 1024])
def test_where_all_cells_weigh_alike_nothing_moves(side: int) -> None:
    drawn = torch.randint(0, side, (300, 2), generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([[0, 0], [0, side - 1], [side - 1, 0], [side - 1, side - 1]])
    places = torch.cat([ends, drawn])
    alike = drawn_cells(torch.full((1, 1, SIDE, SIDE), 0.3), most_on_plain=0.4)
    assert torch.equal(off_plain_ground(places[None], alike, side)[0], places)
