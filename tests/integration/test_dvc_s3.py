"""The DVC remote on a real S3 server, named by the environment alone."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pandas as pd
import pytest

from aesc.errors import AescError
from tasks.replay_scratch import place_data
from tasks.settings import Settings
from tasks.storage import check_s3
from tasks.versioning import pin_data_version, pull_data, track_data
from tests.repositories import ROOT, commit_pointer, git, make_project, write
from tests.servers import READER, SECRET_KEY, Server, free_ports, s3_client

pytestmark = pytest.mark.integration


@pytest.fixture
def project(
    s3_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> Iterator[Settings]:
    """A project with committed data, whose remote is a fresh prefix in the bucket dvc; no secret gets into its log."""
    for key, value in s3_server.env.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("AESC_DVC_REMOTE", f"s3://dvc/{uuid4().hex}")
    make_project(tmp_path / "project")
    settings = Settings(root=tmp_path / "project")
    track_data(settings)
    commit_pointer(settings)
    with caplog.at_level(logging.INFO):
        yield settings
    assert SECRET_KEY not in caplog.text


def keys(server: Server, url: str | None) -> list[str]:
    bucket, _, prefix = str(url).removeprefix("s3://").partition("/")
    found = s3_client(server.env).list_objects_v2(Bucket=bucket, Prefix=prefix)
    return [item["Key"] for item in found.get("Contents", [])]


def refusal(settings: Settings) -> AescError:
    with pytest.raises(AescError) as caught:
        pin_data_version(settings.data, "bottle", "", settings=settings)
    for secret in (SECRET_KEY, READER["AWS_SECRET_ACCESS_KEY"], "not-the-secret"):
        assert secret not in str(caught.value)
    return caught.value


def test_push_and_pull(project: Settings, s3_server: Server) -> None:
    version = pin_data_version(project.data, "bottle", "", settings=project)
    assert version.pushed
    assert version.remote == project.dvc_remote
    assert len(keys(s3_server, project.dvc_remote)) == 3 + 1
    assert not (project.state / "dvc-remote").exists()
    assert pin_data_version(project.data, "bottle", "", settings=project) == version

    shutil.rmtree(project.data)
    shutil.rmtree(project.root / ".dvc" / "cache")
    shutil.rmtree(project.state)
    assert pull_data(project) == version.version
    assert (project.data / "bottle/train/good/002.png").read_text() == "image 2"

    assert (project.root / ".dvc" / "config").read_bytes() == (ROOT / ".dvc" / "config").read_bytes()
    assert not (project.root / ".dvc" / "config.local").exists()
    assert git(project.root, "status", "--porcelain") == ""
    files = [path for path in project.root.rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET_KEY.encode() in path.read_bytes()]


def test_a_replay_fetches_from_the_remote_into_its_scratch_folder(
    project: Settings, s3_server: Server, tmp_path: Path
) -> None:
    version = pin_data_version(project.data, "bottle", "", settings=project)
    names = [f"bottle/train/good/{index:03d}.png" for index in range(3)]
    record = SimpleNamespace(
        category="bottle",
        data_version=version.version,
        data_version_kind="dvc",
        manifest=pd.DataFrame({"path": names}),
    )
    (project.data / names[0]).write_text("changed since", encoding="utf-8")
    cache = project.root / ".dvc" / "cache"
    shutil.rmtree(cache)
    place_data(record, tmp_path / "scratch", settings=project)  # type: ignore[arg-type]
    assert [(tmp_path / "scratch" / name).read_text() for name in names] == ["image 0", "image 1", "image 2"]
    assert not [path for path in cache.rglob("*") if path.is_file()]

    lost = next(key for key in keys(s3_server, project.dvc_remote) if not key.endswith(".dir"))
    s3_client(s3_server.env).delete_object(Bucket="dvc", Key=lost)
    with pytest.raises(AescError, match="holds 1 of its files, the first bottle/train/good/"):
        place_data(record, tmp_path / "again", settings=project)  # type: ignore[arg-type]
    assert not list((tmp_path / "again").rglob("*.png"))


def test_every_version_is_pushed(project: Settings) -> None:
    first = pin_data_version(project.data, "bottle", "", settings=project)
    write(project.data / "bottle/train/good/new.png", "new")
    track_data(project)
    commit_pointer(project)
    assert pin_data_version(project.data, "bottle", "", settings=project).version != first.version
    git(project.root, "checkout", "--quiet", "HEAD~1")
    shutil.rmtree(project.data)
    shutil.rmtree(project.root / ".dvc" / "cache")
    assert pull_data(project) == first.version
    assert not (project.data / "bottle/train/good/new.png").exists()


def test_an_emptied_bucket_is_filled_again(project: Settings, s3_server: Server) -> None:
    pin_data_version(project.data, "bottle", "", settings=project)
    before = keys(s3_server, project.dvc_remote)
    for key in before:
        s3_client(s3_server.env).delete_object(Bucket="dvc", Key=key)
    pin_data_version(project.data, "bottle", "", settings=project)
    assert keys(s3_server, project.dvc_remote) == before


def test_the_check_leaves_nothing_behind(project: Settings, s3_server: Server) -> None:
    check_s3([project.dvc_remote, "s3://mlflow", project.dvc_remote, "/a/folder"], settings=project)
    assert keys(s3_server, project.dvc_remote) == []
    assert not [key for key in keys(s3_server, "s3://mlflow") if "probe" in key]


def test_wrong_secret(project: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    error = refusal(project)
    assert "rejects the secret key" in error.found
    assert "'tkey'" in error.found
    assert not error.transient


def test_unknown_key(project: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobodyatall")
    error = refusal(project)
    assert "does not know the access key" in error.found
    assert not error.transient


def test_no_permission_to_write(project: Settings, monkeypatch: pytest.MonkeyPatch, s3_server: Server) -> None:
    for key, value in READER.items():
        monkeypatch.setenv(key, value)
    error = refusal(project)
    assert "does not let the access key ending in 'rkey' write there" in error.found
    assert s3_server.url in error.found


def test_missing_bucket(project: Settings, monkeypatch: pytest.MonkeyPatch, s3_server: Server) -> None:
    monkeypatch.setenv("AESC_DVC_REMOTE", "s3://no-such-bucket/prefix")
    error = refusal(Settings(root=project.root))
    assert "no bucket named 'no-such-bucket'" in error.found
    assert f"aws s3 mb s3://no-such-bucket --endpoint-url {s3_server.url}" in error.todo
    names = {bucket["Name"] for bucket in s3_client(s3_server.env).list_buckets()["Buckets"]}
    assert "no-such-bucket" not in names


def test_endpoint_down(project: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    settings = Settings(root=project.root)
    error = refusal(settings)
    assert f"{endpoint} does not answer" in error.found
    assert error.transient
    shutil.rmtree(project.data)
    shutil.rmtree(project.root / ".dvc" / "cache")
    with pytest.raises(AescError, match="does not answer") as caught:
        pull_data(settings)
    assert caught.value.transient
