"""The court on real versions: what it decides, what it refuses, what it leaves, and what a crash in between costs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from prefect.settings import PREFECT_API_URL, temporary_settings

from aesc.errors import AescError
from aesc.manifest import scan_category
from flows import promotion
from tasks.aliases import read_ledger
from tasks.court_record import attach_record
from tasks.run_folder import RunFolder
from tasks.settings import Settings
from tests.arrivals import own_environment
from tests.benches import MODEL, RULES, Bench
from tests.categories import draw_category
from tests.commands import Project, at_once
from tests.flows.conftest import Imports
from tests.servers import Server
from tests.stations import CATEGORY, Station


@pytest.fixture(scope="module")
def bench(
    project: Project,
    imported: Imports,
    trained: dict[str, Any],
    run_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("court")
    copied = Station(project, folder / "none").copy(folder).project
    project.copy_registry(copied)
    shutil.copytree(run_folder, copied.state / "runs" / "original")
    params = yaml.safe_load((copied.root / "params.yaml").read_text(encoding="utf-8"))
    params["presets"]["tiny"]["promotion"] = RULES
    params["presets"]["required"] = {**params["presets"]["tiny"], "promotion": {**RULES, "approval": "required"}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    with pytest.MonkeyPatch.context() as monkeypatch:
        own_environment(monkeypatch, copied.root)
        monkeypatch.setenv("AESC_HOME", str(copied.state))
        monkeypatch.setenv("AESC_DVC_REMOTE", copied.env["AESC_DVC_REMOTE"])
        monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        yield Bench(copied, folder / "params.yaml", copied.state / "runs" / "original", Settings())


@pytest.fixture(scope="module")
def bad(bench: Bench) -> str:
    """A version that goes by the uncertainty, which is worthless after four epochs."""
    return bench.forge(strategy="uncertainty")


@pytest.fixture(scope="module")
def promoted(bench: Bench, bad: str) -> dict[str, Any]:
    """The report of `aesc promote` where version 1 challenges the bad one."""
    bench.challenge(bad, "1")
    return bench.aesc("promote", "--by", "ann")


def test_a_better_challenger_takes_the_place(bench: Bench, bad: str, promoted: dict[str, Any]) -> None:
    assert (promoted["status"], promoted["verdict"]) == ("promoted", "PROMOTE")
    assert promoted["aliases"] == {"champion": "1", "previous": bad}
    by_key = {(row["metric"], row["defect"]): row for row in promoted["differences"]}
    assert by_key["image_auroc", "all"]["challenger"] == 1.0
    assert by_key["image_auroc", "all"]["low"] > 0
    assert {"spot", "dent"} <= {defect for _, defect in by_key}
    assert (promoted["n_good"], promoted["n_defective"]) == (4, 7)
    assert promoted["synthetic_defects"] is False


def test_the_court_measures_what_the_report_of_a_training_measured(
    trained: dict[str, Any], promoted: dict[str, Any]
) -> None:
    by_key = {(row["metric"], row["defect"]): row["challenger"] for row in promoted["differences"]}
    for name in ("image_auroc", "pixel_auroc", "aupro"):
        assert by_key[name, "all"] == pytest.approx(trained[name], abs=1e-6)
    assert by_key["detection_rate", "all"] == trained["detected"] / trained["defective_images"]
    assert by_key["false_alarm_rate", "all"] == trained["false_alarms"] / trained["clean_images"]


def test_the_record_is_in_the_version_and_in_its_mlflow_run(
    bench: Bench, bad: str, trained: dict[str, Any], promoted: dict[str, Any], tmp_path: Path
) -> None:
    run_id = trained["mlflow_run_id"]
    tags = bench.client.get_model_version(MODEL, "1").tags
    assert (tags["court.verdict"], tags["court.against"]) == ("PROMOTE", bad)
    assert tags["court.record"] == promoted["record"] == f"runs:/{run_id}/court/{Path(promoted['page']).parent.name}"
    path = promoted["record"].removeprefix(f"runs:/{run_id}/")
    folder = Path(bench.client.download_artifacts(run_id, path, str(tmp_path)))
    names = {"decision.json", "index.html", "scores.csv", "champion.png", "challenger.png"}
    assert {file.name for file in folder.iterdir()} == names
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "champion.png" in page
    assert "challenger.png" in page
    assert "PROMOTE" in page
    assert "http" not in page.replace("http-equiv", "")
    scores = pd.read_csv(folder / "scores.csv")
    assert len(scores) == 11
    assert scores["differ"].sum() == promoted["verdicts_differ"] > 0
    assert scores["differ"].head(promoted["verdicts_differ"]).all()


def test_history_says_who_when_why_and_on_which_evidence(bench: Bench, bad: str, promoted: dict[str, Any]) -> None:
    history = bench.aesc("history")
    entry = history["entries"][-1]
    assert (entry["action"], entry["by"], entry["state"], entry["version"]) == ("promoted", "ann", "done", "1")
    assert entry["moves"] == {"champion": [bad, "1"], "previous": [None, bad], "challenger": ["1", None]}
    assert entry["reason"].startswith("better: image AUROC")
    assert entry["evidence"]["record"] == promoted["record"]
    assert history["entries"][0]["action"] == "registered"


def test_the_history_is_a_table(bench: Bench, promoted: dict[str, Any]) -> None:
    head, *lines = bench.project.aesc("history", "--category", CATEGORY).stdout.splitlines()
    begins = [head.index(name) for name in ("when", "version", "what", "by", "aliases", "why")]
    rows = [line for line in lines if line.startswith("20")]
    assert len(rows) == len(read_ledger(CATEGORY)) > 2
    for row in rows:
        assert all(row[place - 2 : place] == "  " and row[place] != " " for place in begins[1:])
    assert f"    evidence: {promoted['record']}" in lines


def test_an_equal_challenger_is_held_and_a_worse_one_rejected(bench: Bench, bad: str) -> None:
    tie = bench.hear("1", bench.forge())
    assert tie["verdict"] == "HOLD"
    assert tie["reasons"][0].startswith("not shown to be better: image AUROC 1.0000 -> 1.0000")
    worse = bench.hear("1", bad)
    assert worse["verdict"] == "REJECT"
    assert any(reason.startswith("below the floor") for reason in worse["reasons"])
    assert any("of spot" in reason for reason in worse["reasons"])


def test_a_challenger_made_from_test_images_is_rejected(bench: Bench, bad: str) -> None:
    manifest = RunFolder(bench.run_folder).manifest()
    test = manifest.loc[manifest["split"] == "test", "sha256"].tolist()
    leaky = bench.forge(trained_on=set(test[:3]))
    decision = bench.hear(bad, leaky)
    assert decision["verdict"] == "REJECT"
    assert decision["reasons"] == ["leak: the challenger was made from 3 of the test images"]
    flattered = bench.hear(leaky, "1")
    assert any("which flatters it" in note for note in flattered["notes"])


def test_a_champion_whose_data_version_is_gone_is_judged_on_the_current_images(bench: Bench) -> None:
    old = bench.forge(strategy="uncertainty", data_version="0" * 32 + ".dir")
    decision = bench.hear(old, "1")
    assert decision["verdict"] == "PROMOTE"
    assert decision["champion"]["data_version"].startswith("0000")
    assert decision["data_version"] == decision["challenger"]["data_version"]


def test_without_defective_images_the_court_works_on_corruptions_and_says_so(
    bench: Bench, bad: str, tmp_path: Path
) -> None:
    data = draw_category(tmp_path, CATEGORY, train=24, test_good=6, defects={})
    first, again = (bench.hear(bad, "1", data=data) for _ in range(2))
    assert first["synthetic_defects"] is True
    assert any("no defective test images" in note for note in first["notes"])
    assert {row["defect"] for row in first["differences"]} == {"all", "synthetic scratch", "synthetic drops"}
    assert first["differences"] == again["differences"]
    assert (first["n_good"], first["n_defective"], first["data_version_kind"]) == (6, 12, "content")
    assert "no defective test images" in (first["folder"] / "index.html").read_text(encoding="utf-8")


def test_without_any_test_images_the_court_works_on_validation_images_and_says_so(
    bench: Bench, bad: str, tmp_path: Path
) -> None:
    data = draw_category(tmp_path, CATEGORY, train=200, test_good=0, defects={})
    decision = bench.hear(bad, "1", data=data)
    manifest = scan_category(data, CATEGORY, data=bench.params.data, cache_folder=tmp_path)
    shown = set(manifest.loc[manifest["split"] == "validation", "sha256"])
    assert set(pd.read_csv(decision["folder"] / "scores.csv")["sha256"]) == shown
    assert (decision["n_good"], decision["n_defective"]) == (len(shown), 2 * len(shown))
    assert decision["verdict"] == "PROMOTE"
    assert decision["synthetic_defects"] is True
    page = (decision["folder"] / "index.html").read_text(encoding="utf-8")
    for said in ("no defective test images", "no test images at all"):
        assert any(said in note for note in decision["notes"])
        assert said in page
    assert {row["defect"] for row in decision["differences"]} == {"all", "synthetic scratch", "synthetic drops"}


def test_what_cannot_be_loaded_or_measured_is_an_error(
    bench: Bench, bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bench.aliases
    data = draw_category(tmp_path, CATEGORY, train=24, test_good=4, defects={"dent": 4}, masks=False)
    with pytest.raises(AescError, match="not available on the test images"):
        bench.hear(bad, "1", data=data, primary="aupro")
    with pytest.raises(AescError, match="no such model version"):
        bench.hear(bad, "99")
    lost = bench.forge()
    run_id = bench.client.get_model_version(MODEL, lost).run_id
    place = Path(bench.client.get_run(run_id).info.artifact_uri.removeprefix("file://"))
    (place / "detector" / "weights.safetensors").unlink()
    with pytest.raises(AescError):
        bench.hear(bad, lost)
    shutil.rmtree(place)
    with pytest.raises(AescError, match="its files cannot be fetched"):
        bench.hear(bad, lost)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(AescError, match="not reachable"):
            bench.hear(bad, "1")
    bench.client.set_registered_model_alias(MODEL, "challenger", before.get("challenger", bad))
    assert bench.aliases["champion"] == before["champion"]


def test_a_failed_attachment_is_an_error_too(bench: Bench, bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bench.hear(bad, "1")["folder"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(AescError, match="not reachable"):
        attach_record(CATEGORY, folder)


def test_a_killed_rollback_is_completed_by_the_next_command(bench: Bench, bad: str, promoted: dict[str, Any]) -> None:
    bench.crown("1")
    bench.client.set_registered_model_alias(MODEL, "previous", bad)
    bench.project.killed("tasks.aliases:_set", 1, *bench.arguments("rollback", "--reason", "misses scratches"))
    assert bench.aliases == {"champion": "1", "previous": "1"}  # the old champion has its second name, no more
    error = bench.aesc("rollback", "--to", bad, "--reason", "again", code=1)
    assert "is the champion already" in error["found"]
    assert bench.aliases == {"champion": bad, "previous": "1"}
    entry = bench.aesc("history")["entries"][-1]
    assert (entry["action"], entry["state"], entry["reason"]) == ("rolled back", "done", "misses scratches")
    assert "died" in entry["note"]


@pytest.mark.slow
def test_a_rollback_needs_a_reason_and_files(bench: Bench, bad: str) -> None:
    bench.crown("1")
    assert bench.aesc("rollback", "--to", bad, "--reason", " ", code=2)["where"] == "--reason"
    lost = bench.forge()
    run_id = bench.client.get_model_version(MODEL, lost).run_id
    shutil.rmtree(bench.client.get_run(run_id).info.artifact_uri.removeprefix("file://"))
    assert "cannot be fetched" in bench.aesc("rollback", "--to", lost, "--reason", "x", code=1)["found"]
    report = bench.aesc("rollback", "--to", bad, "--reason", "misses scratches", "--by", "ann")
    assert (report["from"], report["version"]) == ("1", bad)
    assert report["aliases"]["champion"] == bad
    assert report["aliases"]["previous"] == "1"


@pytest.mark.slow
def test_with_approval_required_a_person_has_the_last_word(bench: Bench, bad: str) -> None:
    bench.challenge(bad, "1")
    asked = ("promote", "--category", CATEGORY, "--preset", "required", "--params", bench.params_file, "--json")
    waiting = bench.project.aesc(*asked).report
    assert (waiting["status"], waiting["verdict"]) == ("awaiting approval", "PROMOTE")
    assert bench.aliases == {"champion": bad, "challenger": "1"}
    assert bench.aesc("approve", bad, "--reason", "x", code=2)["found"].startswith("does not await approval")
    report = bench.aesc("approve", "1", "--reason", "looked at the page", "--by", "ben")
    assert (report["status"], report["aliases"]) == ("promoted", {"champion": "1", "previous": bad})
    entry = bench.aesc("history")["entries"][-1]
    assert (entry["by"], entry["evidence"]["approval"]) == ("ben", "looked at the page")
    assert bench.aesc("approve", "1", "--reason", "again", code=2)["found"].startswith("does not await approval")


def test_of_two_flows_at_once_one_moves_the_aliases(bench: Bench, bad: str, prefect_server: Server) -> None:
    bench.challenge(bad, "1")
    before = len(read_ledger(CATEGORY))

    def promote(name: str) -> str:
        report = promotion.promote(CATEGORY, preset="tiny", params_file=str(bench.params_file), by=name)
        return str(report["status"])

    # Prefect's settings, of which the server is one, are in the context of the thread.
    with temporary_settings({PREFECT_API_URL: prefect_server.url}), ThreadPoolExecutor(2) as pool:
        both = [pool.submit(copy_context().run, promote, name) for name in ("ann", "ben")]
        assert sorted(one.result() for one in both) == ["promoted", "unchanged"]
    assert bench.aliases == {"champion": "1", "previous": bad}
    assert len(read_ledger(CATEGORY)) == before + 1


@pytest.mark.slow
def test_of_two_promotions_at_once_one_moves_the_aliases(bench: Bench, bad: str) -> None:
    bench.challenge(bad, "1")
    before = len(bench.aesc("history")["entries"])
    both = at_once([bench.project] * 2, *bench.arguments("promote"))
    assert sorted(done.report["status"] for done in both) == ["promoted", "unchanged"]
    assert bench.aliases == {"champion": "1", "previous": bad}
    assert len(bench.aesc("history")["entries"]) == before + 1


@pytest.mark.slow
def test_compare_changes_nothing(bench: Bench, bad: str) -> None:
    before = (bench.aliases, bench.client.get_registered_model(MODEL).tags, bench.client.get_model_version(MODEL, bad))
    report = bench.aesc("compare", "1", bad)
    assert (report["verdict"], report["champion"]["version"], report["challenger"]["version"]) == ("REJECT", "1", bad)
    assert report["record"] is None
    assert "nothing was recorded" in Path(report["page"]).read_text(encoding="utf-8")
    after = (bench.aliases, bench.client.get_registered_model(MODEL).tags, bench.client.get_model_version(MODEL, bad))
    assert str(after) == str(before)
