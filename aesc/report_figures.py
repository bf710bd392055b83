"""The figures of one run, drawn from what its folder holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from aesc.detector import verdict
from aesc.evaluation import TestMaps
from aesc.figures import pro_figure, roc_figure, score_histogram, training_curves
from aesc.metrics import roc_curve_points
from aesc.operating_point import OperatingPoint
from aesc.panels import PanelRow, choose_examples, panel_figure
from aesc.params import STRATEGIES, Params
from aesc.pixel_metrics import pro_curve

ROWS_A_PAGE = 6


def draw_report(
    folder: Path,
    *,
    history: pd.DataFrame,
    best_epoch: int,
    scores: pd.DataFrame,
    evaluation: Path,
    metrics: dict[str, Any],
    point: OperatingPoint,
    params: Params,
) -> list[Path]:
    """Draw training curves, ROC, PRO, score histogram and one panel figure a defect type; the files.

    Args:
        folder: gets the PNGs.
        history, best_epoch: of training.
        scores: from `aesc.evaluation.evaluate`.
        evaluation: folder of the test maps.
        metrics: from `aesc.report.measure`.
        point: the calibrated operating point.
        params: of the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    caption = describe(metrics)
    test = scores[scores["split"] == "test"].sort_values("map_index").reset_index(drop=True)
    kind = params.detection.image_score
    positives = "held-out corruptions" if metrics["synthetic_defects"] else "defective images"
    tables = {name: metrics["strategies"][name][0] for name in STRATEGIES}
    files = [
        training_curves(history, folder / "training.png", best_epoch=best_epoch, caption=caption),
        roc_figure(
            {name: roc_curve_points(test[f"{name}_{kind}"], test["label"]) for name in STRATEGIES},
            {name: table["image_auroc"] for name, table in tables.items()},
            folder / "roc.png",
            chosen=point.strategy,
            caption=caption,
            positives=positives,
        ),
        pro_figure(
            {name: _pro(evaluation, name, test, params) for name in STRATEGIES},
            {name: table["aupro"] for name, table in tables.items()},
            folder / "pro.png",
            limit=params.evaluation.aupro_limit,
            chosen=point.strategy,
            caption=caption,
        ),
        score_histogram(
            _groups(scores, f"{point.strategy}_{kind}"),
            folder / "scores.png",
            threshold=point.promise.threshold,
            strategy=point.strategy,
            alpha_attained=point.promise.attained,
            caption=caption,
        ),
    ]
    return files + _draw_panels(folder, test, evaluation, point, caption)


def describe(metrics: dict[str, Any]) -> str:
    """The line under every figure: what a number needs to travel."""
    n = metrics["n"]
    made_up = ", defects are held-out corruptions" if metrics["synthetic_defects"] else ""
    return (
        f"{metrics['category']}: {n['test_good']} good and {n['test_defective']} defective test images{made_up}, "
        f"{n['calibration']} for calibration; seed {metrics['seed']}, data {metrics['data_version'][:12]}, "
        f"metric version {metrics['metric_version']}"
    )


def _pro(evaluation: Path, strategy: str, test: pd.DataFrame, params: Params) -> Any:
    masks = TestMaps.read(evaluation, "mask")
    return pro_curve(
        iter(TestMaps.read(evaluation, strategy)),
        [np.asarray(masks[i]) if has_mask else None for i, has_mask in enumerate(test["has_mask"])],
        params.evaluation.aupro_limit,
        labels=test["label"],
    )


def _groups(scores: pd.DataFrame, column: str) -> pd.DataFrame:
    rows = scores[(scores["split"] == "test") | (scores["corruption"] == "")]
    good = rows["defect"].where(rows["label"] == 1, "test good")
    return pd.DataFrame(
        {"score": rows[column], "group": good.where(rows["split"] == "test", "calibration")}
    ).reset_index(drop=True)


def _draw_panels(folder: Path, test: pd.DataFrame, evaluation: Path, point: OperatingPoint, caption: str) -> list[Path]:
    threshold = point.promise.threshold
    column = f"{point.strategy}_{point.detection.image_score}"
    frame = test[["defect", "label"]].assign(index=test.index, score=test[column])
    rows = list(panel_rows(test, choose_examples(frame, threshold=threshold), evaluation, point, column))
    # One scale for all pages: a bright map means the same on each.
    scales: dict[str, Any] = {
        f"{name}_vmax": float(np.percentile(np.stack([getattr(row, name) for row in rows]), 99.9))
        for name in ("residual", "uncertainty")
    }
    return [
        panel_figure(
            rows[start : start + ROWS_A_PAGE],
            folder / f"panel_{start // ROWS_A_PAGE + 1}.png",
            caption=caption,
            threshold=threshold,
            **scales,
        )
        for start in range(0, len(rows), ROWS_A_PAGE)
    ]


def panel_rows(
    test: pd.DataFrame, examples: list[tuple[int, str]], evaluation: Path, point: OperatingPoint, column: str
) -> Iterator[PanelRow]:
    """Rows of a panel figure for test images, each an index in `test` and what the title says; `column` has scores."""
    stored = {name: TestMaps.read(evaluation, name) for name in ("input", "reconstruction", "mask", *STRATEGIES)}
    rows = test.to_dict("index")
    for index, role in examples:
        row: dict[Any, Any] = rows[index]
        at = row["map_index"]
        name = Path(row["path"]).stem
        yield PanelRow(
            title=f"{row['defect']}/{name} - {role}",
            image=_unit(stored["input"][at]),
            mask=np.asarray(stored["mask"][at]) if row["has_mask"] else None,
            reconstruction=_unit(stored["reconstruction"][at]),
            residual=np.asarray(stored["residual"][at]),
            uncertainty=np.asarray(stored["uncertainty"][at]),
            score=float(row[column]),
            verdict=verdict({name: float(row[f"{name}_{point.detection.image_score}"]) for name in STRATEGIES}, point),
            pixel_mask=np.asarray(stored[point.strategy][at] > point.pixel_promise.threshold),
        )


def _unit(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return np.asarray(pixels, dtype=np.float32) / np.float32(255.0)
