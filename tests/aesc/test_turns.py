"""How far images may be turned while they are learnt from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from aesc.pixels import Pixels
from aesc.turns import allowed_turns, draw_turns

SIDE = 64
Draw = Callable[[np.random.Generator], NDArray[np.float64]]


def noise(rng: np.random.Generator, *sigmas: float) -> NDArray[np.float64]:
    found = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), sigmas, mode="wrap")
    return np.asarray(0.5 + 0.15 * found / found.std())


def texture(rng: np.random.Generator) -> NDArray[np.float64]:
    """Without a direction."""
    return noise(rng, 2.0, 2.0)


def grain(rng: np.random.Generator) -> NDArray[np.float64]:
    """Upright."""
    return noise(rng, 4.0, 1.0)


def lit(rng: np.random.Generator) -> NDArray[np.float64]:
    """A texture with light from above."""
    return noise(rng, 2.0, 2.0) + np.linspace(0.1, -0.1, SIDE)[:, None]


def bar(rng: np.random.Generator, angle: float, *, off: float = 0.0) -> NDArray[np.float64]:
    """A slender part with a head at one end, that lies about `off` pixels from the middle."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2 - off + rng.uniform(-2, 2, (2, 1, 1))
    along, across = rows * np.cos(angle) + columns * np.sin(angle), columns * np.cos(angle) - rows * np.sin(angle)
    width = np.where(along > 12, 9, 4)
    return 0.8 - 0.5 * ((np.abs(across) < width) & (np.abs(along) < 22)) + 0.01 * rng.normal(size=(SIDE, SIDE))


def lying_anywhere(rng: np.random.Generator) -> NDArray[np.float64]:
    return bar(rng, rng.uniform(0.0, 2 * np.pi))


def lying_anywhere_off_the_middle(rng: np.random.Generator) -> NDArray[np.float64]:
    return bar(rng, rng.uniform(0.0, 2 * np.pi), off=0.7)


def lying_one_way(rng: np.random.Generator) -> NDArray[np.float64]:
    return bar(rng, rng.normal(0.0, 0.2))


def lying_either_way(rng: np.random.Generator) -> NDArray[np.float64]:
    return bar(rng, rng.choice([0.0, np.pi]) + rng.normal(0.0, 0.2))


def ring_with_a_key(rng: np.random.Generator) -> NDArray[np.float64]:
    """Alike from all sides, but for four pixels."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2 + rng.uniform(-1, 1, (2, 1, 1))
    distance = np.hypot(rows, columns)
    found = 0.8 - 0.5 * ((distance > 14) & (distance < 22)) + 0.02 * rng.normal(size=(SIDE, SIDE))
    return np.where((np.abs(rows) < 2) & (np.abs(columns - 18) < 2), 0.8, found)


def marked_texture(rng: np.random.Generator) -> NDArray[np.float64]:
    found = texture(rng)
    found[10:16, 40:46] -= 0.2
    return found


def images(draw: Draw, count: int, *, seed: int = 0, channels: int = 1) -> Pixels:
    rng = np.random.default_rng(seed)
    drawn = np.stack([draw(rng) for _ in range(count)])[..., None].repeat(channels, axis=-1)
    return Pixels((255 * drawn.clip(0.0, 1.0)).astype(np.uint8), np.arange(count), torch.device("cpu"))


@pytest.mark.parametrize("count", [24, 80])
@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (texture, (0, 1, 2, 3)),
        (lying_anywhere, (0, 1, 2, 3)),
        (grain, (0, 2)),
        (lying_either_way, (0, 2)),
        (lit, (0,)),
        (lying_one_way, (0,)),
        (ring_with_a_key, (0,)),
        (marked_texture, (0,)),
    ],
)
def test_images_are_turned_as_far_as_they_look_alike(draw: Draw, expected: tuple[int, ...], count: int) -> None:
    assert allowed_turns(images(draw, count), "auto") == expected


def test_a_part_that_lies_a_little_off_the_middle_turns_about_it() -> None:
    assert allowed_turns(images(lying_anywhere_off_the_middle, 160), "auto") == (0, 1, 2, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_answer_depends_on_the_images_alone(channels: int) -> None:
    torch.manual_seed(1)
    found = allowed_turns(images(grain, 24, channels=channels), "auto")
    torch.manual_seed(2)
    assert allowed_turns(images(grain, 24, channels=channels), "auto") == found == (0, 2)


def test_what_looks_alike_is_rarely_taken_for_different() -> None:
    found = [allowed_turns(images(texture, 24, seed=seed), "auto") for seed in range(40)]
    assert found.count((0, 1, 2, 3)) >= 38


def test_colours_count() -> None:
    """A part whose shape is the same turned by half, with one end of another colour."""

    def one(rng: np.random.Generator) -> NDArray[np.float64]:
        found = np.repeat(texture(rng)[..., None], 3, axis=-1)
        found[: SIDE // 2, :, 0] += 0.1
        found[SIDE // 2 :, :, 1] += 0.1
        return found

    rng = np.random.default_rng(0)
    store = (255 * np.stack([one(rng) for _ in range(24)]).clip(0.0, 1.0)).astype(np.uint8)
    assert allowed_turns(Pixels(store, np.arange(24), torch.device("cpu")), "auto") == (0,)


def test_few_images_and_those_that_shall_not_be_are_not_turned() -> None:
    assert allowed_turns(images(texture, 19), "auto") == (0,)
    assert allowed_turns(images(texture, 24), "none") == (0,)


def test_turns_of_an_epoch_are_those_allowed_and_of_the_seed() -> None:
    first = draw_turns((0, 2), 100, seed=1, epoch=3)
    assert first is not None
    assert set(first.tolist()) == {0, 2}
    again, other, next_epoch = (draw_turns((0, 2), 100, seed=s, epoch=e) for s, e in ((1, 3), (2, 3), (1, 4)))
    assert again is not None
    assert other is not None
    assert next_epoch is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, next_epoch)
    assert draw_turns((0,), 100, seed=1, epoch=3) is None
