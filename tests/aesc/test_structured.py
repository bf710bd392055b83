"""Blobs: varied, inside the image, repeatable, the same by a box each as by whole images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aesc.corruption import corrupt
from aesc.params import FILLS, Structured
from aesc.params_file import load_params
from aesc.structured import _bank, _draw, paint_structured, paint_whole

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml", preset="ablation").corruption.structured
SIDE = 64


def paint(images: torch.Tensor, seed: int = 1, params: Structured = PARAMS) -> tuple[torch.Tensor, torch.Tensor]:
    painted = images.clone()
    return painted, paint_structured(painted, params=params, generator=torch.Generator().manual_seed(seed))


def noise(batch: int, channels: int = 3) -> torch.Tensor:
    return torch.rand(batch, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(9))


def small_part_on_plain_ground() -> torch.Tensor:
    images = torch.full((64, 3, SIDE, SIDE), 0.5)
    images[..., 48:, 48:] = noise(64)[..., 48:, 48:]
    return images


@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_seed_paints_the_same_and_every_image_gets_something(channels: int) -> None:
    images = noise(16, channels)
    painted, mask = paint(images)
    again, mask_again = paint(images)
    assert torch.equal(painted, again)
    assert torch.equal(mask, mask_again)
    assert not torch.equal(painted, paint(images, seed=2)[0])
    assert (painted != images).flatten(1).any(dim=1).all()
    assert painted.min() >= 0.0
    assert painted.max() <= 1.0


def test_what_is_marked_has_changed_and_what_is_far_from_it_has_not() -> None:
    images = noise(32)
    painted, mask = paint(images)
    changed = (painted != images).any(dim=1, keepdim=True)
    assert changed[mask].float().mean() > 0.99  # a filling can by chance be what was there
    # Only soft edges below the mask's opacity lie outside of it.
    assert changed[~mask].float().mean() < 0.05


@pytest.mark.parametrize("plain_ground", [False, True])
def test_painting_whole_images_gives_what_a_box_for_each_blob_does(plain_ground: bool) -> None:
    """A GPU paints on whole images; the pixels must not depend on it."""
    images = small_part_on_plain_ground() if plain_ground else noise(8)
    painted, mask = paint(images)
    pixels = images.permute(0, 2, 3, 1).clone()
    whole = torch.zeros(len(images), SIDE, SIDE, dtype=torch.bool)
    blobs = _draw(images, PARAMS, torch.Generator().manual_seed(1))
    paint_whole(pixels, whole, images.permute(0, 2, 3, 1), blobs, _bank(images.device), PARAMS)
    torch.testing.assert_close(pixels.permute(0, 3, 1, 2), painted)
    assert torch.equal(whole[:, None], mask)


def test_fillings_are_taken_from_the_original_whether_it_is_given_or_copied() -> None:
    clean = noise(16)
    before = clean.clone()
    structured = load_params(
        Path(__file__).parents[2] / "params.yaml", preset="best", overrides=["data.image_size=64"]
    ).corruption
    apart = corrupt(clean, params=structured, generator=torch.Generator().manual_seed(3))
    assert torch.equal(clean, before)
    inside = corrupt(clean, params=structured, generator=torch.Generator().manual_seed(3), inplace=True)
    assert torch.equal(apart[0], inside[0])
    assert torch.equal(apart[1], inside[1])
    assert not torch.equal(clean, before)


@pytest.mark.parametrize("fill", FILLS)
def test_each_filling_is_what_its_name_says(fill: str) -> None:
    plain = {"opacity": (1.0, 1.0), "softest_edge": 0.0, "blobs": 1, "size": (0.1, 0.2), "aspect": 1.0}
    params = PARAMS.model_copy(update={"fills": (fill,), **plain})
    levels = torch.linspace(0.2, 0.8, 16)[:, None, None, None].expand(16, 3, SIDE, SIDE).contiguous()
    painted, mask = paint(levels, params=params)
    for before, after, where in zip(levels, painted, mask, strict=True):
        # The median: at its edge, and where it is thin, even a hard blob is blended with what is below.
        inside, below = after[:, where[0]].median(dim=1).values, before[:, 0, 0]
        spread = (after[:, where[0]] - inside[:, None]).abs().median()
        if fill == "self":  # elsewhere in a plain image is the same level
            torch.testing.assert_close(after, before)
        elif fill == "other":
            assert torch.isclose(levels[:, 0, 0, 0], inside[0], atol=0.02).any()
            assert not torch.allclose(inside, below, atol=0.02)
        elif fill == "gain":
            assert (inside - inside[0]).abs().max() < 1e-5
            assert spread < 0.01
        elif fill == "grey":
            assert (inside - inside[0]).abs().max() < 1e-5
        elif fill == "noise":
            assert where.sum() < 10 or spread > 0.01
        else:
            assert inside.std() > 1e-3


def test_sizes_follow_the_parameters() -> None:
    small = PARAMS.model_copy(update={"size": (0.02, 0.03), "blobs": 1})
    large = PARAMS.model_copy(update={"size": (0.2, 0.25), "blobs": 1, "aspect": 0.8})
    assert paint(noise(16), params=small)[1].sum() * 10 < paint(noise(16), params=large)[1].sum()


def test_most_blobs_lie_on_a_small_part() -> None:
    def on_the_part(most_on_plain: float) -> float:
        params = PARAMS.model_copy(update={"on_plain_ground": most_on_plain, "blobs": 1, "size": (0.02, 0.05)})
        _, mask = paint(small_part_on_plain_ground(), params=params)
        return float(mask[..., 44:, 44:].sum() / mask.sum())

    assert on_the_part(1.0) < 0.25
    assert on_the_part(0.4) == pytest.approx(0.6, abs=0.2)
    assert on_the_part(0.0) > 0.85


def test_an_image_that_shows_something_everywhere_is_painted_as_if_it_were_not_asked() -> None:
    anywhere = PARAMS.model_copy(update={"on_plain_ground": 1.0})
    assert torch.equal(paint(noise(16))[0], paint(noise(16), params=anywhere)[0])
    part = small_part_on_plain_ground()
    assert not torch.equal(paint(part)[0], paint(part, params=anywhere)[0])


def test_a_record_from_before_blobs_kept_off_plain_ground_means_anywhere() -> None:
    content = PARAMS.model_dump()
    del content["on_plain_ground"]
    assert Structured.model_validate(content).on_plain_ground == 1.0
