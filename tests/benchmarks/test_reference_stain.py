"""The plain stain and the project's are the same kind of thing: size, coverage, place and grey levels agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aesc.corruption import corrupt
from aesc.params import Corruption
from aesc.params_file import load_params
from benchmarks.reference.stain import draw_stain

SIDE, COUNT = 128, 1000
Stains = tuple[NDArray[np.float32], NDArray[np.bool_]]


def settings(**changes: object) -> Corruption:
    params = load_params(Path(__file__).parents[2] / "params.yaml", preset="ablation").corruption
    return Corruption.model_validate({**params.model_dump(), "noise_variance": 0.0, **changes})


def both(params: Corruption) -> tuple[Stains, Stains]:
    """Corrupted white images, count x side x side, and their masks: the project's, and the reference's."""
    white = torch.ones(COUNT, 1, SIDE, SIDE)
    corrupted, mask = corrupt(white, params=params, generator=torch.Generator().manual_seed(1))
    rng = np.random.default_rng(2)
    plain = [draw_stain(np.ones((SIDE, SIDE, 1), dtype=np.float32), params, rng) for _ in range(COUNT)]
    ours = corrupted[:, 0].numpy(), mask[:, 0].numpy()
    return ours, (np.stack([image[..., 0] for image, _ in plain]), np.stack([found for _, found in plain]))


@pytest.fixture(scope="module")
def stains() -> tuple[Stains, Stains]:
    return both(settings())


def test_sizes_are_distributed_alike(stains: tuple[Stains, Stains]) -> None:
    ours, theirs = (mask.sum(axis=(1, 2)) for _, mask in stains)
    for share in (0.1, 0.25, 0.5, 0.75, 0.9, 0.98):
        # A polygon's border pixels count as inside, which adds half a pixel all around.
        a, b = np.sqrt(np.quantile(ours, share)), np.sqrt(np.quantile(theirs, share))
        assert abs(a - b) < 0.08 * a + 1.2, share


def test_the_image_is_covered_alike(stains: tuple[Stains, Stains]) -> None:
    coverage = [mask.mean(axis=0).reshape(4, SIDE // 4, 4, SIDE // 4).mean(axis=(1, 3)) for _, mask in stains]
    assert coverage[0].mean() == pytest.approx(coverage[1].mean(), rel=0.2)
    inner = [part[1:3, 1:3] / part.mean() for part in coverage]
    np.testing.assert_allclose(inner[0], inner[1], rtol=0.35)
    rows = [mask.any(axis=2) for _, mask in stains]
    for found in rows:
        first, last = found.argmax(axis=1), SIDE - 1 - found[:, ::-1].argmax(axis=1)
        assert first.min() <= 2
        assert last.max() >= SIDE - 3


def test_grey_levels_are_distributed_alike(stains: tuple[Stains, Stains]) -> None:
    levels = [255 * np.where(mask, image, 0.0).max(axis=(1, 2)) for image, mask in stains]
    for found in levels:
        assert 10 <= found.min() < 15
        assert 215 < found.max() <= 220.01
    np.testing.assert_allclose(levels[0].mean(), levels[1].mean(), rtol=0.05)
    np.testing.assert_allclose(levels[0].std(), levels[1].std(), rtol=0.05)


def test_a_blurred_edge_changes_as_much_of_the_image() -> None:
    ours, theirs = both(settings(blur=0.15, grey=[0, 0], size=[0.06, 0.1]))
    changed = [(1.0 - image).sum(axis=(1, 2)) for image, _ in (ours, theirs)]
    # As radii of discs, pixels: the polygon's border pixels count as inside, half a pixel all around.
    radii = [np.sqrt(np.median(amount) / np.pi) for amount in changed]
    assert radii[0] == pytest.approx(radii[1] - 0.5, abs=0.5)
    soft = [((image > 0.05) & (image < 0.95)).sum(axis=(1, 2)) for image, _ in (ours, theirs)]
    # The project takes the distance along the radius, so its edge is narrower where the outline runs aslant.
    assert 0.65 < np.median(soft[0]) / np.median(soft[1]) <= 1.0
