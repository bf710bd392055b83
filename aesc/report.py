"""What a detector achieves, with everything a number needs to travel: n, seed, data version, metric version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aesc.calibration import allowed_false_alarms
from aesc.detector import Verdict, verdict
from aesc.evaluation import SYNTHETIC, TestMaps
from aesc.metrics import METRIC_VERSION, image_metrics, metrics_table
from aesc.operating_point import OperatingPoint
from aesc.params import IMAGE_SCORES, STRATEGIES, Params, Strategy
from aesc.seeding import Stream, derive_seed

CONFIDENCE = 0.95  # of the number of false alarms that the promise allows


def measure(scores: pd.DataFrame, evaluation: Path, *, point: OperatingPoint, params: Params) -> dict[str, Any]:
    """All metrics on the test set, JSON-ready; what is not available is None.

    Args:
        scores: from `aesc.evaluation.evaluate`.
        evaluation: folder of the test maps.
    """
    test = scores[scores["split"] == "test"].sort_values("map_index")
    kind = params.detection.image_score
    order = test["map_index"].to_numpy()
    masks = TestMaps.read(evaluation, "mask")
    seed = derive_seed(params.training.seed, Stream.BOOTSTRAP)
    tables = {
        name: metrics_table(
            test[f"{name}_{kind}"],
            test["label"],
            test["defect"].tolist(),
            (np.asarray(maps[i]) for i in order),
            [np.asarray(masks[i]) if has_mask else None for i, has_mask in zip(order, test["has_mask"], strict=True)],
            params=params.evaluation,
            seed=seed,
        )
        for name, maps in ((name, TestMaps.read(evaluation, name)) for name in STRATEGIES)
    }
    return {
        "metric_version": METRIC_VERSION,
        "category": point.category,
        "data_version": point.data_version,
        "seed": point.seed,
        "weights_sha256": point.weights_sha256,
        "split": "test",
        "synthetic_defects": bool(test["defect"].str.startswith(SYNTHETIC).any()),
        "n": {
            "calibration": int(((scores["split"] == "calibration") & (scores["corruption"] == "")).sum()),
            "test_good": int((test["label"] == 0).sum()),
            "test_defective": int((test["label"] == 1).sum()),
            "test_defective_without_mask": int((~test["has_mask"]).sum()),
        },
        "strategy": point.strategy,
        "image_score": kind,
        "metrics": tables[point.strategy],
        "strategies": tables,
        "image_auroc_by_score": {
            name: {score: image_metrics(test[f"{name}_{score}"], test["label"]).auroc for score in IMAGE_SCORES}
            for name in STRATEGIES
        },
        "alarms": {name: _alarms(test, name, point, kind) for name in STRATEGIES},
    }


def _alarms(test: pd.DataFrame, strategy: Strategy, point: OperatingPoint, kind: str) -> dict[str, Any]:
    """False alarms and detections at the strategy's own threshold, how many false ones the promise allows, abstentions.

    An image above the threshold counts as an alarm whether or not the verdict abstains.
    """
    promise = point.image_promises[strategy]
    rejected = test[f"{strategy}_{kind}"] > promise.threshold
    clean = test["label"] == 0
    abstained = np.array([said == "abstain" for said in _verdicts(test, point, kind, strategy)])
    return {
        "threshold": promise.threshold,
        "false_alarms": int(rejected[clean].sum()),
        "clean_images": int(clean.sum()),
        "false_alarms_allowed": allowed_false_alarms(promise, int(clean.sum()), confidence=CONFIDENCE),
        "detected": int(rejected[~clean].sum()),
        "defective_images": int((~clean).sum()),
        "abstained_clean": int(abstained[clean].sum()),
        "abstained_defective": int(abstained[~clean].sum()),
    }


def _verdicts(test: pd.DataFrame, point: OperatingPoint, kind: str, strategy: Strategy) -> list[Verdict]:
    rows = test[[f"{name}_{kind}" for name in STRATEGIES]].to_numpy(dtype=np.float64)
    return [verdict(dict(zip(STRATEGIES, map(float, row), strict=True)), point, strategy) for row in rows]


def calibration_table(scores: pd.DataFrame, *, point: OperatingPoint) -> pd.DataFrame:
    """One row a clean calibration image: path, sha256 and all strategies' scores, what later ones are held against."""
    rows = scores[(scores["split"] == "calibration") & (scores["corruption"] == "")]
    table = rows[["path", "sha256"]].copy()
    for name in STRATEGIES:
        table[name] = rows[f"{name}_{point.detection.image_score}"]
    return table.reset_index(drop=True)


def score_table(scores: pd.DataFrame, *, point: OperatingPoint) -> pd.DataFrame:
    """One row a test image: path, sha256, split, defect, label, all strategies' scores, score, threshold, verdict."""
    test = scores[scores["split"] == "test"].sort_values("map_index")
    kind = point.detection.image_score
    table = test[["path", "sha256", "split", "defect", "label"]].copy()
    for name in STRATEGIES:
        table[name] = test[f"{name}_{kind}"]
    table["strategy"] = point.strategy
    table["score"] = table[point.strategy]
    table["threshold"] = point.promise.threshold
    table["verdict"] = _verdicts(test, point, kind, point.strategy)
    return table.reset_index(drop=True)
