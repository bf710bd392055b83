from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from aesc import corruption as module
from aesc import stain
from aesc.corruption import corrupt
from aesc.params import Corruption
from aesc.params_file import load_params
from aesc.placement import place

DEFAULTS = load_params(Path(__file__).parents[2] / "params.yaml", preset="ablation").corruption
LOCAL = ("stain", "scratch", "drops")


def params(**changes: Any) -> Corruption:
    return Corruption.model_validate({**DEFAULTS.model_dump(), **changes})


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def white(count: int, side: int = 64, channels: int = 1) -> Tensor:
    return torch.ones(count, channels, side, side)


def drawn(
    settings: Corruption, *, side: int = 64, batches: int = 8, count: int = 128, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Corrupted white grey images, n x side x side, and their masks."""
    generator = seeded(seed)
    parts = [corrupt(white(count, side), params=settings, generator=generator) for _ in range(batches)]
    return torch.cat([part[0] for part in parts])[:, 0], torch.cat([part[1] for part in parts])[:, 0]


class Moments(NamedTuple):
    area: Tensor
    centre: Tensor  # n x 2, y and x
    slant: Tensor  # covariance of y and x
    axes: Tensor  # n x 2, semi-axes of the ellipse with the same second moments, the smaller first


def moments(mask: Tensor) -> Moments:
    grid = torch.arange(mask.shape[-1]) - mask.shape[-1] // 2
    powers = torch.stack([grid**0, grid, grid**2], dim=-1).double()
    raw = powers.T @ (mask.float() @ powers.float()).double()  # n x 3 x 3: sums of y^i x^j
    area = raw[:, 0, 0]
    y, x = raw[:, 1, 0] / area, raw[:, 0, 1] / area
    yy, xx, xy = raw[:, 2, 0] / area - y * y, raw[:, 0, 2] / area - x * x, raw[:, 1, 1] / area - x * y
    covariance = torch.stack([torch.stack([yy, xy], -1), torch.stack([xy, xx], -1)], -2)
    centre = torch.stack([y, x], -1) + mask.shape[-1] // 2
    return Moments(area, centre, xy, 2.0 * torch.linalg.eigvalsh(covariance).clamp(min=0.0).sqrt())


# The shape of a stain


def test_without_irregularity_a_stain_is_an_ellipse_of_the_asked_size() -> None:
    side = 384  # large, so that the pixel grid matters little
    _, mask = drawn(params(irregularity=0.0, size=[0.01, 0.12]), side=side, batches=12, count=16)
    found = moments(mask)
    expected = math.pi * found.axes.prod(dim=1)
    broad = found.axes[:, 0] > 6.0
    assert broad.sum() > 140
    # Among all shapes with given second moments an ellipse, and only it, has the largest area: pi a b.
    assert (found.area / expected)[broad].min() > 0.98
    assert found.axes.min() > 0.01 * side - 1.0
    assert found.axes.max() < 0.12 * side + 1.0
    assert found.axes.max() > 0.11 * side
    eccentric = found.axes[:, 1] / found.axes[:, 0]
    assert eccentric.min() < 1.1
    assert eccentric.max() > 4.0


def test_a_circle_has_the_area_of_its_radius_everywhere() -> None:
    side = 128
    _, mask = drawn(params(irregularity=0.0, size=[0.1, 0.1]), side=side, batches=4)
    ratio = moments(mask).area / (math.pi * (0.1 * side) ** 2)
    assert ratio.min() > 0.97
    assert ratio.max() < 1.03


def test_area_stays_in_the_range_of_the_semi_axes() -> None:
    side, (low, high), irregularity = 128, (0.03, 0.1), 0.3
    _, mask = drawn(params(size=[low, high], irregularity=irregularity), side=side)
    area = moments(mask).area
    assert area.min() > math.pi * (low * side * (1.0 - irregularity) - 1.0) ** 2
    assert area.max() < math.pi * (high * side * (1.0 + irregularity)) ** 2
    # Independent uniform semi-axes: mean area pi (mean axis)^2, a little more with moved points.
    assert area.mean().item() == pytest.approx(math.pi * (0.065 * side) ** 2, rel=0.1)
    assert area.max() > 2.0 * area.median()


def test_irregularity_widens_the_spread_and_roughens_the_outline() -> None:
    spreads, fillings = [], []
    for irregularity in (0.0, 0.3, 0.6):
        _, mask = drawn(params(size=[0.1, 0.1], irregularity=irregularity), side=128, batches=2)
        found = moments(mask)
        spreads.append((found.area.std() / found.area.mean()).item())
        fillings.append((found.area / (math.pi * found.axes.prod(dim=1))).mean().item())
    assert spreads[0] < 0.01
    assert 0.05 < spreads[1] < 0.7 * spreads[2]
    assert fillings[0] > 0.99 > fillings[1] > fillings[2] + 0.01


def test_a_stain_turns_in_all_directions() -> None:
    _, mask = drawn(params(irregularity=0.0), side=128, batches=4)
    found = moments(mask)
    slant = found.slant[found.axes[:, 1] > 1.5 * found.axes[:, 0]]
    assert 0.4 < (slant > 0.0).double().mean() < 0.6


# Where it lies


@pytest.mark.parametrize("kind", LOCAL)
@pytest.mark.parametrize("side", [64, 128])
def test_nothing_ever_lies_outside_the_image(kind: str, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = params(kind=kind, irregularity=0.6)
    placed: list[tuple[Tensor, Tensor]] = []

    def spy(extent: Tensor, side: int, drawn: Tensor) -> Tensor:
        placed.append((place(extent, side, drawn), extent))
        return placed[-1][0]

    monkeypatch.setattr(module, "place", spy)
    masks, generator = [], seeded(side)
    for _ in range(8):
        if kind == "stain":  # a loop draws and places it: what it should have placed is traced from the same draws
            outline = stain.trace(stain.draw(128, generator.clone_state(), torch.device("cpu")), side, settings)
            placed.append((outline.centre, outline.extent))
        masks.append(corrupt(white(128, side), params=settings, generator=generator)[1][:, 0])
    mask = torch.cat(masks)
    centre, extent = (torch.cat(parts) for parts in zip(*placed, strict=True))
    assert (centre - extent).min() >= -0.5 - 1e-4
    assert (centre + extent).max() <= side - 0.5 + 1e-4
    # ... and no pixel lies beyond the extent that this was asked for, so nothing is cut off at the border.
    for axis in (0, 1):
        line = mask.any(dim=2 - axis).double()
        first, last = line.argmax(dim=1), side - 1 - line.flip(1).argmax(dim=1)
        assert (centre[:, axis] - first - extent[:, axis]).max() < 0.01
        assert (last - centre[:, axis] - extent[:, axis]).max() < 0.01


@pytest.mark.parametrize(("channels", "layout"), [(1, torch.contiguous_format), (3, torch.channels_last)])
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("blur", [0.0, 0.15])
@pytest.mark.parametrize("side", [64, 128])
def test_a_stain_by_loops_is_that_on_whole_images(
    side: int, blur: float, colour: bool, channels: int, layout: torch.memory_format
) -> None:
    """A GPU paints on whole images; the pixels must not depend on it."""
    settings = params(kind="stain", blur=blur, colour=colour, noise_variance=0.0, size=(0.01, 0.2))
    images = torch.rand(256, channels, side, side, generator=seeded(1)).contiguous(memory_format=layout)
    painted, mask = corrupt(images, params=settings, generator=seeded(2))
    generator = seeded(2)
    shape = stain.fill(stain.trace(stain.draw(256, generator, images.device), side, settings), side, settings)
    level = module._level(images, settings, generator)[:, :, None, None]
    whole = images + shape.opacity[:, None] * (level - images)
    # Rounding may bring a pixel that the curve, or the end of its blurred edge, just touches to either side of it.
    assert (mask[:, 0] != (shape.opacity >= 0.5)).sum() <= 2
    differs = ((painted - whole).abs() > 1e-5).any(dim=1)
    assert differs.sum() <= 4
    if blur:
        assert (painted - whole).abs().max() < 2e-3


@pytest.mark.parametrize("blur", [1e-30, 1e-17, 1e-6])
def test_an_edge_that_is_hardly_blurred_is_a_hard_one(blur: float) -> None:
    images = torch.rand(64, 1, 64, 64, generator=seeded(1))
    hard = corrupt(images, params=params(kind="stain", blur=0.0), generator=seeded(2))
    blurred = corrupt(images, params=params(kind="stain", blur=blur), generator=seeded(2))
    assert torch.equal(hard[1], blurred[1])
    torch.testing.assert_close(hard[0], blurred[0])


@pytest.mark.parametrize("size", [(1e-30, 1e-29), (1e-5, 0.12)])
def test_stains_of_no_size_to_speak_of_end_no_training(size: tuple[float, float]) -> None:
    painted, mask = corrupt(white(2048), params=params(kind="stain", size=size), generator=seeded(3))
    assert painted.isfinite().all()
    assert size[1] < 1e-6 or mask.any(dim=(1, 2, 3)).float().mean() > 0.99


@pytest.mark.parametrize("kind", LOCAL)
def test_positions_cover_the_image_evenly(kind: str) -> None:
    side = 64
    _, mask = drawn(params(kind=kind), side=side, batches=16)
    hits = mask.double().mean(dim=0)
    rim = 1 if kind == "stain" else 3  # the extent of a scratch is only bounded
    for border in (hits[:rim], hits[-rim:], hits[:, :rim], hits[:, -rim:]):
        assert border.sum() > 0.0
    inner = hits.reshape(8, side // 8, 8, side // 8).mean(dim=(1, 3))[2:-2, 2:-2]
    assert inner.max() < 2.0 * inner.min()
    centre = moments(mask).centre
    assert centre.mean(dim=0).tolist() == pytest.approx([(side - 1) / 2] * 2, abs=1.5)
    for axis in (0, 1):
        assert centre[:, axis].min() < 0.2 * side
        assert centre[:, axis].max() > 0.8 * side


@pytest.mark.parametrize("kind", LOCAL)
@pytest.mark.parametrize("blur", [0.0, 0.15])
def test_the_smallest_shapes_on_the_smallest_image_still_cover_a_pixel(kind: str, blur: float) -> None:
    corrupted, mask = drawn(params(kind=kind, size=[0.01, 0.01], irregularity=0.9, blur=blur), side=64, batches=4)
    assert mask.sum(dim=(1, 2)).min() >= 1
    assert ((corrupted != 1.0) & mask).any(dim=(1, 2)).all()


# What it is filled with


def test_grey_levels_cover_their_range_evenly() -> None:
    low, high = 10.0, 220.0
    corrupted, mask = drawn(params(grey=[low, high], noise_variance=0.0), batches=16)
    levels = 255.0 * (corrupted * mask).amax(dim=(1, 2))
    lowest = 255.0 * torch.where(mask, corrupted, 2.0).amin(dim=(1, 2))
    torch.testing.assert_close(levels, lowest)  # one level a stain
    assert low <= levels.min() < low + 5.0
    assert high - 5.0 < levels.max() <= high + 1e-3
    spread = (high - low) / math.sqrt(12.0)
    assert levels.mean().item() == pytest.approx((low + high) / 2.0, abs=5.0 * spread / math.sqrt(len(levels)))
    assert levels.std().item() == pytest.approx(spread, rel=0.05)


def test_the_filling_s_noise_has_the_asked_variance() -> None:
    variance = 0.05 / 255.0
    corrupted, mask = drawn(params(grey=[128, 128], noise_variance=variance, size=[0.1, 0.12]), batches=2)
    filling = corrupted[mask].double()
    assert len(filling) > 10_000
    assert filling.mean().item() == pytest.approx(128.0 / 255.0, abs=1e-3)
    assert filling.var().item() == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("kind", [*LOCAL, "gaussian"])
def test_values_stay_in_the_range_of_an_image(kind: str) -> None:
    settings = params(kind=kind, grey=[0, 255], noise_variance=0.1, gaussian_std=1.0)
    images = torch.rand(32, 3, 64, 64, generator=seeded(1))
    corrupted, _ = corrupt(images, params=settings, generator=seeded(2))
    assert corrupted.min() >= 0.0
    assert corrupted.max() <= 1.0
    assert corrupted.shape == images.shape
    assert corrupted.dtype == images.dtype


@pytest.mark.parametrize("kind", LOCAL)
@pytest.mark.parametrize("colour", [True, False])
def test_a_grey_filling_is_equal_in_all_channels_and_a_coloured_one_is_not(kind: str, colour: bool) -> None:
    corrupted, mask = corrupt(white(64, channels=3), params=params(kind=kind, colour=colour), generator=seeded(3))
    red, green, blue = corrupted.unbind(dim=1)
    inside = mask[:, 0]
    if colour:
        tints = [(255.0 * channel * inside).sum(dim=(1, 2)) / inside.sum(dim=(1, 2)) for channel in (red, green, blue)]
        assert ((tints[0] - tints[1]).abs() > 5.0).double().mean() > 0.8
        assert ((tints[1] - tints[2]).abs() > 5.0).double().mean() > 0.8
    else:
        assert torch.equal(red, green)
        assert torch.equal(green, blue)


# The mask


@pytest.mark.parametrize("kind", LOCAL)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_mask_is_where_the_image_changed(kind: str, channels: int, layout: torch.memory_format) -> None:
    images = 0.9 + 0.1 * torch.rand(32, channels, 64, 64, generator=seeded(4))  # lighter than any filling
    images = images.contiguous(memory_format=layout)
    before = images.clone()
    corrupted, mask = corrupt(images, params=params(kind=kind, grey=[10, 180]), generator=seeded(5))
    assert torch.equal(images, before), "the clean images were changed in place"
    assert mask.shape == (32, 1, 64, 64)
    assert mask.dtype == torch.bool
    assert torch.equal((corrupted != images).all(dim=1, keepdim=True), mask)
    assert torch.equal((corrupted != images).any(dim=1, keepdim=True), mask)
    assert mask.any(dim=(1, 2, 3)).all(), "an image of the batch stayed clean"
    assert mask.double().mean() < 0.1


def test_none_changes_nothing_and_draws_nothing() -> None:
    images, generator = torch.rand(4, 3, 64, 64, generator=seeded(1)), seeded(2)
    before = generator.get_state()
    corrupted, mask = corrupt(images, params=params(kind="none"), generator=generator)
    assert torch.equal(corrupted, images)
    assert mask.shape == (4, 1, 64, 64)
    assert not mask.any()
    assert torch.equal(generator.get_state(), before)


def test_gaussian_noise_is_everywhere_with_the_asked_deviation() -> None:
    images = torch.full((16, 3, 64, 64), 0.5)
    corrupted, mask = corrupt(images, params=params(kind="gaussian", gaussian_std=0.05), generator=seeded(1))
    assert mask.all()
    assert mask.shape == (16, 1, 64, 64)
    assert (corrupted - images).std().item() == pytest.approx(0.05, rel=0.02)
    assert (corrupted - images).mean().item() == pytest.approx(0.0, abs=1e-3)
    assert not torch.equal(corrupted[:, 0], corrupted[:, 1])


def test_a_blurred_edge_is_soft_and_the_mask_is_its_upper_half() -> None:
    side, radius, blur = 128, 0.12, 0.25
    hard, soft = (
        drawn(
            params(size=[radius, radius], irregularity=0.0, blur=b, grey=[0, 0], noise_variance=0.0),
            side=side,
            batches=1,
        )
        for b in (0.0, blur)
    )
    assert set(hard[0].unique().tolist()) == {0.0, 1.0}
    opacity = (1.0 - soft[0]).double()
    assert ((opacity > 0.05) & (opacity < 0.95)).sum(dim=(1, 2)).min() > 100
    sure = (opacity - 0.5).abs() > 1e-4
    assert torch.equal((opacity >= 0.5)[sure], soft[1][sure])
    # A disc whose edge is Gauss' integral with deviation sigma holds pi (radius^2 + sigma^2).
    sigma = blur * radius * side
    expected = math.pi * ((radius * side) ** 2 + sigma**2)
    assert opacity.sum(dim=(1, 2)).mean().item() == pytest.approx(expected, rel=0.02)
    assert soft[1].double().sum(dim=(1, 2)).mean().item() == pytest.approx(math.pi * (radius * side) ** 2, rel=0.02)


def test_a_blurred_stain_lies_inside_the_image_with_its_edge() -> None:
    corrupted, _ = drawn(params(size=[0.1, 0.1], irregularity=0.0, blur=0.25, grey=[0, 0], noise_variance=0.0))
    whole = (1.0 - corrupted).sum(dim=(1, 2))
    assert whole.min() > 0.99 * whole.max()


# The other kinds


def test_scratches_are_thin_and_long_and_drops_are_many() -> None:
    scratch, drops = (moments(drawn(params(kind=kind), side=256, batches=2, count=64)[1]) for kind in LOCAL[1:])
    assert (scratch.axes[:, 1] / scratch.axes[:, 0]).median() > 5.0
    assert 0.05 * 256 < 2.0 * scratch.axes[:, 1].median() < 0.3 * 256
    disc = math.pi * (0.02 * 256) ** 2
    assert drops.area.max() < 10 * disc + 100
    assert drops.area.median() > disc
    assert (drops.area / (math.pi * drops.axes.prod(dim=1))).median() < 0.7  # scattered, not one blob


# Randomness


@pytest.mark.parametrize("kind", [*LOCAL, "gaussian"])
def test_the_same_state_gives_the_same_corruption_and_no_two_are_alike(kind: str) -> None:
    settings = params(kind=kind)
    before = torch.get_rng_state()
    images = white(16, channels=3) * 0.5
    generator = seeded(1)
    first = corrupt(images, params=settings, generator=generator)
    following = corrupt(images, params=settings, generator=generator)
    again = corrupt(images, params=settings, generator=seeded(1))
    other = corrupt(images, params=settings, generator=seeded(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert torch.equal(torch.get_rng_state(), before), "a global generator was drawn from"
    for different in (following, other):
        assert all(not torch.equal(mine, theirs) for mine, theirs in zip(first[0], different[0], strict=True))
    assert all(not torch.equal(first[0][0], neighbour) for neighbour in first[0][1:])
