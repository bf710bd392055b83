"""`aesc ingest`: what arrived as clean is judged, kept back or taken in, whatever comes in between."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aesc.files import read_json
from tests.commands import Project, at_once
from tests.flows.conftest import Imports
from tests.repositories import git
from tests.servers import Server
from tests.stations import CATEGORY, Station, digest, draw_arrivals, settle

# Where a run is killed: a function, and after which of its calls.
FATAL = {
    "copying": ("tasks.staging:_fetch", 3),
    "after copying": ("tasks.staging:write_table", 1),
    "after judging": ("tasks.judging:write_table", 1),
    "quarantining": ("tasks.quarantine:_keep", 1),
    "before the quarantine's page": ("tasks.quarantine:_keep", 5),
    "placing": ("tasks.acceptance:shutil.copyfile", 2),
    "after dvc add": ("tasks.acceptance:add_data", 1),
    "after dvc push": ("tasks.acceptance:push_data", 1),
    "after the commit": ("tasks.acceptance:commit_file", 1),
    "after the record": ("tasks.arrival_ledger:Ledger.record", 1),
    "after the event": ("tasks.retraining_rule:emit_event", 1),
}


@pytest.fixture(scope="module")
def ready(
    project: Project, imported: Imports, trained: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Station:
    """A station with a champion, and an inbox of clean, defective, copied and broken images."""
    folder = tmp_path_factory.mktemp("station")
    env = {**project.env, "MLFLOW_TRACKING_URI": project.tracking_uri}
    original = Project(project.root, project.state, env)
    station = Station(original, folder / "none").copy(folder)
    draw_arrivals(station.arriving, clean=12, spotted=3)
    test_image = next((station.project.root / "data" / CATEGORY / "test" / "good").iterdir())
    shutil.copy(test_image, station.arriving / "leak.png")
    shutil.copy(next(station.clean.iterdir()), station.arriving / "again.png")
    Image.open(next(station.clean.iterdir())).point(lambda value: value + 1).save(station.arriving / "again.bmp")
    Image.open(station.arriving / "000.png").resize((32, 32)).save(station.arriving / "small.png")
    Image.open(station.arriving / "000.png").convert("L").save(station.arriving / "grey.png")
    Image.open(station.arriving / "000.png").point(lambda value: value // 4).save(station.arriving / "dark.png")
    (station.arriving / "text.png").write_text("no image", encoding="utf-8")
    settle(station.arriving)
    return station


@pytest.fixture(scope="module")
def undisturbed(ready: Station, prefect_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Station:
    return ready.copy(tmp_path_factory.mktemp("undisturbed")).on(prefect_server)


@pytest.fixture
def station(ready: Station, prefect_server: Server, tmp_path: Path) -> Station:
    return ready.copy(tmp_path).on(prefect_server)


@pytest.fixture(scope="module")
def report(undisturbed: Station) -> dict[str, Any]:
    return undisturbed.ingest()


def held(station: Station) -> dict[str, dict[str, Any]]:
    """The quarantine's records by key."""
    listed = station.project.aesc("quarantine", "list", "--json").report["entries"]
    return {entry["key"]: entry for entry in listed}


def test_each_fault_has_its_own_reason(undisturbed: Station, report: dict[str, Any]) -> None:
    entries = held(undisturbed)
    reasons = {key: entry["reason"] for key, entry in entries.items()}
    expected = {
        "leak.png": "leak",
        "again.png": "duplicate",
        "again.bmp": "near_duplicate",
        "small.png": "other_size",
        "grey.png": "other_format",
        "text.png": "unreadable",
    }
    assert {key: reasons.get(key) for key in expected} == expected
    assert reasons["dark.png"] in ("brightness", "contrast", "sharpness")
    spotted = {key for key in reasons if key.startswith("spotted")}
    assert {reasons[key] for key in spotted} == {"contaminated"}
    assert len(spotted) >= 2, "the champion finds at least two of the three"
    for key in spotted:
        assert "above its threshold" in entries[key]["detail"]
        assert entries[key]["picture"] == "heatmap.png"


