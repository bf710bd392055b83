"""The comparison: which cells there are, what the table says of them, and the figure of their reconstructions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from aesc.ablation import CORRUPTIONS, METRICS, NETWORKS, Cell, plan, rows_of, summarise, to_markdown
from aesc.ablation_figure import reconstructions_figure
from aesc.errors import AescError
from aesc.params import STRATEGIES
from aesc.params_file import load_params

PARAMS = Path(__file__).parents[2] / "params.yaml"


def metrics(image_auroc: float, *, pixel_auroc: float | None = 0.7) -> dict[str, Any]:
    overall: dict[str, Any] = {"n_good": 5, "n_defective": 9}
    for name, value in zip(METRICS, (image_auroc, pixel_auroc, pixel_auroc), strict=True):
        overall |= {name: value, f"{name}_low": value and value - 0.1, f"{name}_high": value and value + 0.1}
    return {
        "strategy": "residual",
        "image_score": "l2",
        "image_auroc_by_score": {strategy: {"l2": image_auroc, "max": 0.5, "top": 0.4} for strategy in STRATEGIES},
        "strategies": {strategy: [overall] for strategy in STRATEGIES},
        "data_version": "abc",
        "metric_version": "1",
    }


@pytest.mark.parametrize("preset", ["ablation", "best"])
def test_every_cell_is_planned_once_and_its_parameters_are_sound(preset: str) -> None:
    cells = plan(list(NETWORKS), CORRUPTIONS, (1, 2))
    assert len(set(cells)) == len(cells) == 3 * 5 * 2
    for cell in cells:
        params = load_params(PARAMS, preset=preset, overrides=cell.overrides)
        assert (params.network.skip, params.corruption.kind) == (NETWORKS[cell.network], cell.corruption)
        assert params.training.seed == cell.seed
        assert not params.network.segmentation, "some corruptions have no place to mark"
        assert params.calibration.residuals == (), "cells would choose by different corruptions"


@pytest.mark.parametrize(
    ("networks", "corruptions", "seeds", "said"),
    [
        (["ResNet"], ["stain"], [1], "--network: unknown: ResNet"),
        (["AE"], ["rain"], [1], "--corruption: unknown: rain"),
        (["AE", "AE"], ["stain"], [1], "--network: AE, AE"),
        (["AE"], ["stain"], [1, 1], "--seed: 1, 1"),
        (["AE"], [], [1], "--corruption: nothing"),
    ],
)
def test_wrong_cells_are_refused(networks: list[str], corruptions: list[str], seeds: list[int], said: str) -> None:
    with pytest.raises(AescError, match=said) as caught:
        plan(networks, corruptions, seeds)
    assert caught.value.usage


def test_the_table_has_the_mean_over_seeds_and_an_interval_over_images_and_seeds() -> None:
    rows = [row for seed, value in ((1, 0.8), (2, 0.9)) for row in rows_of(Cell("AESc", "stain", seed), metrics(value))]
    rows += rows_of(Cell("AE", "none", 1), metrics(0.6, pixel_auroc=None))
    assert (rows[0]["image_auroc_l2"], rows[0]["image_auroc_top"], rows[0]["image_score"]) == (0.8, 0.4, "l2")
    table = summarise(pd.DataFrame(rows))
    assert len(table) == 2 * len(STRATEGIES)
    best = table.iloc[0]
    assert (best["network"], best["corruption"], best["strategy"], best["seeds"]) == ("AESc", "stain", "residual", 2)
    assert best["image_auroc"] == pytest.approx(0.85)
    assert (best["image_auroc_low"], best["image_auroc_high"]) == pytest.approx((0.7, 1.0))
    text = to_markdown(table)
    assert "| AESc | stain | residual | 2 | **0.850** (0.700 to 1.000) |" in text
    assert "| AE | none | residual | 1 | 0.600 (0.500 to 0.700) | not available | not available |" in text


@pytest.mark.parametrize("channels", [1, 3])
def test_the_figure_shows_inputs_and_every_cell(tmp_path: Path, channels: int) -> None:
    images = [np.full((32, 32, channels), level, dtype=np.uint8) for level in (40, 200)]
    names = {"AE, none": images, "AESc, stain": images[::-1]}
    path = reconstructions_figure(images, ["good", "hole"], names, tmp_path / "f.png", caption="n = 2")
    shown = np.asarray(Image.open(path).convert("L"))
    assert {40, 200} <= set(np.unique(shown).tolist())
    with pytest.raises(ValueError, match="of another number"):
        reconstructions_figure(images, ["good", "hole"], {"AE": images[:1]}, tmp_path / "g.png", caption="n = 2")
