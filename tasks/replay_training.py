"""The second training of a replay: the commit's own code in a process of its own. Bound by the GPU, or by the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aesc.errors import AescError
from aesc.files import read_json, write_json
from tasks.replay_record import Record
from tasks.run_folder import RunFolder

_WORKER = "tasks.replay_worker"
_PRESET = "replay"
_SERVERS = ("PREFECT_", "MLFLOW_", "AESC_")  # a replay talks to none of the project's


@dataclass(frozen=True)
class Retrained:
    """What the second training came to: the run folder, the weights' sha256 ("" of a prefix), the device."""

    run: RunFolder
    weights_sha256: str
    device: dict[str, Any]


def train_again(record: Record, code: Path, data_root: Path, scratch: Path, *, steps: int | None) -> Retrained:
    """Train with the commit's code, in a process of its own; nothing outside `scratch` is written.

    Args:
        code: a clone of the run's commit.
        data_root: the folder of categories.
        steps: only that many, if the commit's code can.

    Raises:
        AescError: what the commit's code says, or it ends without a result.
    """
    if (code / f"{_WORKER.replace('.', '/')}.py").is_file():
        return _by_worker(record, code, data_root, scratch, steps=steps)
    if steps is not None:
        raise AescError(
            f"commit {record.commit}",
            "its code is older than replays and cannot train a few steps only",
            todo="replay the whole run: leave --steps out",
        )
    return _by_command(record, code, data_root, scratch)


def _by_worker(record: Record, code: Path, data_root: Path, scratch: Path, *, steps: int | None) -> Retrained:
    run, answer_file = RunFolder(scratch / "run"), scratch / "answer.json"
    write_json(run.params_file, dict(record.params))
    request = {
        "category": record.category,
        "data_root": str(data_root),
        "run_folder": str(run.path),
        "most_steps": None if steps is None or record.losses is None else min(steps, len(record.losses)),
        "answer": str(answer_file),
    }
    write_json(scratch / "request.json", request)
    command = ["-m", _WORKER, str(scratch / "request.json")]
    _run(command, record, code, scratch)
    answer = _required(read_json(answer_file) if answer_file.is_file() else {}, record)
    if Path(answer["code"]).resolve() != (code / "aesc").resolve():
        raise AescError(answer["code"], f"was used instead of the code of commit {record.commit}")
    return Retrained(run, str(answer["weights_sha256"]), dict(answer["device"]))


def _by_command(record: Record, code: Path, data_root: Path, scratch: Path) -> Retrained:
    """Commits from before the worker: their own `aesc retrain`, with an MLflow and a Prefect that are thrown away."""
    defaults = {"defaults": dict(record.params), "presets": {_PRESET: {}}, "categories": {}}
    write_json(scratch / "params.yaml", defaults)  # JSON is YAML
    options = {
        "--category": record.category,
        "--data": str(data_root),
        "--params": str(scratch / "params.yaml"),
        "--preset": _PRESET,
        "--resume": "off",
    }
    command = ["-m", "flows.cli", "retrain", *(text for option in options.items() for text in option), "--json"]
    lines = _run(command, record, code, scratch).splitlines()
    answer = _required(json.loads(lines[-1]) if lines else {}, record)
    run = RunFolder(answer["run_folder"])
    return Retrained(run, str(answer["weights_sha256"]), dict(run.state["device"]))


def _run(command: list[str], record: Record, code: Path, scratch: Path) -> str:
    """Run Python with the commit's code; its stdout."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(_SERVERS)}
    environment |= {
        "AESC_ROOT": str(code),
        "AESC_HOME": str(scratch / "home"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{scratch / 'home' / 'mlflow.db'}",
        "PREFECT_HOME": str(scratch / "home" / "prefect"),
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PYTHONPATH": str(code),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if threads := record.device.get("threads"):
        environment |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=code,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        stdout, _ = process.communicate()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return stdout


def _required(answer: dict[str, Any], record: Record) -> dict[str, Any]:
    error = answer.get("error")
    if error:
        raise AescError(error["where"], error["found"], allowed=error["allowed"], todo=error["todo"])
    if not answer:
        todo = "its own words are above; packages of that time may be needed: constraints.txt of the commit"
        raise AescError(f"the code of commit {record.commit}", "ended without a result", todo=todo)
    return answer