def test_everything_that_arrived_is_in_the_data_or_in_quarantine(
    undisturbed: Station, ready: Station, report: dict[str, Any]
) -> None:
    arrived = {path.name: digest(path) for path in ready.arriving.iterdir()}
    entries = held(undisturbed)
    taken = {digest(path) for path in undisturbed.clean.iterdir()} - {digest(path) for path in ready.clean.iterdir()}
    assert report["arrivals"] == len(arrived)
    assert report["accepted"] == len(taken) >= 8
    assert report["quarantined"] == len(entries)
    assert taken == {sha256 for key, sha256 in arrived.items() if key not in entries}
    for key, entry in entries.items():
        kept = Path(undisturbed.project.state) / "quarantine" / CATEGORY / entry["id"] / entry["image"]
        assert digest(kept) == arrived[key]
    for path in undisturbed.clean.iterdir():
        if digest(path) in taken:
            assert path.stem == digest(path)[:20]
    assert {path.name: digest(path) for path in undisturbed.arriving.iterdir()} == arrived


def test_one_commit_of_the_pointer_says_what_came_from_where(
    undisturbed: Station, ready: Station, report: dict[str, Any]
) -> None:
    root = undisturbed.project.root
    assert git(root, "rev-parse", "HEAD~1") == git(ready.project.root, "rev-parse", "HEAD")
    assert git(root, "rev-parse", "HEAD").strip() == report["commit"]
    assert git(root, "show", "--name-only", "--format=", "HEAD").split() == ["data.dvc"]
    message = git(root, "show", "--no-patch", "--format=%B", "HEAD")
    assert message.startswith(f"data: {report['accepted']} clean images of {CATEGORY} from {undisturbed.arriving}\n")
    assert f"{report['reasons']['contaminated']} contaminated" in message
    assert "models:/aesc-widget/1" in message
    assert report["data_version"] in git(root, "show", "HEAD:data.dvc")
    assert any(Path(report["remote"]).rglob(f"{report['data_version'][2:]}")), "pushed"


def test_the_rule_says_yes_once(undisturbed: Station, report: dict[str, Any]) -> None:
    decision = report["retraining"]
    assert (decision["worth"], decision["kind"], decision["event"]) == (True, "share", "aesc.data.accepted")
    assert decision["new_images"] == report["accepted"]
    assert decision["trained_images"] == 40
    before = undisturbed.outcome()
    again = undisturbed.ingest()
    assert (again["arrivals"], again["accepted"], again["quarantined"], again["commit"]) == (0, 0, 0, None)
    assert (again["retraining"]["worth"], again["retraining"]["event"]) == (True, None)
    assert undisturbed.outcome() == before


def test_the_same_data_are_not_counted_again(undisturbed: Station, report: dict[str, Any]) -> None:
    """Nothing is hashed and no manifest is fetched: the number comes from the ledger, where another one is put."""
    ledger = undisturbed.project.state / "arrivals" / "ledger.db"
    with sqlite3.connect(ledger) as database:
        (new,) = database.execute("SELECT new FROM counted WHERE category = ?", (CATEGORY,)).fetchone()
        assert new == report["retraining"]["new_images"]
        database.execute("UPDATE counted SET new = 7")
    assert undisturbed.ingest()["retraining"]["new_images"] == 7
    with sqlite3.connect(ledger) as database:
        database.execute("UPDATE counted SET data_version = 'an earlier one'")
    assert undisturbed.ingest()["retraining"]["new_images"] == new


@pytest.mark.slow
@pytest.mark.parametrize("when", FATAL)
def test_killed_and_run_again_it_comes_to_the_same(
    when: str, ready: Station, undisturbed: Station, report: dict[str, Any], tmp_path: Path
) -> None:
    station = ready.copy(tmp_path)
    station.killed(*FATAL[when])
    station.ingest()
    found, expected = station.outcome(), undisturbed.outcome()
    assert {**found, "batches": 1} == {**expected, "batches": 1}


def test_two_at_once_take_in_everything_once(
    ready: Station, undisturbed: Station, report: dict[str, Any], tmp_path: Path
) -> None:
    station = ready.copy(tmp_path)
    command = ("ingest", "--source", station.arriving, "--category", CATEGORY, "--preset", "tiny", "--json")
    reports = [done.report["categories"][0] for done in at_once([station.project] * 2, *command)]
    assert sorted(one["arrivals"] for one in reports) == [0, report["arrivals"]]
    assert station.outcome() == undisturbed.outcome()


