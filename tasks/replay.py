"""Making a registered model again, from what its run recorded, in a scratch folder. Bound by the training."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from aesc.errors import AescError
from aesc.files import read_json, write_json
from tasks.commits import clone_commit
from tasks.preparation import method_digest
from tasks.replay_record import Record, find_record, quality
from tasks.replay_scratch import place_data, present_files, recorded_files, scratch_folder
from tasks.replay_training import Retrained, train_again
from tasks.replay_verdict import (
    LOSS_TOLERANCE,
    METRIC_TOLERANCE,
    Difference,
    data_differences,
    described,
    device_differences,
    judge_prefix,
    judge_whole,
    package_differences,
    parameter_differences,
)
from tasks.settings import Settings
from tasks.tracking import log_report, tag_run

LOGGER = logging.getLogger("aesc")


def replay(
    model: str,
    *,
    category: str | None = None,
    steps: int | None = None,
    tolerance: float | None = None,
    data: Path | None = None,
    anyway: bool = False,
    settings: Settings,
) -> dict[str, Any]:
    """Train again what a run trained, with its code, data, parameters and seed, and compare.

    Args:
        model: a version number, an alias, an MLflow run id or a run folder.
        category: whose version or alias; by default that of the only registered model.
        steps: replay only that many steps and compare their losses.
        tolerance: how much may differ within the tolerance: metrics, absolute (0.01); with `steps` losses, relative
            (0.0001).
        data: a folder of categories with the run's images, instead of the recorded data version.
        anyway: replay although the data are not those of the run.

    Returns:
        The report, JSON-ready: `verdict`, `compared`, `step` and `loss` of the first difference, `differs`.

    Raises:
        AescError: no such run, or its code or data are not to be had; nothing was trained.
    """
    began = time.monotonic()
    record = find_record(model, category=category)
    if record.commit is None:
        raise AescError(f"run {record.run_id}", "it was trained outside git: no commit has its code")
    if steps is not None and record.losses is None:
        raise AescError(
            f"run {record.run_id}",
            "it has no losses.npy: it was made before runs had a trace of their losses",
            todo="replay the whole run: leave --steps out",
            usage=True,
        )
    if tolerance is None:
        tolerance = METRIC_TOLERANCE if steps is None else LOSS_TOLERANCE
    with scratch_folder(settings) as scratch:
        code = clone_commit(settings.root, record.commit, scratch / "code")
        data_root = place_data(record, scratch / "data", settings=settings, data=data)
        fixed = [*_code_differences(record, code), *_input_differences(record, data_root, anyway=anyway)]
        machine = _machine_differences(record)
        _say(record, [*fixed, *machine])
        began_training = time.monotonic()
        again = train_again(record, code, data_root, scratch, steps=steps)
        training_seconds = time.monotonic() - began_training
        packages = package_differences(record.versions, _installed(record.versions))
        differs = [*fixed, *packages, *device_differences(record.device, again.device)]
        verdict, found = _compare(record, again, steps=steps, tolerance=tolerance)
        report = {
            "verdict": verdict,
            "category": record.category,
            "run_id": record.run_id,
            "model_version": record.version,
            "git_commit": record.commit,
            "data_version": record.data_version,
            "data_version_kind": record.data_version_kind,
            "seed": record.params["training"]["seed"],
            "steps": steps,
            "tolerance": tolerance,
            "compared": _compared(found),
            **found,
            "differs": described(differs),
            "device": again.device,
            "training_seconds": round(training_seconds, 2),
            "seconds": round(time.monotonic() - began, 2),
        }
        try:
            report["mlflow_run_id"] = _log(report, again, scratch)
        except AescError as error:  # the verdict is known: it is not lost for want of a server
            report["mlflow_run_id"] = None
            LOGGER.warning("the verdict is not in MLflow: %s", error)
    return report


def _code_differences(record: Record, code: Path) -> list[Difference]:
    """How the run's code may not be that of its commit."""
    commit = str(record.commit)[:12]
    if not (code / "aesc").is_dir():
        raise AescError(f"commit {record.commit}", "there is no folder aesc in it: the run's code is not there")
    if record.code_digest is not None:
        found = method_digest(code / "aesc")
        if found != record.code_digest:
            why = "uncommitted changes" if record.dirty else "other code than its commit's"
            return [Difference("code", "aesc", f"{why} ({record.code_digest[:12]})", f"commit {commit} ({found[:12]})")]
    if record.dirty:
        where = "outside aesc" if record.code_digest else "which nobody can have again"
        return [Difference("code", "working tree", f"uncommitted changes {where}", f"commit {commit}")]
    return []


