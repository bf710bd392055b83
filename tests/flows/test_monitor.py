"""`aesc monitor`: looks at a champion that are counted in MLflow, and what each of them says."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from PIL import Image

from aesc.files import read_json
from tests.commands import Project
from tests.degradation import MONITORING, champion_that_found_every_stain
from tests.repositories import git
from tests.servers import Server
from tests.stations import CATEGORY, Station, draw_arrivals, settle

MODEL = f"aesc-{CATEGORY}"


@pytest.fixture(scope="module")
def ready(project: Project, trained: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Station:
    """A station with a champion in a registry of its own."""
    folder = tmp_path_factory.mktemp("station")
    station = Station(Project(project.root, project.state, project.env), folder / "none").copy(folder)
    project.copy_registry(station.project)
    parameters = station.project.root / "params.yaml"
    params = yaml.safe_load(parameters.read_text(encoding="utf-8"))
    params["presets"]["tiny"] = {**params["presets"]["tiny"], "monitoring": MONITORING}
    parameters.write_text(yaml.safe_dump(params), encoding="utf-8")
    git(station.project.root, "commit", "--quiet", "--all", "--message=rules")
    return station


@pytest.fixture
def station(ready: Station, prefect_server: Server, tmp_path: Path) -> Station:
    """An equal one: its registry counts its own looks."""
    copy = ready.copy(tmp_path)
    ready.project.copy_registry(copy.project)
    return replace(copy, project=replace(copy.project, env={**copy.project.env, "OMP_NUM_THREADS": "1"})).on(
        prefect_server
    )


def look(station: Station, *more: object) -> dict[str, Any]:
    command = ("monitor", "--category", CATEGORY, "--preset", "tiny", "--json", *more)
    (report,) = station.project.aesc(*command).report["categories"]
    assert isinstance(report, dict)
    return report


def tags(station: Station) -> dict[str, str]:
    client = MlflowClient(station.project.tracking_uri, station.project.tracking_uri)
    return dict(client.get_model_version_by_alias(MODEL, "champion").tags)


def noisier(folder: Path, images: int) -> None:
    """The category's images as a failing camera sees them."""
    draw_arrivals(folder, clean=images, seed=5)
    rng = np.random.default_rng(0)
    for path in folder.iterdir():
        with Image.open(path) as picture:
            pixels = np.asarray(picture) + rng.normal(0, 70, (64, 64, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    settle(folder)


def test_each_look_is_about_new_images_and_none_is_forgotten_with_the_disk(
    station: Station, trained: dict[str, Any], tmp_path: Path
) -> None:
    shift = tmp_path / "shift"
    draw_arrivals(shift, clean=30, seed=99)
    first = look(station, "--source", shift)
    assert (first["status"], first["look"], first["new_images"]) == ("unchanged", 1, 30)
    assert first["level"] == pytest.approx(0.05 / 2)
    assert [one["level"] for one in first["comparisons"]] == [pytest.approx(0.0125)] * 2
    assert first["events"] == []
    assert first["detectability"]["now"]["images"] == "recent images that pass"
    assert first["detectability"]["registered"]["images"] == "calibration images that pass"
    assert first["detectability"]["loss"]["lost"] is False
    measured = [read_json(Path(place) / "detectability.json") for place in (first["folder"], trained["run_folder"])]
    assert measured[0]["sizes"] == measured[1]["sizes"] != MONITORING["sizes"], "the grid is that of the registration"
    client = MlflowClient(station.project.tracking_uri, station.project.tracking_uri)
    run = client.get_run(first["run_id"])
    assert (run.data.tags["kind"], run.data.metrics["monitor.look"]) == ("monitor", 1.0)
    assert tags(station)["monitor.looks"] == "1"
    assert tags(station)["monitor.look.1"] == first["run_id"]
    for name in ("scores.png", "detectability.png"):
        with Image.open(Path(first["folder"]) / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 5, f"{name} shows nothing"

    again = look(station, "--source", shift)
    assert (again["status"], again["look"], again["new_images"]) == ("waiting", None, 0)
    assert tags(station)["monitor.looks"] == "1", "a look without images spends nothing"

    shutil.rmtree(station.project.state / "monitoring")
    draw_arrivals(shift, clean=50, seed=98)  # the first 30 files are other images now
    second = look(station, "--source", shift)
    assert (second["look"], second["new_images"]) == (2, 50)
    assert second["level"] == pytest.approx(0.05 / 6)
    known = pd.read_csv(Path(second["folder"]) / "look.csv")["sha256"]
    shutil.rmtree(station.project.state / "monitoring")
    third = look(station, "--source", shift)
    assert third["status"] == "waiting"
    assert len(known) == 50


def test_a_change_of_the_images_raises_the_alarm(station: Station, tmp_path: Path) -> None:
    shift = tmp_path / "shift"
    noisier(shift, 30)
    report = look(station, "--source", shift)
    assert report["status"] == "changed"
    assert report["events"] == ["aesc.scores.changed"]
    alarms = {one["what"] for one in report["comparisons"] if one["alarm"]}
    assert "alarms among inspected images" in alarms
    assert "above the threshold" in report["words"]
    assert report["detectability"]["now"] is None, "no image passes, so none is painted on"
    assert "are needed" in report["detectability"]["words"]
    page = (Path(report["folder"]) / "monitor.md").read_text(encoding="utf-8")
    assert "**alarm**" in page


def test_accepted_arrivals_are_looked_at_and_what_was_trained_on_is_not(station: Station) -> None:
    assert look(station)["words"].startswith("no recent images")
    draw_arrivals(station.arriving, clean=40, seed=7)
    taken = station.ingest()
    report = look(station)
    assert report["new_images"] == taken["accepted"] >= 20
    (comparison,) = report["comparisons"]
    assert comparison["what"] == "accepted arrivals"
    assert not comparison["alarm"], comparison
    trained_on = look(station, "--source", station.project.root / "data" / CATEGORY / "train" / "good")
    assert trained_on["new_images"] == 0


def test_a_loss_of_detectability_is_an_event(station: Station, tmp_path: Path) -> None:
    champion_that_found_every_stain(station.project.tracking_uri, CATEGORY, tmp_path)
    shift = tmp_path / "shift"
    draw_arrivals(shift, clean=30, seed=99)
    report = look(station, "--source", shift)
    assert report["status"] == "degraded", report["detectability"]
    assert "aesc.model.degraded" in report["events"]
    assert report["detectability"]["loss"]["ratio"] > 1.25


def test_without_a_champion_or_a_server_one_line_says_so(station: Station, tmp_path: Path) -> None:
    error = station.project.aesc("monitor", "--category", "gadget", "--preset", "tiny", "--json", code=2).error
    assert error["where"] == "models:/aesc-gadget@champion"
    assert "aesc retrain --category gadget" in error["todo"]
    away = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}  # refuses at once
    error = station.project.aesc("monitor", "-c", CATEGORY, "-p", "tiny", "--json", code=1, **away).error
    assert error["where"] == "MLflow at http://127.0.0.1:9"
    nothing = station.project.aesc("monitor", "--preset", "tiny", AESC_HOME=str(tmp_path / "new"))
    assert "no category has a champion" in nothing.stdout
