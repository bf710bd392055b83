"""A project with versions that the court can be asked about: one that was trained, and changed copies of it."""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from mlflow import MlflowClient

from aesc.files import read_json, write_json
from aesc.params import Params
from aesc.params_file import load_params
from tasks.court import hear
from tasks.court_record import RECORD
from tasks.registry import register_run
from tasks.run_folder import RunFolder
from tasks.settings import Settings
from tests.commands import Project
from tests.stations import CATEGORY

MODEL = f"aesc-{CATEGORY}"
# Few test images: a lone false alarm would be a quarter of them.
RULES = {"bootstrap": 200, "false_alarm_margin": 1.0, "most_false_alarm_rate": None}


@dataclass(frozen=True)
class Bench:
    """A project with an MLflow of its own, in which version 1 is a good champion; `run_folder` is what it came from."""

    project: Project
    params_file: Path
    run_folder: Path
    settings: Settings

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.project.tracking_uri, registry_uri=self.project.tracking_uri)

    @property
    def params(self) -> Params:
        return load_params(self.params_file, preset="tiny", category=CATEGORY)

    @property
    def aliases(self) -> dict[str, str]:
        return {key: str(value) for key, value in self.client.get_registered_model(MODEL).aliases.items()}

    def forge(
        self, *, strategy: str | None = None, trained_on: set[str] | None = None, data_version: str | None = None
    ) -> str:
        """Register the trained run once more, changed; the version."""
        run = RunFolder(self.run_folder.parent / f"forged-{uuid.uuid4().hex}")
        shutil.copytree(self.run_folder, run.path)
        state = {key: value for key, value in run.state.items() if key not in ("mlflow_run_id", "model_version")}
        if data_version:
            state["data_version"] = {**state["data_version"], "version": data_version}
        write_json(run.path / "run.json", {**state, "finished": False})
        point, metrics = read_json(run.detector / "operating_point.json"), read_json(run.metrics)
        if strategy:
            point["strategy"] = metrics["strategy"] = strategy
        write_json(run.detector / "operating_point.json", point | {"data_version": state["data_version"]["version"]})
        write_json(run.metrics, metrics)
        if trained_on:
            manifest = run.manifest()
            manifest.loc[manifest["sha256"].isin(trained_on), "split"] = "train"
            manifest.to_parquet(run.manifest_file)
        environment = self.project.environment(
            AESC_ROOT=str(self.project.root), MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false"
        )
        with mock.patch.dict(os.environ, environment, clear=True):
            return register_run(run).version

    def hear(self, champion: str, challenger: str, *, data: Path | None = None, **rules: Any) -> dict[str, Any]:
        """What the court decides; `rules` change those of the parameters."""
        promotion = self.params.promotion.model_copy(update=rules)
        params = self.params.model_copy(update={"promotion": promotion})
        folder = hear(
            CATEGORY, champion, challenger, data_root=data or self.settings.data, params=params, settings=self.settings
        )
        return {**read_json(folder / RECORD), "folder": folder}

    def arguments(self, command: str, *more: object) -> list[object]:
        """Of `aesc`, for a command on the category."""
        rules = ["--preset", "tiny", "--params", self.params_file] if command in ("promote", "compare") else []
        return [command, *more, "--category", CATEGORY, "--json", *rules]

    def aesc(self, command: str, *more: object, code: int = 0) -> dict[str, Any]:
        """The report of a command on the category, or its error."""
        done = self.project.aesc(*self.arguments(command, *more), code=code)
        return done.report if code == 0 else done.error

    def challenge(self, champion: str, challenger: str) -> None:
        """Let one version challenge another, behind everyone's back."""
        self.crown(champion)
        self.client.set_registered_model_alias(MODEL, "challenger", challenger)

    def crown(self, version: str) -> None:
        """Make a version the champion, behind everyone's back, with nobody beside it."""
        for alias in ("challenger", "previous"):
            self.client.delete_registered_model_alias(MODEL, alias)
        self.client.set_registered_model_alias(MODEL, "champion", version)
