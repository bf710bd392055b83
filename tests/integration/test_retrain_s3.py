"""`aesc retrain` with MLflow's artifacts and the DVC remote on a real S3 server, by the environment alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from tasks.settings import Settings
from tasks.versioning import pull_data
from tests import servers
from tests.clones import CATEGORY, PRESET, make_clone
from tests.commands import Done, Project
from tests.prefect_database import provide_database
from tests.repositories import ROOT, git
from tests.servers import SECRET_KEY, Server, s3_client

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Trained:
    """A finished retraining, and where it was told to put things."""

    project: Project
    done: Done
    s3: Server
    artifacts: str
    remote: str

    def objects(self, url: str) -> dict[str, int]:
        """Path below the S3 folder `url` to size."""
        bucket, prefix = split(url)
        pages = s3_client(self.s3.env).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        return {item["Key"].removeprefix(f"{prefix}/"): item["Size"] for page in pages for item in page["Contents"]}

    def read(self, url: str, path: str) -> bytes:
        bucket, prefix = split(url)
        body: bytes = s3_client(self.s3.env).get_object(Bucket=bucket, Key=f"{prefix}/{path}")["Body"].read()
        return body


def split(url: str) -> tuple[str, str]:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return bucket, prefix


@pytest.fixture(scope="module", params=["sqlite", pytest.param("server", marks=pytest.mark.slow)])
def trained(
    request: pytest.FixtureRequest, s3_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trained]:
    """A tiny retraining that writes to fresh folders of the buckets: MLflow on a file, or behind its own server."""
    folder = tmp_path_factory.mktemp("s3")
    artifacts, remote = f"s3://mlflow/{uuid4().hex}", f"s3://dvc/{uuid4().hex}"
    # The endpoint once, under the name that the AWS tools know.
    env = {key: value for key, value in s3_server.env.items() if key != "MLFLOW_S3_ENDPOINT_URL"}
    env |= {"AESC_DVC_REMOTE": remote, "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1,localhost"}
    with ExitStack() as stack:
        if request.param == "server":
            mlflow = stack.enter_context(servers.mlflow_server(folder, artifacts=artifacts, env=s3_server.env))
            tracking_uri, named = mlflow.url, {}
        else:
            tracking_uri, named = f"sqlite:///{folder / 'mlflow.db'}", {"AESC_ARTIFACTS": artifacts}
        env |= {"MLFLOW_TRACKING_URI": tracking_uri, **named}
        project = Project(make_clone(folder / "project"), folder / "state", env)
        provide_database(project.state / "prefect")
        done = project.aesc("retrain", "--category", CATEGORY, "--preset", PRESET, "--json")
        yield Trained(project, done, s3_server, artifacts, remote)


def test_artifacts_are_in_the_bucket(trained: Trained) -> None:
    run_id = trained.done.report["mlflow_run_id"]
    found = trained.objects(trained.artifacts)
    of_run = {path.partition(f"{run_id}/artifacts/")[2]: size for path, size in found.items() if run_id in path}
    figures = {f"figures/{path.name}" for path in Path(trained.done.report["run_folder"]).glob("figures/*.png")}
    assert len(figures) >= 5
    assert set(of_run) >= figures | {
        *("detector/weights.safetensors", "detector/operating_point.json", "validation/index.html"),
        *("metrics.json", "scores.csv", "history.csv", "manifest.parquet", "params.json", "summary.md"),
    }
    assert all(of_run.values())
    of_model = [path for path in found if "models/m-" in path]
    assert any(path.endswith("/artifacts/MLmodel") for path in of_model)
    assert any(path.endswith("/weights.safetensors") for path in of_model)
    # Making the clone has left DVC's own index there, nothing else.
    assert {path.name for path in (trained.project.root / ".aesc").glob("*")} <= {"dvc"}
    assert not list(trained.project.state.rglob("MLmodel"))


def test_the_data_version_is_in_the_bucket(trained: Trained) -> None:
    found = trained.objects(trained.remote)
    version = trained.done.report["data_version"]
    assert version.endswith(".dir")
    assert trained.done.report["data_version_kind"] == "dvc"
    listed = json.loads(trained.read(trained.remote, object_path(version)))
    files = [path for path in trained.project.root.joinpath("data").rglob("*") if path.is_file()]
    assert len(listed) == len(files)
    assert {object_path(entry["md5"]) for entry in listed} <= set(found)


def object_path(digest: str) -> str:
    """Where a DVC remote keeps the content with this md5."""
    return f"files/md5/{digest[:2]}/{digest[2:]}"


def test_another_machine_inspects_with_the_champion(trained: Trained, tmp_path: Path) -> None:
    other = Project(trained.project.root, tmp_path / "state", trained.project.env)
    source = trained.project.root / "data" / CATEGORY / "test" / "spot"
    found = other.aesc("inspect", source, "--category", CATEGORY, "--json").report
    assert found["model"] == f"models:/aesc-{CATEGORY}@champion"
    assert found["weights_sha256"] == trained.done.report["weights_sha256"]
    assert len(found["images"]) == len(list(source.iterdir()))
    assert found["counts"]["error"] == 0
    assert len(list((tmp_path / "state").rglob("weights.safetensors"))) == 1


def test_a_fresh_clone_pulls_the_data(trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(trained.project.root), str(clone))
    for key, value in trained.project.env.items():
        monkeypatch.setenv(key, value)
    settings = Settings(root=clone, home=tmp_path / "state")
    assert not settings.data.exists()
    assert pull_data(settings) == trained.done.report["data_version"]
    assert contents(settings.data) == contents(trained.project.root / "data")
    assert git(clone, "status", "--porcelain") == ""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_secret_is_nowhere(trained: Trained) -> None:
    assert SECRET_KEY not in trained.done.stdout + trained.done.stderr
    # The clone with its .dvc; the run folder, Prefect's database and caches; MLflow's database with params and tags.
    found = contents(trained.project.root.parent)
    assert {"project/.dvc/config", "mlflow.db"} <= set(found)
    assert [path for path, content in found.items() if SECRET_KEY.encode() in content] == []
    for path in trained.objects(trained.artifacts):
        assert SECRET_KEY.encode() not in trained.read(trained.artifacts, path), path
    assert (trained.project.root / ".dvc/config").read_bytes() == (ROOT / ".dvc/config").read_bytes()
    assert not (trained.project.root / ".dvc/config.local").exists()
    assert git(trained.project.root, "status", "--porcelain") == ""


def test_nothing_is_left_running(trained: Trained) -> None:
    assert servers.processes(AESC_HOME=str(trained.project.state)) == []


def test_a_missing_bucket_stops_before_training(trained: Trained) -> None:
    before = runs(trained)
    asked = ("retrain", "--category", CATEGORY, "--preset", PRESET, "--set", "training.seed=2", "--json")
    error = trained.project.aesc(*asked, code=1, AESC_ARTIFACTS="s3://no-such-bucket/models").error
    assert error["where"] == "s3://no-such-bucket/models"
    assert "there is no bucket named 'no-such-bucket'" in error["found"]
    assert f"aws s3 mb s3://no-such-bucket --endpoint-url {trained.s3.url}" in error["todo"]
    (run,) = runs(trained) - before
    assert not {"checkpoint.pt", "network", "metrics.json"} & {path.name for path in run.iterdir()}


def runs(trained: Trained) -> set[Path]:
    return set((trained.project.state / "runs" / CATEGORY).iterdir())
