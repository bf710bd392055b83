"""Promotion, replay, card and export with MLflow on PostgreSQL, files on S3 and a Prefect server, from two machines."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg2
import pytest

from tasks.postgres import MLFLOW, postgres_databases
from tasks.run_folder import RunFolder
from tasks.settings import Settings
from tests import servers
from tests.benches import MODEL, RULES, Bench
from tests.clones import CATEGORY, PRESET, make_clone
from tests.commands import Project, at_once
from tests.flows.conftest import TINY
from tests.repositories import git
from tests.servers import Server, s3_client

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@dataclass(frozen=True)
class Site:
    """Two machines, of which the second has a clone and nothing else, and the servers that they share."""

    bench: Bench
    other: Project
    report: dict[str, Any]
    s3: Server
    artifacts: str
    postgres: Server

    def objects(self, run_id: str) -> dict[str, int]:
        """What the bucket has of a run: path in the run to size."""
        prefix = f"{self.artifacts.removeprefix('s3://mlflow/')}/"
        pages = s3_client(self.s3.env).get_paginator("list_objects_v2").paginate(Bucket="mlflow", Prefix=prefix)
        found = {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", ())}
        return {path: size for key, size in found.items() if (path := key.partition(f"/{run_id}/artifacts/")[2])}

    def delete(self, run_id: str, folder: str) -> None:
        """Take a run's folder from the bucket."""
        prefix = f"{self.artifacts.removeprefix('s3://mlflow/')}/"
        client, deleted = s3_client(self.s3.env), 0
        for page in client.get_paginator("list_objects_v2").paginate(Bucket="mlflow", Prefix=prefix):
            for item in page.get("Contents", ()):
                if f"/{run_id}/artifacts/{folder}/" in item["Key"]:
                    client.delete_object(Bucket="mlflow", Key=item["Key"])
                    deleted += 1
        assert deleted

    def ledger_in_postgres(self) -> list[dict[str, Any]]:
        """The entries of the ledger as MLflow's database has them, oldest first."""
        question = "select value from registered_model_tags where name = %s and key like 'aesc.ledger.%%'"
        with closing(psycopg2.connect(f"{self.postgres.url}/{MLFLOW}")) as connection, connection.cursor() as cursor:
            cursor.execute(question, (MODEL,))
            return sorted((json.loads(value) for (value,) in cursor.fetchall()), key=lambda entry: entry["at"])


