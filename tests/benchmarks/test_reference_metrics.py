"""The loop over thresholds and the library give the project's numbers."""

from __future__ import annotations

import numpy as np
import pytest

from aesc.pixel_metrics import pixel_metrics
from benchmarks.anomaly_maps import made_up_maps
from benchmarks.reference.pixel_metrics import library_auroc, loop_aupro


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("levels", [None, 5.0])
def test_the_loop_over_every_score_is_exact(limit: float, levels: float | None) -> None:
    maps, masks = made_up_maps(images=5, side=12, seed=3)
    maps = maps if levels is None else np.rint(levels * maps) / np.float32(levels)
    expected = loop_aupro(maps, masks, thresholds=np.unique(maps), limit=limit)
    assert masks.any()
    assert pixel_metrics(maps, masks, limit=limit).aupro == pytest.approx(expected, abs=1e-9)


def test_the_library_gives_the_same_auroc() -> None:
    maps, masks = made_up_maps(images=9, side=64)
    found = pixel_metrics(maps, masks).auroc
    assert found == pytest.approx(library_auroc(maps, masks), abs=1e-12)
    assert found is not None
    assert 0.6 < found < 1.0
