"""What the court shows two models: the same picture for both, whatever their sizes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aesc.images import read_image, to_network_input
from aesc.params import Params
from aesc.params_file import load_params
from tasks.court import Court, Exhibit
from tests.categories import draw_category
from tests.repositories import ROOT


class Viewer:
    """As much of a detector as the court asks before it predicts."""

    def __init__(self, size: int, channels: int) -> None:
        self.operating_point = SimpleNamespace(image_size=size, channels=channels)

    def preprocess(self, path: Path) -> Any:
        point = self.operating_point
        return to_network_input(read_image(path, max_megapixels=1), size=point.image_size, channels=point.channels)


@pytest.fixture
def params() -> Params:
    return load_params(ROOT / "params.yaml", preset="ablation")


def exhibit(root: Path, **more: Any) -> Exhibit:
    path = root / "widget" / "test" / "spot" / "000.png"
    mask = root / "widget" / "ground_truth" / "spot" / "000_mask.png"
    found = {"number": 3, "path": path, "name": "x", "sha256": "", "defect": "spot", "label": 1, "mask": mask}
    return Exhibit(**{**found, **more})


@pytest.mark.parametrize("kind", ["scratch", "drops"])
def test_a_drawn_defect_is_the_same_one_at_every_size(tmp_path: Path, params: Params, kind: str) -> None:
    root = draw_category(tmp_path, size=128)
    clean = root / "widget" / "test" / "good" / "000.png"
    shown = exhibit(root, path=clean, mask=None, kind=kind)
    court = Court([shown], params, side=128, channels=3)
    large, large_mask = court.see(shown, Viewer(128, 3))  # type: ignore[arg-type]
    again, _ = court.see(shown, Viewer(128, 3))  # type: ignore[arg-type]
    small, small_mask = court.see(shown, Viewer(64, 1))  # type: ignore[arg-type]
    assert (large.shape, small.shape) == ((128, 128, 3), (64, 64, 1))
    assert np.array_equal(large, again)
    assert large_mask is not None
    assert small_mask is not None
    assert large_mask.any()
    assert np.array_equal(small_mask, large_mask[::2, ::2])
    untouched = Viewer(128, 3).preprocess(clean)
    assert np.abs(large.astype(int) - untouched.astype(int))[~large_mask].max() <= 1
    shrunk = large.astype(float).mean(axis=2).reshape(64, 2, 64, 2).mean(axis=(1, 3))
    assert np.corrcoef(shrunk.ravel(), small.ravel())[0, 1] > 0.95
    other, _ = court.see(exhibit(root, path=clean, mask=None, kind=kind, number=4), Viewer(128, 3))  # type: ignore[arg-type]
    assert not np.array_equal(other, large)


def test_a_file_is_seen_with_its_mask_and_without_one_a_defect_has_none(tmp_path: Path, params: Params) -> None:
    root = draw_category(tmp_path)
    court = Court([], params, side=64, channels=3)
    viewer: Any = Viewer(64, 3)
    pixels, mask = court.see(exhibit(root), viewer)
    assert mask is not None
    assert pixels[mask].mean() < pixels[~mask].mean()
    assert court.see(exhibit(root, mask=None), viewer)[1] is None
    _, clean = court.see(exhibit(root, mask=None, label=0), viewer)
    assert clean is not None
    assert not clean.any()
