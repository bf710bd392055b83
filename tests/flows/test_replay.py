"""`aesc replay`: a model is made again, and what comes in between is named.

One training is made; to find a replay wanting, what MLflow recorded of it is changed for the time of a test.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from PIL import Image

from aesc.errors import AescError
from aesc.files import read_json, write_json
from flows.commands.replay import _text
from tasks import replay_training
from tasks.replay import replay
from tasks.replay_record import _dataset_folder, find_record
from tasks.replay_scratch import place_data, recorded_files, scratch_folder
from tasks.settings import Settings
from tests.clones import CATEGORY, PRESET, make_clone
from tests.commands import Project
from tests.prefect_database import provide_database
from tests.repositories import git

STEPS = 8  # 2 epochs of 4


@dataclass(frozen=True)
class Trained:
    """A clone of the project with one trained model, whose record can be changed."""

    project: Project
    report: dict[str, Any]

    @property
    def run_id(self) -> str:
        return str(self.report["mlflow_run_id"])

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.project.tracking_uri, registry_uri=self.project.tracking_uri)

    @property
    def artifacts(self) -> Path:
        return Path(self.client.get_run(self.run_id).info.artifact_uri.removeprefix("file://"))

    @contextmanager
    def tagged(self, **tags: str) -> Iterator[None]:
        """With other tags of the run; `__` stands for a point."""
        wished = {key.replace("__", "."): value for key, value in tags.items()}
        before = self.client.get_run(self.run_id).data.tags
        for key, value in wished.items():
            self.client.set_tag(self.run_id, key, value)
        try:
            yield
        finally:
            for key in wished:
                self.client.set_tag(self.run_id, key, before[key])

    @contextmanager
    def trained_with(self, **training: Any) -> Iterator[None]:
        """With other parameters in the run's params.json."""
        file = self.artifacts / "params.json"
        before = read_json(file)
        write_json(file, {**before, "training": before["training"] | training})
        try:
            yield
        finally:
            write_json(file, before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("replay")
    root = make_clone(folder / "project")
    (folder / "home").mkdir()
    project = Project(root, root / ".aesc", {"HOME": str(folder / "home")})
    provide_database(project.state / "prefect")
    arguments = ("--category", CATEGORY, "--preset", PRESET, "--set", "training.device=cpu", "--json")
    return Trained(project, project.aesc("retrain", *arguments).report)


@pytest.fixture
def settings(trained: Trained, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Settings:
    """This process works in the project."""
    for name in ("AESC_DVC_REMOTE", "AESC_ARTIFACTS", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    trained.project.enter(monkeypatch)
    caplog.set_level(logging.INFO, "aesc")
    return Settings()


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """No training can begin; the function says that none did."""
    begun: list[object] = []

    def refuse(*arguments: object) -> str:
        begun.append(arguments)
        raise AssertionError("it trains")

    monkeypatch.setattr(replay_training, "_run", refuse)

    def check() -> None:
        assert not begun

    return check


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, with its size and time of change."""
    found = ((path, path.lstat()) for path in sorted(folder.rglob("*")) if not path.is_dir())
    return {path.relative_to(folder).as_posix(): (stat.st_size, stat.st_mtime_ns) for path, stat in found}


def test_a_run_leaves_the_loss_of_every_step(trained: Trained) -> None:
    losses = np.load(Path(trained.report["run_folder"]) / "losses.npy")
    assert (losses.shape, losses.dtype) == ((STEPS,), np.float32)
    assert np.array_equal(np.load(trained.artifacts / "losses.npy"), losses)
    history = pd.read_csv(Path(trained.report["run_folder"]) / "history.csv")
    np.testing.assert_allclose(losses.reshape(2, 4).mean(1), history["loss"], rtol=1e-6)


def test_the_first_steps_are_identical_and_the_working_tree_is_left_alone(trained: Trained, settings: Settings) -> None:
    """The tree has code that cannot run, staged and not, and other parameters; data has lost an image."""
    root = trained.project.root
    broken, image = root / "tasks" / "training.py", root / "data" / CATEGORY / "train" / "good" / "000.png"
    kept = {path: path.read_bytes() for path in (broken, root / "params.yaml", image)}
    broken.write_text("this is no Python\n", encoding="utf-8")
    git(root, "add", "tasks/training.py")
    (root / "params.yaml").write_text("nonsense: {}\n", encoding="utf-8")
    image.unlink()
    parts = (".git", "data", ".dvc/cache", "aesc", "tasks")
    before = {part: listing(root / part) for part in parts}
    try:
        value = replay("champion", steps=4, settings=settings)
        assert {part: listing(root / part) for part in parts} == before
        assert git(root, "worktree", "list").count("\n") == 1
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
        git(root, "reset", "--quiet")
    assert (value["verdict"], value["step"], value["steps_compared"]) == ("identical", None, 4)
    assert value["compared"] == ["losses of 4 steps"]
    assert _text(value).startswith(f"identical: version 1 of {CATEGORY}, run {trained.run_id}\n")
    assert value["differs"] == []
    assert (value["model_version"], value["run_id"]) == ("1", trained.run_id)
    assert list((trained.project.state / "replays").iterdir()) == []
    tags = trained.client.get_run(trained.run_id).data.tags
    assert (tags["replay.verdict"], tags["replay.steps"]) == ("identical", "4")
    logged = trained.client.get_run(value["mlflow_run_id"])
    assert (logged.info.status, logged.data.tags["replay.of"]) == ("FINISHED", trained.run_id)
    assert logged.data.metrics["replay.steps_compared"] == 4


def test_a_whole_training_gives_the_same_weights_and_metrics(trained: Trained, settings: Settings) -> None:
    versions = len(trained.client.search_model_versions(f"name='aesc-{CATEGORY}'"))
    value = replay(trained.run_id, settings=settings)
    assert value["verdict"] == "identical"
    assert value["weights_sha256"] == dict.fromkeys(("recorded", "found"), trained.report["weights_sha256"])
    assert value["steps_compared"] == STEPS
    assert [row["found"] for row in value["metrics"]] == [trained.report[row["name"]] for row in value["metrics"]]
    assert len(value["metrics"]) == 6
    assert json.dumps(value, allow_nan=False)
    assert len(trained.client.search_model_versions(f"name='aesc-{CATEGORY}'")) == versions


def test_another_seed_diverges_at_once_and_the_command_fails(trained: Trained) -> None:
    with trained.trained_with(seed=2):
        done = trained.project.aesc("replay", trained.report["run_folder"], "--steps", "2", "--json", code=1)
    assert (done.report["verdict"], done.report["step"]) == ("diverged", 0)
    assert done.report["differs"] == [{"what": "parameter", "name": "training.seed", "recorded": "1", "found": "2"}]
    assert "not as it was: parameter training.seed: 1 recorded, 2 here" in done.stderr
    text = _text(done.report)
    assert text.startswith(f"diverged at step 0: {CATEGORY}, run ")
    assert "parameter training.seed: 1 recorded, 2 here" in text


def test_another_parameter_diverges_where_it_first_matters(trained: Trained, settings: Settings) -> None:
    recorded = np.load(trained.artifacts / "losses.npy")
    with trained.trained_with(learning_rate=0.05):
        value = replay("1", category=CATEGORY, steps=3, settings=settings)
    assert (value["verdict"], value["step"]) == ("diverged", 1)  # the first loss is from before the first update
    assert value["loss"]["recorded"] == float(recorded[1]) != value["loss"]["found"]
    assert [(item["what"], item["name"]) for item in value["differs"]] == [("parameter", "training.learning_rate")]


def test_a_changed_image_is_named_before_training_and_diverges(
    trained: Trained, settings: Settings, tmp_path: Path
) -> None:
    """Data outside DVC, which somebody changed since."""
    data = tmp_path / "data"
    shutil.copytree(trained.project.root / "data" / CATEGORY, data / CATEGORY)
    manifest = pd.read_parquet(trained.artifacts / "manifest.parquet")
    changed = str(manifest.loc[manifest["split"] == "train", "path"].iloc[0])
    with Image.open(data / changed) as picture:
        inverted = Image.fromarray(255 - np.asarray(picture))
    (data / changed).unlink()
    inverted.save(data / changed)
    with trained.tagged(data_version_kind="content", data_root=str(data)):
        with pytest.raises(AescError, match="nothing was trained") as caught:
            replay("champion", steps=4, settings=settings)
        assert f"data {changed}: " in caught.value.found
        assert "--anyway" in caught.value.todo
        value = replay("champion", steps=4, anyway=True, settings=settings)
        elsewhere = replay("champion", steps=4, data=trained.project.root / "data", settings=settings)
    assert (elsewhere["verdict"], elsewhere["differs"]) == ("identical", [])
    assert value["verdict"] == "diverged"
    assert value["step"] in range(4)
    assert [(item["what"], item["name"]) for item in value["differs"]] == [("data", changed)]


def test_other_code_than_the_runs_is_named_and_diverges(
    trained: Trained, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """The run said that its tree was not clean: its commit has a loss of another size."""
    root = trained.project.root
    before = git(root, "rev-parse", "HEAD").strip()
    source = root / "aesc" / "training_step.py"
    text = source.read_text(encoding="utf-8")
    assert text.count("loss.backward()") == 1
    source.write_text(text.replace("loss.backward()", "(3 * loss).backward(); loss = loss * 2"), encoding="utf-8")
    git(root, "commit", "--quiet", "--all", "--message=changed")
    commit = git(root, "rev-parse", "HEAD").strip()
    git(root, "reset", "--quiet", "--hard", before)
    with trained.tagged(mlflow__source__git__commit=commit, git_dirty="True"):
        value = replay("champion", steps=2, settings=settings)
    assert (value["verdict"], value["step"]) == ("diverged", 0)
    (code,) = value["differs"]
    assert (code["what"], code["name"]) == ("code", "aesc")
    assert code["recorded"].startswith("uncommitted changes")
    assert "not as it was: code aesc: uncommitted changes" in caplog.text


def test_missing_data_is_said_before_training(
    trained: Trained, settings: Settings, untrained: Callable[[], None], tmp_path: Path
) -> None:
    nowhere = "0" * 32 + ".dir"
    with trained.tagged(data_version=nowhere), pytest.raises(AescError, match="neither DVC's cache") as caught:
        replay("champion", settings=settings)
    assert caught.value.where == f"data version {nowhere}"
    assert str(trained.project.state / "dvc-remote") in caught.value.found
    gone = tmp_path / "gone"
    with (
        trained.tagged(data_version_kind="content", data_root=str(gone)),
        pytest.raises(AescError, match="DVC does not version them") as caught,
    ):
        replay("champion", settings=settings)
    assert str(gone) in caught.value.found
    untrained()
    assert list((trained.project.state / "replays").iterdir()) == []


def test_other_packages_and_devices_are_said_before_training(
    trained: Trained, settings: Settings, untrained: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    old = {"version__numpy": "1.0.0", "device__device_name": "Abacus", "version__python": "2.7.1"}
    with trained.tagged(**old), pytest.raises(AssertionError, match="it trains"):
        replay("champion", settings=settings)
    assert f"not as it was: package numpy: 1.0.0 recorded, {np.__version__} here" in caplog.text
    assert "not as it was: package python: 2.7.1 recorded" in caplog.text
    assert "not as it was: device device_name: Abacus recorded" in caplog.text


def test_what_cannot_be_replayed_says_why(trained: Trained, settings: Settings, untrained: Callable[[], None]) -> None:
    with trained.trained_with(device="cuda:99"), pytest.raises(AescError, match="cuda:99 is not there"):
        replay("champion", settings=settings)
    with trained.tagged(mlflow__source__git__commit="1" * 40), pytest.raises(AescError, match="not in the repository"):
        replay("champion", settings=settings)
    with trained.tagged(mlflow__source__git__commit="none"), pytest.raises(AescError, match="no commit has its code"):
        replay("champion", settings=settings)
    for model in ("2", "nobody", "0" * 32):
        with pytest.raises(AescError) as caught:
            replay(model, settings=settings)
        assert caught.value.usage
    run = trained.client.create_run(trained.client.get_run(trained.run_id).info.experiment_id)
    with pytest.raises(AescError, match="not a finished training"):
        replay(run.info.run_id, settings=settings)
    untrained()


def test_parameters_that_the_commits_code_does_not_know_are_named(trained: Trained, settings: Settings) -> None:
    with trained.trained_with(later=1), pytest.raises(AescError, match=r"do not fit .* training\.later: Extra inputs"):
        replay("champion", steps=1, settings=settings)


def test_files_that_the_cache_lacks_come_from_the_remote_and_the_cache_stays_as_it_is(
    trained: Trained, settings: Settings, tmp_path: Path
) -> None:
    cache, away = trained.project.root / ".dvc" / "cache", trained.project.root / ".dvc" / "away"
    record = find_record("champion", category=None)
    cache.rename(away)
    try:
        data = place_data(record, tmp_path / "fetched", settings=settings)
        assert not cache.exists() or listing(cache) == {}
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        away.rename(cache)
    original = trained.project.root / "data"
    wanted = recorded_files(record)
    assert len(wanted) == 40 + 4 + 3 + 3
    assert _dataset_folder(trained.client.get_run(trained.run_id)) == record.data_root == str(original)
    for path in wanted:
        assert (data / path).read_bytes() == (original / path).read_bytes()
    linked = place_data(record, trained.project.root / ".aesc" / "linked", settings=settings)
    assert os.stat(linked / next(iter(wanted))).st_nlink > 1
    shutil.rmtree(linked)


def test_scratch_folders_of_killed_replays_go_and_those_at_work_stay(settings: Settings) -> None:
    left = settings.state / "replays" / "left"
    (left / "code").mkdir(parents=True)
    with scratch_folder(settings) as first:
        assert not left.exists()
        with scratch_folder(settings) as second:
            assert first.is_dir()
            assert first != second
        assert not second.exists()
    assert not first.exists()


@pytest.mark.slow
def test_a_commit_from_before_replays_retrains_by_its_own_command(trained: Trained, settings: Settings) -> None:
    root = trained.project.root
    before = git(root, "rev-parse", "HEAD").strip()
    git(root, "rm", "--quiet", "tasks/replay_worker.py")
    git(root, "commit", "--quiet", "--message=older")
    commit = git(root, "rev-parse", "HEAD").strip()
    git(root, "reset", "--quiet", "--hard", before)
    with trained.tagged(mlflow__source__git__commit=commit):
        with pytest.raises(AescError, match="older than replays"):
            replay("champion", steps=2, settings=settings)
        value = replay("champion", settings=settings)
    assert value["verdict"] == "identical"
    assert value["differs"] == []
    assert len(trained.client.search_model_versions(f"name='aesc-{CATEGORY}'")) == 1
