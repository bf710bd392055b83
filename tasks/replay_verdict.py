"""Comparing a replay with the run that it repeats: what differs, from which step on, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

IDENTICAL, WITHIN_TOLERANCE, DIVERGED = "identical", "within tolerance", "diverged"
METRIC_TOLERANCE = 0.01  # absolute, of metrics between 0 and 1
LOSS_TOLERANCE = 1e-4  # relative: what rounding in another order does within few steps
_SHOWN = 5


@dataclass(frozen=True)
class Difference:
    """Something that a replay cannot have as the run had it. `what`: code, parameter, data, package or device."""

    what: str
    name: str
    recorded: str
    found: str

    def __str__(self) -> str:
        return f"{self.what} {self.name}: {self.recorded} recorded, {self.found} here"


def package_differences(recorded: Mapping[str, str], found: Mapping[str, str]) -> list[Difference]:
    """The packages, and Python, whose versions are not the recorded ones."""
    return [
        Difference("package", name, version, found.get(name, "not installed"))
        for name, version in sorted(recorded.items())
        if found.get(name) != version
    ]


def device_differences(recorded: Mapping[str, str], found: Mapping[str, Any]) -> list[Difference]:
    """What `aesc.device.describe_device` says otherwise."""
    return [
        Difference("device", name, value, str(found.get(name, "not known")))
        for name, value in sorted(recorded.items())
        if str(found.get(name)) != value
    ]


def parameter_differences(used: Mapping[str, Any], logged: Mapping[str, str], *, seed: str) -> list[Difference]:
    """Where a run's params.json, which a replay uses, is not what MLflow logged of the run: one of them was changed."""
    differences = [
        Difference("parameter", key, logged.get(key, "none"), str(used.get(key, "none")))
        for key in sorted({*used, *logged})
        if str(used.get(key, "none"))[:6000] != logged.get(key, "none")
    ]
    named = {difference.name for difference in differences}
    if str(used.get("training.seed")) != seed and "training.seed" not in named:
        differences.append(Difference("parameter", "training.seed", seed, str(used.get("training.seed"))))
    return differences


def data_differences(recorded: Mapping[str, str], found: Mapping[str, str]) -> list[Difference]:
    """Files, path to sha256, that are not the recorded ones; the first few by name, and how many more."""
    changed = [
        Difference("data", path, recorded.get(path, "absent")[:12], found.get(path, "absent")[:12])
        for path in sorted({*recorded, *found})
        if recorded.get(path) != found.get(path)
    ]
    if len(changed) > _SHOWN:
        rest = len(changed) - _SHOWN
        return [*changed[:_SHOWN], Difference("data", f"{rest} more files", "as listed in manifest.parquet", "others")]
    return changed


def first_difference(recorded: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> int | None:
    """The first step, counted from 0, whose losses are not the same bits; None if there is none.

    A trace that ends earlier than the other differs where it ends.
    """
    common = min(len(recorded), len(found))
    unequal = np.flatnonzero(recorded[:common].view(np.uint32) != found[:common].view(np.uint32))
    if len(unequal):
        return int(unequal[0])
    return None if len(recorded) == len(found) else common


def judge_prefix(
    recorded: npt.NDArray[np.float32], found: npt.NDArray[np.float32], *, tolerance: float
) -> tuple[str, dict[str, Any]]:
    """The verdict on the first steps of a run by their losses; `tolerance` is relative."""
    step = first_difference(recorded, found)
    if step is None:
        return IDENTICAL, _trace(recorded, found, None)
    same_length = len(recorded) == len(found)
    close = same_length and bool(np.all(np.abs(recorded - found) <= tolerance * np.abs(recorded)))
    return (WITHIN_TOLERANCE if close else DIVERGED), _trace(recorded, found, step)


def judge_whole(
    *,
    weights: tuple[str, str],
    losses: tuple[npt.NDArray[np.float32] | None, npt.NDArray[np.float32] | None],
    metrics: tuple[Mapping[str, float | None], Mapping[str, float | None]],
    tolerance: float,
) -> tuple[str, dict[str, Any]]:
    """The verdict on a whole training. Each pair is (recorded, found); `tolerance` is absolute, of the metrics."""
    rows = [_metric(name, metrics[0][name], metrics[1].get(name)) for name in metrics[0]]
    trace = _trace(losses[0], losses[1], None)
    if losses[0] is not None and losses[1] is not None:
        trace = _trace(losses[0], losses[1], first_difference(losses[0], losses[1]))
    report = {**trace, "weights_sha256": {"recorded": weights[0], "found": weights[1]}, "metrics": rows}
    if weights[0] == weights[1]:
        return IDENTICAL, report
    close = all(
        row["recorded"] is row["found"] is None or (row["difference"] is not None and row["difference"] <= tolerance)
        for row in rows
    )
    return (WITHIN_TOLERANCE if close else DIVERGED), report


def described(differences: Iterable[Difference]) -> list[dict[str, str]]:
    """The differences, JSON-ready."""
    return [asdict(difference) for difference in differences]


def _trace(
    recorded: npt.NDArray[np.float32] | None, found: npt.NDArray[np.float32] | None, step: int | None
) -> dict[str, Any]:
    def at(losses: npt.NDArray[np.float32] | None) -> float | None:
        return float(losses[step]) if losses is not None and step is not None and step < len(losses) else None

    compared = 0 if recorded is None or found is None else min(len(recorded), len(found))
    return {
        "steps_compared": compared,
        "step": step,
        "loss": None if step is None else {"recorded": at(recorded), "found": at(found)},
    }


def _metric(name: str, recorded: float | None, found: float | None) -> dict[str, Any]:
    difference = None if recorded is None or found is None else abs(recorded - found)
    return {"name": name, "recorded": recorded, "found": found, "difference": difference}