@pytest.fixture(scope="module")
def site(s3_server: Server, prefect_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    artifacts = f"s3://mlflow/{uuid4().hex}"
    root = make_clone(folder / "project", preset={**TINY, "promotion": RULES}, test_good=8, defects={"spot": 8})
    with (
        servers.postgres_server(folder) as postgres,
        servers.mlflow_server(
            folder, database=postgres_databases(postgres.url).mlflow, artifacts=artifacts, env=s3_server.env
        ) as mlflow,
    ):
        env = {**s3_server.env, **prefect_server.env, **mlflow.env, "OMP_NUM_THREADS": "1"}
        env |= {"AESC_DVC_REMOTE": f"s3://dvc/{uuid4().hex}", "NO_PROXY": "127.0.0.1,localhost"}
        project = Project(root, folder / "state", env)
        report = project.aesc("retrain", "--category", CATEGORY, "--preset", PRESET, "--json").report
        bench = Bench(
            project, root / "params.yaml", Path(report["run_folder"]), Settings(root=root, home=project.state)
        )
        git(folder, "clone", "--quiet", str(root), str(folder / "other"))
        other = replace(project, root=folder / "other", state=folder / "other" / ".aesc")
        yield Site(bench, other, report, s3_server, artifacts, postgres)


@pytest.fixture(scope="module")
def bad(site: Site) -> str:
    """A version that goes by the uncertainty, which is worthless after four epochs."""
    return site.bench.forge(strategy="uncertainty")


@pytest.fixture(scope="module")
def promoted(site: Site, bad: str) -> dict[str, Any]:
    """The report of `aesc promote` where version 1 challenges the bad one."""
    site.bench.challenge(bad, "1")
    return site.bench.aesc("promote", "--by", "ann")


def test_the_court_promotes_and_its_record_is_in_the_bucket(site: Site, bad: str, promoted: dict[str, Any]) -> None:
    assert (promoted["status"], promoted["verdict"]) == ("promoted", "PROMOTE")
    assert promoted["aliases"] == site.bench.aliases == {"champion": "1", "previous": bad}
    by_key = {(row["metric"], row["defect"]): row["challenger"] for row in promoted["differences"]}
    assert by_key["image_auroc", "all"] == pytest.approx(site.report["image_auroc"], abs=1e-6)
    place = promoted["record"].removeprefix(f"runs:/{site.report['mlflow_run_id']}/")
    kept = {path: size for path, size in site.objects(site.report["mlflow_run_id"]).items() if path.startswith(place)}
    names = ("decision.json", "index.html", "scores.csv", "champion.png", "challenger.png")
    assert set(kept) == {f"{place}/{name}" for name in names}
    assert all(kept.values())
    assert site.bench.client.get_model_version(MODEL, "1").tags["court.record"] == promoted["record"]


def test_the_ledger_is_in_postgresql_and_a_fresh_clone_reads_it(site: Site, bad: str, promoted: dict[str, Any]) -> None:
    entry = site.ledger_in_postgres()[-1]
    assert (entry["action"], entry["by"], entry["state"], entry["version"]) == ("promoted", "ann", "done", "1")
    assert entry["moves"] == {"champion": [bad, "1"], "previous": [None, bad], "challenger": ["1", None]}
    assert entry["evidence"]["record"] == promoted["record"]
    assert not site.other.state.exists()
    history = site.other.aesc("history", "--category", CATEGORY, "--json").report
    assert history == site.bench.aesc("history")
    assert history["entries"] == site.ledger_in_postgres()


def test_of_two_machines_at_once_one_moves_the_aliases(site: Site, bad: str, promoted: dict[str, Any]) -> None:
    """They have no folder in common, so that only the limit of Prefect's server keeps them apart."""
    bench = site.bench
    bench.challenge(bad, "1")
    before = site.ledger_in_postgres()
    shutil.copytree(bench.project.root / "data", site.other.root / "data", dirs_exist_ok=True)
    both = at_once([bench.project, site.other], *bench.arguments("promote"))
    assert sorted(done.report["status"] for done in both) == ["promoted", "unchanged"]
    assert bench.aliases == {"champion": "1", "previous": bad}
    *earlier, entry = site.ledger_in_postgres()
    assert earlier == before
    assert (entry["action"], entry["state"]) == ("promoted", "done")


def test_a_rollback_and_the_way_to_a_named_version(site: Site, bad: str, promoted: dict[str, Any]) -> None:
    bench = site.bench
    bench.crown("1")
    bench.client.set_registered_model_alias(MODEL, "previous", bad)
    back = bench.aesc("rollback", "--reason", "misses scratches", "--by", "ann")
    assert (back["from"], back["version"], back["aliases"]) == ("1", bad, {"champion": bad, "previous": "1"})
    named = bench.aesc("rollback", "--to", "1", "--reason", "was right after all", "--by", "ben")
    assert named["aliases"] == {"champion": "1", "previous": bad}
    first, second = bench.aesc("history")["entries"][-2:]
    assert (first["action"], first["by"], first["reason"]) == ("rolled back", "ann", "misses scratches")
    assert (second["action"], second["by"], second["reason"]) == ("rolled back", "ben", "was right after all")


def test_a_promotion_killed_between_two_moves_is_completed_by_another_machine(
    site: Site, bad: str, promoted: dict[str, Any]
) -> None:
    bench = site.bench
    bench.challenge(bad, "1")
    bench.project.killed("tasks.aliases:_set", 1, *bench.arguments("promote", "--by", "ann"))
    assert bench.aliases == {"champion": bad, "previous": bad, "challenger": "1"}
    assert site.ledger_in_postgres()[-1]["state"] == "begun"
    report = site.other.aesc(*bench.arguments("promote")).report
    assert report["status"] == "unchanged"
    assert len(report["repaired"]) == 1
    assert bench.aliases == {"champion": "1", "previous": bad}
    entry = site.ledger_in_postgres()[-1]
    assert (entry["action"], entry["by"], entry["state"]) == ("promoted", "ann", "done")
    assert "died" in entry["note"]


def test_files_that_are_gone_are_an_error_never_a_promotion(site: Site, bad: str, promoted: dict[str, Any]) -> None:
    bench = site.bench
    lost = bench.forge()
    site.delete(bench.client.get_model_version(MODEL, lost).run_id, "detector")
    bench.challenge(bad, lost)
    before = site.ledger_in_postgres()
    error = bench.aesc("promote", code=1)
    assert error["where"] == f"models:/{MODEL}/{lost}"
    assert "cannot be fetched" in error["found"]
    assert "cannot be fetched" in bench.aesc("rollback", "--to", lost, "--reason", "x", code=1)["found"]
    assert bench.aliases == {"champion": bad, "challenger": lost}
    assert site.ledger_in_postgres() == before


def test_a_champion_whose_data_version_is_gone_is_judged_on_the_current_images(
    site: Site, promoted: dict[str, Any]
) -> None:
    old = site.bench.forge(strategy="uncertainty", data_version="0" * 32 + ".dir")
    decision = site.bench.aesc("compare", old, "1")
    assert decision["verdict"] == "PROMOTE"
    assert decision["champion"]["data_version"] == "0" * 32 + ".dir"
    assert decision["data_version"] == site.report["data_version"]
    error = site.bench.aesc("replay", old, code=1)
    assert "neither DVC's cache" in error["found"]


def test_a_challenger_made_from_test_images_is_rejected(site: Site, bad: str, promoted: dict[str, Any]) -> None:
    manifest = RunFolder(site.bench.run_folder).manifest()
    test = manifest.loc[manifest["split"] == "test", "sha256"].tolist()
    leaky = site.bench.forge(trained_on=set(test[:3]))
    site.bench.challenge(bad, leaky)
    report = site.bench.aesc("promote")
    assert (report["status"], report["verdict"]) == ("rejected", "REJECT")
    assert report["reasons"] == ["leak: the challenger was made from 3 of the test images"]
    assert site.bench.aliases == {"champion": bad, "challenger": leaky}


def test_a_machine_with_a_clone_alone_replays_shows_the_card_and_exports(site: Site, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(site.bench.project.root), str(clone))
    bare = replace(site.other, root=clone, state=tmp_path / "state")
    replayed = bare.aesc("replay", "1", "--category", CATEGORY, "--steps", "4", "--json").report
    assert (replayed["verdict"], replayed["steps_compared"], replayed["differs"]) == ("identical", 4, [])
    assert not (clone / "data").exists()
    card = bare.aesc("card", "1", "--category", CATEGORY, "--json").report
    assert f"`{site.report['data_version']}`" in card["card"]
    file = tmp_path / "widget.onnx"
    exported = bare.aesc("export", "1", "--category", CATEGORY, "--out", file, "--json").report
    assert exported["parity"]["score"] <= exported["parity"]["allowed"]
    run_id = site.report["mlflow_run_id"]
    kept = site.bench.client.download_artifacts(run_id, "onnx/model.onnx", str(tmp_path))
    assert hashlib.sha256(Path(kept).read_bytes()).digest() == hashlib.sha256(file.read_bytes()).digest()
    assert "onnx/model.onnx" in site.objects(run_id)