def test_a_person_takes_one_in_and_keeps_another_out(station: Station) -> None:
    station.ingest()
    entries = held(station)
    wanted, refused = entries["dark.png"], entries["spotted_012.png"]
    aesc = station.project.aesc
    text = aesc("quarantine", "show", wanted["id"][:6]).stdout
    assert "dark.png" in text
    unfit = aesc("quarantine", "accept", entries["leak.png"]["id"], "--reason", "no", "--json", code=2).error
    assert "leak" in unfit["found"]
    said = aesc(
        *("quarantine", "accept", wanted["id"], "--reason", "the lamp was new", "--by", "Ada", "--preset", "tiny"),
        "--json",
    ).report["categories"][0]
    assert (said["accepted"], said["quarantined"]) == (1, 0)
    assert said["commit"] == git(station.project.root, "rev-parse", "HEAD").strip()
    assert "Ada: the lamp was new" in git(station.project.root, "show", "--no-patch", "--format=%B", "HEAD")
    assert (station.clean / f"{wanted['sha256'][:20]}.png").is_file()
    aesc("quarantine", "reject", refused["id"], "--reason", "a spot", "--by", "Bob")
    records = {entry["key"]: entry for entry in aesc("quarantine", "list", "--all", "--json").report["entries"]}
    decided = records["dark.png"]["decisions"][0]
    assert (records["dark.png"]["status"], decided["by"], decided["why"]) == ("accepted", "Ada", "the lamp was new")
    assert (records["spotted_012.png"]["status"], records["spotted_012.png"]["decisions"][0]["by"]) == (
        "rejected",
        "Bob",
    )
    assert (
        "already accepted by Ada"
        in aesc("quarantine", "reject", wanted["id"], "--reason", "no", "--json", code=2).error["found"]
    )
    page = (station.project.state / "quarantine" / CATEGORY / "index.html").read_text(encoding="utf-8")
    assert "accepted by Ada" in page


def test_the_first_images_of_a_new_product_find_the_gate_open(station: Station, tmp_path: Path) -> None:
    arriving = tmp_path / "inbox" / "gizmo"
    draw_arrivals(arriving, clean=6, seed=5)
    Image.open(arriving / "000.png").resize((48, 48)).save(arriving / "odd.png")
    settle(arriving)
    shutil.rmtree(station.arriving)
    command = ("ingest", "--source", tmp_path / "inbox", "--preset", "tiny", "--json")
    (report,) = station.project.aesc(*command).report["categories"]
    assert report["category"] == "gizmo"
    assert (report["accepted"], report["reasons"]) == (6, {"other_size": 1})
    assert report["gate"].startswith("open: gizmo has no champion yet")
    assert (report["retraining"]["worth"], report["retraining"]["newest_version"]) == (False, None)
    decided = read_json(next((station.project.state / "quarantine" / "gizmo").glob("*/reason.json")))
    assert decided["picture"] == "preview.png"


def test_a_wrong_source_is_one_clear_error(undisturbed: Station) -> None:
    aesc = undisturbed.project.aesc
    error = aesc("ingest", "--source", "no/such/folder", "-c", CATEGORY, "-p", "tiny", "--json", code=2).error
    assert error["found"] == "no such folder"
    wrong = ("ingest", "--source", undisturbed.arriving, "-c", "../elsewhere", "-p", "tiny", "--json")
    assert "not a category's name" in aesc(*wrong, code=2).error["found"]
    error = aesc("ingest", "-c", CATEGORY, "-p", "tiny", "--json", code=2).error
    assert "AESC_ARRIVALS" in error["found"]


def test_the_drill_counts_what_the_gate_lets_through(station: Station) -> None:
    before = (station.project.root / "data.dvc").read_bytes()
    report = station.project.aesc("drill", "-c", CATEGORY, "-p", "tiny", "--json").report
    table = {row["defect"]: row for row in report["table"]}
    assert set(table) == {"good", "spot", "dent"}
    assert report["caught"] + report["missed"] == report["poison"] == 7
    assert report["caught"] == table["spot"]["held"] + table["dent"]["held"] == 7
    assert report["clean_held"] == table["good"]["held"] <= report["clean"] == 4
    assert not any("leak" in row["reasons"] or "duplicate" in row["reasons"] for row in report["table"])
    assert (station.project.root / "data.dvc").read_bytes() == before
    assert not list((station.project.state / "drills").iterdir())
    few = station.project.aesc("drill", "-c", CATEGORY, "-p", "tiny", "--share", "0.4", "--json").report
    assert (few["poison"], few["share"]) == (3, pytest.approx(3 / 7, abs=1e-3))
