"""`aesc inspect`: verdicts, heatmaps, CSV and gallery for an image or a folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from aesc.errors import AescError
from tests.commands import Done, Project

NAMES = {
    "a/000.png": "widget/test/good/000.png",
    "b/000.png": "widget/test/spot/000.png",
    "b/001 <i>.png": "widget/test/spot/001.png",
}


@pytest.fixture(scope="module")
def shift(project: Project, trained: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of a shift, in folders; one is none, and two differ only in what follows the point."""
    folder = tmp_path_factory.mktemp("shift")
    for name, source in NAMES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(project.root / "data" / source, folder / name)
    with Image.open(folder / "b/000.png") as picture:
        picture.save(folder / "b/000.bmp")
    (folder / "a/broken.png").write_text("no image", encoding="utf-8")
    (folder / "notes.txt").write_text("night shift", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out") / "report"


@pytest.fixture(scope="module")
def inspected(project: Project, shift: Path, out: Path) -> Done:
    return project.aesc("inspect", shift, "--category", "widget", "--out", out, "--all-scores", "--json", code=1)


def test_a_folder_gets_a_verdict_an_image_and_the_reason_where_there_is_none(
    inspected: Done, shift: Path, trained: dict[str, Any], run_folder: Path
) -> None:
    report = inspected.report
    rows = {Path(row["path"]).relative_to(shift).as_posix(): row for row in report["images"]}
    assert set(rows) == {*NAMES, "b/000.bmp", "a/broken.png"}
    broken = rows.pop("a/broken.png")
    assert (broken["verdict"], broken["score"], broken["heatmap"]) == ("error", None, "")
    assert "not an image: begins with 'no image'" in broken["error"]
    assert report["counts"]["error"] == 1
    assert sum(report["counts"].values()) == 5
    scores = pd.read_csv(run_folder / "scores.csv").set_index("path")
    for name, source in {**NAMES, "b/000.bmp": NAMES["b/000.png"]}.items():
        for strategy in ("residual", "uncertainty", "combined"):
            assert rows[name][strategy] == pytest.approx(scores.loc[source, strategy], rel=1e-6)
        assert rows[name]["verdict"] == scores.loc[source, "verdict"]
        assert rows[name]["threshold"] == trained["threshold"]
        assert 0 <= rows[name]["flagged_share"] <= 1
    assert report["category"] == "widget"
    assert report["model"] == "models:/aesc-widget@champion"
    assert report["weights_sha256"] == trained["weights_sha256"]
    assert report["promise"] == trained["promise"]


def test_heatmaps_table_and_gallery_lie_in_one_folder(inspected: Done, out: Path) -> None:
    report = inspected.report
    heatmaps = [row["heatmap"] for row in report["images"] if row["heatmap"]]
    assert len(set(heatmaps)) == 4, "images of one name share a heatmap"
    for name in heatmaps:
        with Image.open(out / name) as picture:
            assert picture.width == 2 * picture.height
            assert np.asarray(picture.convert("L")).std() > 0
    table = pd.read_csv(out / "verdicts.csv")
    assert list(table.columns) == list(report["images"][0])
    assert table["path"].tolist() == [row["path"] for row in report["images"]]
    assert table["verdict"].tolist() == [row["verdict"] for row in report["images"]]
    assert report["gallery"] == str(out / "index.html")
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 4
    assert "&lt;i&gt;" in page
    assert "<i>" not in page
    assert "not an image" in page


def test_an_image_by_another_strategy_is_shown_to_a_person(project: Project, shift: Path) -> None:
    """The only registered model is found by itself, and the report lies with the project's state."""
    done = project.aesc("inspect", shift / "b/000.png", "--model", "1", "--strategy", "uncertainty")
    head, row, counts, gallery = done.stdout.splitlines()
    assert head.split() == ["verdict", "score", "threshold", "image"]
    assert row.split()[0] in ("pass", "reject", "abstain")
    assert row.endswith(str(shift / "b/000.png"))
    assert counts.endswith("0 unreadable; by models:/aesc-widget/1")
    folder = Path(gallery.removeprefix("gallery: ")).parent
    assert folder.parent == project.state / "inspections"
    (written,) = pd.read_csv(folder / "verdicts.csv").to_dict("records")
    assert (written["strategy"], written["score"]) == ("uncertainty", written["uncertainty"])
    assert len(list((folder / "heatmaps").iterdir())) == 1


def test_a_saved_detector_needs_no_registry(project: Project, shift: Path, run_folder: Path, out: Path) -> None:
    detector = run_folder / "detector"
    report = project.aesc(
        *("inspect", shift / "a", "--model", detector, "--out", out / "again", "--json"),
        code=1,
        MLFLOW_TRACKING_URI="http://127.0.0.1:9",
    ).report
    assert report["model"] == str(detector)
    assert report["counts"]["error"] == 1


def test_an_unknown_alias_is_told_which_exist(project: Project, shift: Path) -> None:
    error = project.aesc("inspect", shift, "--category", "widget", "--model", "previous", "--json", code=2).error
    assert error["where"] == "models:/aesc-widget@previous"
    assert error["found"] == "no such model version"
    assert "champion" in error["allowed"]
    assert "categories with models: widget" in error["allowed"]


def test_an_unknown_category_is_told_which_have_models(
    project: Project, trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.registry import resolve

    monkeypatch.setenv("AESC_ROOT", str(project.root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)
    with pytest.raises(AescError) as caught:
        resolve("gizmo", "champion")
    assert caught.value.usage
    assert caught.value.where == "models:/aesc-gizmo@champion"
    assert "categories with models: widget" in caught.value.allowed
    assert "aesc retrain --category gizmo" in caught.value.todo
