"""`aesc inspect` on more images than one shard has: tables of all, pictures of some, and nothing done twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from aesc.errors import AescError
from tasks.arrival import Arrival
from tasks.inspection_folder import ALL_HEATMAPS, SHARD, InspectionFolder, open_folder
from tasks.inspection_shard import heatmap_name
from tests.commands import Project
from tests.servers import Server
from tests.stations import draw_arrivals

COUNT = 2 * SHARD + 44
SPOTTED = 4


@pytest.fixture(scope="module")
def served(project: Project, prefect_server: Server) -> Project:
    return project.on(prefect_server)


@pytest.fixture(scope="module")
def shift(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shift of three shards; one file is no image."""
    folder = tmp_path_factory.mktemp("shift")
    draw_arrivals(folder, clean=COUNT - SPOTTED - 1, spotted=SPOTTED, seed=21)
    (folder / "broken.png").write_text("no image", encoding="utf-8")
    return folder


def command(shift: Path, out: Path) -> tuple[object, ...]:
    return ("inspect", shift, "--category", "widget", "--out", out, "--json")


@pytest.fixture(scope="module")
def undisturbed(served: Project, trained: dict[str, Any], shift: Path, tmp_path_factory: Any) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    return served.aesc(*command(shift, out), code=1, OMP_NUM_THREADS="1").report | {"out": str(out)}


def test_tables_have_all_and_pictures_are_of_those_that_do_not_pass(undisturbed: dict[str, Any]) -> None:
    out = Path(undisturbed["out"])
    table = pd.read_csv(out / "verdicts.csv")
    assert len(table) == COUNT
    pd.testing.assert_frame_equal(
        table, pd.read_parquet(undisturbed["table"]).replace("", None), check_dtype=False, rtol=1e-12
    )
    counts = table["verdict"].value_counts()
    assert undisturbed["counts"] == {name: int(counts.get(name, 0)) for name in ("pass", "reject", "abstain", "error")}
    assert undisturbed["counts"]["error"] == 1
    assert undisturbed["counts"]["reject"] >= SPOTTED - 1
    flagged = table[table["verdict"].isin(["reject", "abstain"])]
    assert sorted(path.name for path in (out / "heatmaps").iterdir()) == sorted(
        Path(name).name for name in flagged["heatmap"]
    )
    assert table.loc[table["verdict"] == "pass", "heatmap"].isna().all()
    assert COUNT > ALL_HEATMAPS
    shown = [row["path"] for row in undisturbed["images"]]
    assert set(shown) == set(table.loc[table["verdict"] != "pass", "path"])
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("<img ") == len(flagged)
    assert f"Shown are {len(shown)} of {COUNT} images" in page
    assert not (out / "shards").exists()


def test_killed_and_run_again_only_what_is_missing_is_done_and_the_result_is_the_same(
    served: Project, undisturbed: dict[str, Any], shift: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    served.killed("tasks.inspection_shard:run_shard", 1, *command(shift, out))
    folder = InspectionFolder(out)
    first = {path.name: path.stat().st_mtime_ns for path in folder.results() if path.is_file()}
    assert 1 <= len(first) < 3
    served.killed("tasks.inspection_results:_join", 1, *command(shift, out))
    second = {path.name: path.stat().st_mtime_ns for path in folder.results() if path.is_file()}
    assert len(second) == 3
    assert {name: second[name] for name in first} == first, "a finished shard was done again"
    report = served.aesc(*command(shift, out), code=1, OMP_NUM_THREADS="1").report
    expected = Path(undisturbed["out"])
    assert report["counts"] == undisturbed["counts"]
    for name in ("verdicts.csv", "verdicts.parquet"):
        assert (out / name).read_bytes() == (expected / name).read_bytes()
    assert {path.name: path.read_bytes() for path in (out / "heatmaps").iterdir()} == {
        path.name: path.read_bytes() for path in (expected / "heatmaps").iterdir()
    }


def arrivals(count: int, size: int = 1) -> Iterator[Arrival]:
    return (Arrival(f"{number:06d}.png", "tag", size, "") for number in range(count))


def planned(folder: InspectionFolder, images: Iterator[Arrival], **asked: Any) -> list[str]:
    folder.plan(images, {"address": "/in", **asked}, source="/in", detector=Path("/detector"))
    return [path.name for path in folder.results()]


def test_a_shard_is_its_images_and_what_was_asked_for(tmp_path: Path) -> None:
    folder = InspectionFolder(tmp_path / "out")
    names = planned(folder, arrivals(2 * SHARD + 1), weights_sha256="a")
    assert (folder.state["images"], folder.state["heatmaps"], len(names)) == (2 * SHARD + 1, "alarms", 3)
    assert [image.key for image in folder.listing(2)] == [f"{2 * SHARD:06d}.png"]
    for path in folder.results():
        path.write_bytes(b"rows")
    assert folder.missing() == []
    assert planned(folder, arrivals(2 * SHARD + 1), weights_sha256="a") == names
    assert folder.missing() == []
    planned(folder, arrivals(2 * SHARD + 5), weights_sha256="a")
    assert folder.missing() == [2], "images that came in the end change the last shard only"
    planned(folder, arrivals(2 * SHARD + 5), weights_sha256="b")
    assert folder.missing() == [0, 1, 2], "other weights"
    assert len(list(folder.shards.iterdir())) == 3, "only listings are left"
    planned(folder, arrivals(3, size=2), weights_sha256="b")
    assert (folder.state["heatmaps"], len(list(folder.shards.iterdir()))) == ("all", 1)


def test_an_unfinished_inspection_of_the_same_is_taken_up(tmp_path: Path) -> None:
    asked = {"address": "/in"}
    folder, lock = open_folder(tmp_path, label="in", asked=asked)
    planned(folder, arrivals(3))
    other, second = open_folder(tmp_path, label="in", asked=asked)
    assert other.path != folder.path, "another process works in the first"
    second.release()
    with pytest.raises(AescError, match="another inspection"):
        InspectionFolder(folder.path).hold()
    lock.release()
    again, lock = open_folder(tmp_path, label="in", asked=asked)
    assert again.path == folder.path
    again.update(finished=True)
    lock.release()
    new, lock = open_folder(tmp_path, label="in", asked=asked)
    lock.release()
    assert new.path not in (folder.path,)


@pytest.mark.parametrize("key", ["../../etc/passwd.png", "a/../../b.png", "./a.png", "/a.png", "x" * 300 + ".png"])
def test_a_heatmap_never_leaves_its_folder(key: str, tmp_path: Path) -> None:
    name = heatmap_name(key)
    assert (tmp_path / name).resolve().parent == tmp_path
    assert name.endswith(".png")
    assert len(name) < 100
    assert heatmap_name("a/b.png") == "a/b.png"
    assert heatmap_name("a/b.jpg") == "a/b.jpg.png"
