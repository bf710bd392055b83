"""One folder a training run: everything a stage hands to the next, and enough to take the run up again."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import BaseFileLock

from aesc.errors import AescError
from aesc.files import read_json
from aesc.manifest import load_manifest
from aesc.params import Params
from tasks.state_folder import StateFolder


class RunFolder(StateFolder):
    """The paths and the state of one run; the files themselves belong to the stages."""

    STATE = "run.json"

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        self.params_file = self.path / "params.json"
        self.manifest_file = self.path / "manifest.parquet"
        self.validation = self.path / "validation"
        self.checkpoint = self.path / "checkpoint.pt"
        self.network = self.path / "network"
        self.history = self.path / "history.csv"
        self.losses = self.path / "losses.npy"
        self.evaluation = self.path / "evaluation"
        self.scores = self.evaluation / "scores.parquet"
        self.detector = self.path / "detector"
        self.metrics = self.path / "metrics.json"
        self.score_table = self.path / "scores.csv"
        self.calibration_scores = self.path / "calibration.csv"
        self.detectability = self.path / "detectability.json"
        self.figures = self.path / "figures"
        self.summary = self.path / "summary.md"
        self.card = self.path / "model_card.md"

    @property
    def state(self) -> dict[str, Any]:
        """What is known of the run so far.

        Raises:
            AescError: this is not a run's folder.
        """
        if not self.begun:
            raise AescError(
                self.path, "not a run folder: it has no run.json", todo="name a folder below .aesc/runs", usage=True
            )
        return super().state

    @property
    def operating_point(self) -> dict[str, Any]:
        """What the detector is served with, as it was written: reading it so needs no PyTorch."""
        found: dict[str, Any] = read_json(self.detector / "operating_point.json")
        return found

    @property
    def turned_by(self) -> list[int]:
        """What its training turned images by, in degrees; runs of before that was possible turned nothing."""
        turned: list[int] = self.state.get("turned_by", [0])
        return turned

    def params(self) -> Params:
        """The run's parameters."""
        return Params.model_validate_json(self.params_file.read_text(encoding="utf-8"))

    def manifest(self) -> pd.DataFrame:
        """The run's images."""
        return load_manifest(self.manifest_file)

    def hold(self) -> BaseFileLock:
        """Keep other processes from working on the run until the returned lock is released.

        Raises:
            AescError: another process works on it.
        """
        return self._hold(busy="another process works on this run", todo="wait for it, or stop it")


def run_key(*, params: Params, category: str, content_digest: str, code: str) -> str:
    """Identifies what a run computes: equal keys mean equal weights on one kind of machine."""
    content = [params.model_dump(mode="json"), category, content_digest, code]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def open_run(runs: Path, *, category: str, label: str, key: str, resume: str) -> tuple[RunFolder, BaseFileLock]:
    """A new run folder, or the newest unfinished one with the same `key`; locked by the returned lock.

    Args:
        runs: parent of all run folders.
        category, label: part of the folder's name.
        resume: "auto", "off", or the path of a run folder.

    Raises:
        AescError: the folder to resume is another run's, finished, or in use.
    """
    if resume not in ("auto", "off"):
        return _reopen(RunFolder(resume), key)
    if resume == "auto":
        for path in sorted((runs / category).glob("*/"), reverse=True):
            folder = RunFolder(path)
            if folder.begun and folder.state.get("key") == key and not folder.state.get("finished"):
                try:
                    return _reopen(folder, key)
                except AescError:
                    continue  # another process is at it: this one starts its own
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    for number in range(1000):
        path = runs / category / f"{stamp}-{label}{f'-{number}' if number else ''}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise AescError(path, f"cannot be made: {error}", todo="set AESC_HOME to a writable folder") from error
        folder = RunFolder(path)
        folder.update(key=key, category=category, finished=False, created=stamp)
        return _reopen(folder, key)
    raise AescError(runs / category, "too many runs in one second", todo="wait a second")


def _reopen(folder: RunFolder, key: str) -> tuple[RunFolder, BaseFileLock]:
    state = folder.state
    if state["key"] != key:
        raise AescError(
            f"--resume {folder.path}",
            "this run has other data, parameters or code",
            allowed="the same data, parameters and commit as the interrupted run",
            todo="use --resume off to train from the start",
            usage=True,
        )
    if state.get("finished"):
        raise AescError(f"--resume {folder.path}", "this run is finished", todo="use --resume off", usage=True)
    return folder, folder.hold()
