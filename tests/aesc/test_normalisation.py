"""Maps in units of what clean images show at each place: fair between places, careful with few images, kept safely."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from aesc.errors import AescError
from aesc.normalisation import FILE, MapName, divisor, load_place_maps, save_place_maps

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


def test_no_divisors_make_no_file(tmp_path: Path) -> None:
    assert save_place_maps({}, tmp_path) == ""
    assert load_place_maps(tmp_path, sha256="", device=CPU) == {}
    assert not list(tmp_path.iterdir())
