"""A look at a champion: recent scores against those of calibration, and the smallest stain that it still finds.

Bound by the GPU, or by all CPU cores, for seconds to minutes. Each step writes into the look's folder.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from aesc.errors import AescError
from aesc.files import read_json, write_atomically, write_json
from aesc.params import Params
from tasks.lineage import learnt_from
from tasks.looks import IMAGES, begin_look, download_of, looked_at
from tasks.recent_images import ARRIVED, INSPECTED, clean_pixels, recent_images
from tasks.registry import CHAMPION, Registered, download_detector, model_uri, resolve
from tasks.retries import retried_task
from tasks.settings import Settings

if TYPE_CHECKING:
    from aesc.detector import Detector
    from aesc.drift import Comparison

LOGGER = logging.getLogger("aesc")
REPORT = "monitor.json"
SCORES_FIGURE, STAINS_FIGURE, DETECTABILITY = "scores.png", "detectability.png", "detectability.json"
WAITING, UNCHANGED, CHANGED, DEGRADED = "waiting", "unchanged", "changed", "degraded"


@retried_task(task_run_name="compare recent scores of {category}")
def compare_recent_scores(category: str, source: str | None, preset: str, params_file: str) -> str:
    """Take a look at the champion's scores, if there are enough new images; the look's folder.

    Raises:
        AescError: no champion, no calibration scores, MLflow or the source cannot be reached.
    """
    settings = Settings()
    params = _params(category, preset, params_file)
    version = resolve(category, CHAMPION)
    detector = _detector(category, version, settings)
    point = detector.operating_point
    calibration = _calibration_scores(category, version)
    rules = params.monitoring
    known = learnt_from(version)
    found = recent_images(category, detector, source=source, most=rules.recent_images, known=known, settings=settings)
    new = found[~found["sha256"].isin(looked_at(version, settings))].reset_index(drop=True)
    folder = settings.state / "monitoring" / category / datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    report: dict[str, Any] = {
        "category": category,
        "model": model_uri(category, version.version),
        "version": version.version,
        "model_run_id": version.run_id,
        "data_version": point.data_version,
        "seed": point.seed,
        "strategy": point.strategy,
        "threshold": point.promise.threshold,
        "source": source or "what was inspected and what arrived",
        "preset": preset,
        "recent_images": len(found),
        "new_images": len(new),
        "calibration_images": len(calibration),
        "alpha": rules.false_alarm_rate,
        "status": WAITING,
        "look": None,
        "level": None,
        "comparisons": [],
        "detectability": None,
    }
    if len(new) < rules.least_images:
        missing = "no recent images" if found.empty else f"{len(new)} recent images that no look was about yet"
        report["words"] = f"{missing}; {rules.least_images} (monitoring.least_images) make a look"
        write_json(folder / REPORT, report)
        return str(folder)
    from aesc.drift import any_alarm, spent

    number = begin_look(version)
    level = spent(rules.false_alarm_rate, number)
    comparisons = compare(new, calibration, detector, level=level)
    status = CHANGED if any_alarm(comparisons) else UNCHANGED
    report |= {
        "status": status,
        "look": number,
        "level": level,
        "comparisons": [asdict(one) for one in comparisons],
        "words": _words(comparisons),
    }
    write_atomically(folder / IMAGES, lambda path: new.to_csv(path, index=False))
    _draw_scores(folder / SCORES_FIGURE, new, calibration, detector, report)
    write_json(folder / REPORT, report)
    return str(folder)


@retried_task(task_run_name="measure the detectability of {category} again")
def remeasure_detectability(category: str, folder: str, params_file: str) -> str:
    """Paint stains on recent clean images and compare what is found with the registration; the report's status.

    Raises:
        AescError: MLflow cannot be reached.
    """
    settings = Settings()
    place = Path(folder)
    report = read_json(place / REPORT)
    if report["look"] is None:
        return str(report["status"])
    from aesc.detectability import LEAST_IMAGES, Detectability, compare, measure
    from aesc.detectability_figure import detectability_figure
    from aesc.drift import spent

    params = _params(category, report["preset"], params_file)
    rules = params.monitoring
    version = resolve(category, report["version"])
    detector = _detector(category, version, settings)
    recent = pd.read_csv(place / IMAGES)
    images = clean_pixels(recent, detector, most=rules.images, settings=settings)
    result: dict[str, Any] = {"now": None, "registered": None, "loss": None}
    report["detectability"] = result
    if len(images) < LEAST_IMAGES:
        result["words"] = (
            f"not measured: {len(images)} of the new images pass and are still where they were, "
            f"at least {LEAST_IMAGES} are needed"
        )
        write_json(place / REPORT, report)
        return str(report["status"])
    content = download_of(version, DETECTABILITY)
    registered = Detectability.model_validate_json(content) if content else None
    if registered is not None:  # the same grid, whatever the parameters say by now
        same = ("sizes", "contrasts", "reference_contrast", "find_rate")
        rules = rules.model_copy(update={name: getattr(registered, name) for name in same})
    now = measure(
        detector,
        images,
        settings=rules,
        corruption=params.corruption,
        seed=detector.operating_point.seed,
        said="recent images that pass",
    )
    write_json(place / DETECTABILITY, now.model_dump(mode="json"))
    result["now"] = now.headline()
    if registered is None:
        result["words"] = f"{result['now']['words']}; nothing was measured at the registration to compare it with"
    else:
        level = spent(rules.false_alarm_rate, report["look"])
        loss = compare(registered, now, tolerance=rules.tolerance, level=level, bootstrap=rules.bootstrap)
        result |= {"registered": registered.headline(), "loss": loss.model_dump(), "words": loss.words}
        if loss.lost:
            report["status"] = DEGRADED
    detectability_figure(
        now, place / STAINS_FIGURE, registered=registered, caption=f"{describe(report)}; {now.n} recent clean images"
    )
    write_json(place / REPORT, report)
    return str(report["status"])


def compare(new: pd.DataFrame, calibration: pd.DataFrame, detector: Detector, *, level: float) -> list[Comparison]:
    """The comparisons of one look, which share its level; see aesc/drift.py.

    Inspected images are cut off at the threshold by their verdict. Accepted arrivals were cut off by the gate, at the
    thresholds of residual and uncertainty, so they are compared with the calibration images that the gate would let
    through.

    Args:
        new: columns origin and score.
        calibration: one row a calibration image with each strategy's score.
    """
    from aesc.drift import compare_alarms, compare_scores
    from aesc.gate import GATES

    point = detector.operating_point
    threshold = point.promise.threshold
    known = calibration[point.strategy]
    inspected = new.loc[new["origin"] == INSPECTED, "score"]
    arrived = new.loc[(new["origin"] == ARRIVED) & (new["score"] <= threshold), "score"]
    gated = known < threshold
    for strategy in GATES:
        gated &= calibration[strategy] < point.image_promises[strategy].threshold
    planned: list[Callable[[float], Comparison]] = []
    if len(inspected):
        passed, below = inspected[inspected <= threshold], known[known < threshold]
        alarms = int((inspected > threshold).sum())
        planned += [
            lambda share: compare_scores(passed, below, level=share, what="inspected images that pass"),
            lambda share: compare_alarms(
                alarms, len(inspected), point.promise, level=share, what="alarms among inspected images"
            ),
        ]
    if len(arrived):
        planned.append(lambda share: compare_scores(arrived, known[gated], level=share, what="accepted arrivals"))
    return [comparison(level / len(planned)) for comparison in planned]


def describe(report: dict[str, Any]) -> str:
    """The line under a figure: what its numbers need to travel."""
    return (
        f"{report['category']}, version {report['version']}, look {report['look']}: {report['new_images']} new and "
        f"{report['calibration_images']} calibration images; seed {report['seed']}, data {report['data_version'][:12]}"
    )


def _words(comparisons: list[Comparison]) -> str:
    alarms = [f"{one.what}: {one.words}" for one in comparisons if one.alarm]
    return "; ".join(alarms) or "scores and alarms are those of the calibration images, as far as can be told"


def _params(category: str, preset: str, params_file: str) -> Params:
    from aesc.params_file import load_params

    return load_params(Path(params_file), preset=preset, category=category)


def _detector(category: str, version: Registered, settings: Settings) -> Detector:
    from aesc.detector import Detector

    return Detector.load(download_detector(category, version.version, settings.state / "detectors"))


def _calibration_scores(category: str, version: Registered) -> pd.DataFrame:
    content = download_of(version, "calibration.csv")
    if content is None:
        raise AescError(
            model_uri(category, version.version),
            "its run has no calibration.csv: there is nothing to compare recent scores with",
            allowed="a version that was registered with its calibration scores",
            todo=f"retrain: aesc retrain --category {category}",
        )
    return pd.read_csv(io.BytesIO(content))


def _draw_scores(
    path: Path, new: pd.DataFrame, calibration: pd.DataFrame, detector: Detector, report: dict[str, Any]
) -> None:
    from aesc.figures import score_histogram

    point = detector.operating_point
    known = pd.DataFrame({"score": calibration[point.strategy], "group": "calibration"})
    recent = new[["score", "origin"]].rename(columns={"origin": "group"})
    score_histogram(
        pd.concat([known, recent], ignore_index=True),
        path,
        threshold=point.promise.threshold,
        strategy=point.strategy,
        alpha_attained=point.promise.attained,
        caption=describe(report),
    )