def _input_differences(record: Record, data_root: Path, *, anyway: bool) -> list[Difference]:
    files = data_differences(recorded_files(record), present_files(data_root, record.category))
    if files and not anyway:
        raise AescError(
            data_root / record.category,
            "not the data that the run was trained on; nothing was trained"
            + "".join(f"\n  {difference}" for difference in files),
            allowed=f"data version {record.data_version}",
            todo="put the files back; or --anyway to see from which step on it matters",
        )
    return files + parameter_differences(record.flat_params, record.logged_params, seed=record.seed)


def _machine_differences(record: Record) -> list[Difference]:
    """Packages and device, before the training; threads are not among them, because a replay takes the run's number.

    Raises:
        AescError: the device that the parameters name is not here.
    """
    from aesc.device import describe_device, resolve_device

    training = record.params["training"]
    device = describe_device(resolve_device(str(training["device"])), str(training["precision"]))
    device["threads"] = record.device.get("threads", str(device["threads"]))
    packages = package_differences(record.versions, _installed(record.versions))
    return packages + device_differences(record.device, device)


def _installed(names: Iterable[str]) -> dict[str, str]:
    """Versions of these packages, and of Python."""
    found = {"python": platform.python_version()}
    for name in set(names) - {"python"}:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _say(record: Record, differences: list[Difference]) -> None:
    what = f"replaying run {record.run_id} of {record.category}: commit {str(record.commit)[:12]}, "
    LOGGER.info("%sdata %s, seed %s", what, record.data_version[:16], record.params["training"]["seed"])
    for difference in differences:
        LOGGER.warning("not as it was: %s", difference)


def _compare(record: Record, again: Retrained, *, steps: int | None, tolerance: float) -> tuple[str, dict[str, Any]]:
    losses = np.load(again.run.losses, allow_pickle=False) if again.run.losses.is_file() else None
    if steps is not None and record.losses is not None and losses is not None:
        return judge_prefix(record.losses[:steps], losses, tolerance=tolerance)
    return judge_whole(
        weights=(record.weights_sha256, again.weights_sha256),
        losses=(record.losses, losses),
        metrics=(quality(record.metrics), quality(read_json(again.run.metrics))),
        tolerance=tolerance,
    )


def _compared(found: dict[str, Any]) -> list[str]:
    compared = [f"losses of {found['steps_compared']} steps"] if found["steps_compared"] else []
    if "weights_sha256" in found:
        compared += ["weights' sha256", *(row["name"] for row in found["metrics"])]
    return compared


def _log(report: dict[str, Any], again: Retrained, scratch: Path) -> str:
    """The replay as an MLflow run of its own, and its verdict as tags of the run that was replayed."""
    write_json(scratch / "replay.json", report)
    differs = "; ".join(f"{item['what']} {item['name']}" for item in report["differs"]) or "nothing"
    tags = {
        "replay.verdict": report["verdict"],
        "replay.step": "none" if report["step"] is None else str(report["step"]),
        "replay.steps": "all" if report["steps"] is None else str(report["steps"]),
        "replay.differs": differs[:5000],
    }
    metrics = {"seconds": float(report["training_seconds"]), "steps_compared": float(report["steps_compared"])}
    metrics |= {
        f"difference.{row['name']}": row["difference"]
        for row in report.get("metrics", ())
        if row["difference"] is not None
    }
    files = [path for path in (scratch / "replay.json", again.run.losses) if path.is_file()]
    run_id = log_report(
        report["category"], kind="replay", metrics=metrics, tags={"replay.of": report["run_id"], **tags}, files=files
    )
    tag_run(report["run_id"], {**tags, "replay.run_id": run_id})
    return run_id
