"""Maps in units of what clean images show at each place: fair between places, careful with few images, kept safely."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from aesc.errors import AescError
from aesc.normalisation import FILE, MapName, divisor, load_place_maps, save_place_maps, usual_logits

SIDE = 64
CPU = torch.device("cpu")


def clean_maps(count: int, seed: int = 1) -> Tensor:
    """The left half shows ten times as much as the right half."""
    maps = torch.rand(count, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    maps[:, :, : SIDE // 2] *= 10.0
    return maps


def test_a_restless_half_weighs_less_and_the_more_so_the_more_images_say_it() -> None:
    few, many = divisor(clean_maps(3)), divisor(clean_maps(100))
    shares = [(found[:, :16].mean() / found[:, -16:].mean()).item() for found in (few, many)]
    assert 1.0 < shares[0] < shares[1] < 10.0


def test_plain_images_are_all_divided_by_one_number() -> None:
    found = divisor(torch.full((5, SIDE, SIDE), 0.25))
    torch.testing.assert_close(found, torch.full((SIDE, SIDE), 0.5))  # the mean of the place and that of the image


def test_images_that_show_nothing_divide_by_one() -> None:
    assert torch.equal(divisor(torch.zeros(5, SIDE, SIDE)), torch.ones(SIDE, SIDE))


def test_logits_that_are_higher_in_one_half_are_usual_there_and_the_more_so_the_more_images_say_it() -> None:
    few, many = (usual_logits(clean_maps(count) - 7.0) for count in (3, 100))
    steps = [(found[:, :16].mean() - found[:, -16:].mean()).item() for found in (few, many)]
    assert steps == pytest.approx([4.5 * 3 / 8, 4.5 * 100 / 105], rel=0.05)  # halves of means 5 and 0.5
    assert many.mean().item() == pytest.approx(2.75 - 7.0, abs=0.05)


def test_a_single_place_of_a_single_image_is_not_usual() -> None:
    logits = torch.full((1, SIDE, SIDE), -2.0)
    logits[0, 30, 30] = 10.0
    assert (usual_logits(logits) + 2.0).abs().max() < 0.2


def test_logits_that_are_alike_everywhere_are_usual_as_they_are() -> None:
    torch.testing.assert_close(usual_logits(torch.full((4, SIDE, SIDE), -2.0)), torch.full((SIDE, SIDE), -2.0))


def test_what_was_saved_is_loaded_and_nothing_else(tmp_path: Path) -> None:
    place_maps: dict[MapName, Tensor] = {"pixels": divisor(clean_maps(3)), "uncertainty": divisor(clean_maps(4))}
    sha256 = save_place_maps(place_maps, tmp_path)
    loaded = load_place_maps(tmp_path, sha256=sha256, device=CPU)
    assert loaded.keys() == place_maps.keys()
    assert all(torch.equal(loaded[name], place_maps[name]) for name in place_maps)
    save_place_maps({**place_maps, "pixels": divisor(clean_maps(5))}, tmp_path)
    with pytest.raises(AescError, match=f"(?s){FILE}.*{sha256[:12]}"):
        load_place_maps(tmp_path, sha256=sha256, device=CPU)
    (tmp_path / FILE).unlink()
    with pytest.raises(AescError, match="cannot be read"):
        load_place_maps(tmp_path, sha256=sha256, device=CPU)


def test_no_place_maps_make_no_file(tmp_path: Path) -> None:
    assert save_place_maps({}, tmp_path) == ""
    assert load_place_maps(tmp_path, sha256="", device=CPU) == {}
    assert not list(tmp_path.iterdir())
