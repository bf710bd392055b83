"""Quality against images, clean images and passes: each point is what a run of its own would be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from aesc.files import read_json
from benchmarks.costs import main
from tasks.run_folder import RunFolder
from tests.categories import draw_category
from tests.repositories import ROOT

CLEAN, GOOD, DEFECTIVE = 40, 4, 3
TINY = {
    "data": {"image_size": 64},
    "training": {"epochs": 2, "images_per_epoch": 16, "batch_size": 8, "learning_rate": 0.002, "device": "cpu"},
    "detection": {"passes": 2, "image_score": "top"},
    "evaluation": {"bootstrap": 20},
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a category and a preset that trains in a second; the folder for what is measured."""
    project = tmp_path / "project"
    draw_category(project / "data", train=CLEAN, test_good=GOOD, defects={"spot": DEFECTIVE})
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["presets"]["tiny"] = TINY
    (project / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    monkeypatch.setenv("AESC_ROOT", str(project))
    monkeypatch.setenv("AESC_HOME", str(tmp_path / "state"))
    return tmp_path / "out"


def rows(captured: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in captured.readouterr().out.splitlines()]


def runs(out: Path, label: str) -> list[RunFolder]:
    return [RunFolder(path) for path in sorted((out / "runs" / "widget").glob(f"*-{label}*/"))]


def weights(out: Path, label: str) -> set[str]:
    return {read_json(run.network / "network.json")["weights_sha256"] for run in runs(out, label)}


def images(out: Path, *values: int) -> list[str]:
    asked = ["images", "--category", "widget", "--preset", "tiny", "--out", str(out), "--values"]
    return [*asked, *map(str, values)]


def test_a_longer_training_takes_up_the_shorter_one_and_becomes_what_it_is_alone(
    place: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="aesc")
    main(images(place / "curve", 16, 48))
    assert "resumed after epoch 1 of 3" in caplog.text
    found = rows(capsys)
    assert [(row["images"], row["strategy"]) for row in found] == [
        (value, strategy) for value in (16, 48) for strategy in ("residual", "uncertainty", "combined")
    ]
    assert all(0 <= row["image_auroc_low"] <= row["image_auroc"] <= row["image_auroc_high"] <= 1 for row in found)
    assert found[0]["n"]["test_defective"] == DEFECTIVE
    (taken_up,) = runs(place / "curve", "images-48")
    assert list(pd.read_csv(taken_up.history)["images_seen"]) == [16, 32, 48]
    main(images(place / "alone", 48))
    alone = rows(capsys)
    assert weights(place / "alone", "images-48") == weights(place / "curve", "images-48")
    (by_itself,) = runs(place / "alone", "images-48")
    losses = np.load(taken_up.losses)
    assert np.array_equal(np.load(by_itself.losses), losses)
    (shorter,) = runs(place / "curve", "images-16")
    assert np.array_equal(np.load(shorter.losses), losses[: 16 // 8])
    assert [row["image_auroc"] for row in alone] == [row["image_auroc"] for row in found[3:]]


def test_what_is_finished_is_not_computed_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(images(place, 16))
    first = rows(capsys)
    (run,) = runs(place, "images-16")
    before = {
        path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file() and path.suffix != ".lock"
    }
    main(images(place, 16))
    assert rows(capsys) == first
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(runs(place, "images-16")) == 1


def test_fewer_clean_images_are_among_the_more_and_the_test_set_is_whole(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["clean", "--category", "widget", "--preset", "tiny", "--out", str(place), "--values", "40", "25"])
    assert [row["clean"] for row in rows(capsys)] == [25] * 3 + [40] * 3
    (few,), (all_,) = (runs(place, f"clean-{count}") for count in (25, 40))
    kept, whole = few.manifest(), all_.manifest()
    assert (kept["split"] != "test").sum() == 25
    assert (whole["split"] != "test").sum() == CLEAN
    assert set(kept["path"]) < set(whole["path"])
    assert (kept["split"] == "test").sum() == GOOD + DEFECTIVE
    assert (place / "costs.png").stat().st_size > 5000
    assert len(pd.read_csv(place / "costs.csv")) == 6


def test_passes_change_the_uncertainty_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(images(place, 16))
    rows(capsys)
    (trained,) = runs(place, "images-16")
    out = place / "passes"
    main(["passes", str(trained.path), "--out", str(out), "--values", "2", "8", "--seeds", "1", "2"])
    found = rows(capsys)
    assert [(row["seed"], row["passes"]) for row in found[::3]] == [(1, 2), (1, 8), (2, 2), (2, 8)]
    assert weights(out, "passes") == weights(place, "images-16")
    scores = [pd.read_parquet(run.scores).set_index(["path", "corruption"]) for run in runs(out, "passes")]
    clean = [table.xs("", level="corruption") for table in scores]
    for other in clean[1:]:
        assert other["residual_top"].equals(clean[0]["residual_top"])
        assert not other["uncertainty_top"].equals(clean[0]["uncertainty_top"])
    assert len({row["image_auroc"] for row in found if row["strategy"] == "residual"}) == 1
    assert (out / "costs.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["images", "--values", "20"], "training.images_per_epoch, which is 16"),
        (["clean", "--values", "41"], "40 clean images"),
    ],
)
def test_what_cannot_be_measured_is_said(place: Path, asked: list[str], said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        main([*asked, "--category", "widget", "--preset", "tiny", "--out", str(place)])


def test_one_pass_has_no_variance(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(images(place, 16))
    (trained,) = runs(place, "images-16")
    with pytest.raises(SystemExit, match="2 passes or more"):
        main(["passes", str(trained.path), "--out", str(place / "passes"), "--values", "1", "5"])
