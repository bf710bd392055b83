"""Arrivals on a real S3 server: listing, copies that are checked, and what happens when the server goes away."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pytest

import tasks.arrivals
from aesc.errors import AescError
from tasks.arrival import Arrival, MovedError
from tasks.arrival_batch import Batch
from tasks.arrivals import Source, arriving_categories, open_source
from tasks.settings import Settings
from tasks.staging import ledger_of, list_arrivals, stage_arrivals
from tests import servers
from tests.repositories import make_project
from tests.servers import READER, SECRET_KEY, Server, s3_client

pytestmark = pytest.mark.integration
BUCKET = "arrivals"
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with servers.s3_server(tmp_path_factory.mktemp("arrivals"), buckets=(BUCKET,)) as server:
        yield server


@pytest.fixture
def place(s3: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty folder in the bucket, with the environment that reaches it."""
    use(s3, monkeypatch)
    return f"s3://{BUCKET}/{uuid4().hex}/widget"


def use(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in server.env.items():
        monkeypatch.setenv(key, value)


def put(server: Server, place: str, files: dict[str, bytes]) -> None:
    client, prefix = s3_client(server.env), place.partition(f"{BUCKET}/")[2]
    with ThreadPoolExecutor(16) as pool:
        list(
            pool.map(
                lambda item: client.put_object(Bucket=BUCKET, Key=f"{prefix}/{item[0]}", Body=item[1]), files.items()
            )
        )


def source_at(place: str) -> Source:
    return open_source(place, settings=Settings(), settle_seconds=0)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    settings = make_project(tmp_path / "project", images=0)
    monkeypatch.setenv("AESC_ROOT", str(settings.root))
    return Settings()


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all S3 operations that a source asks for."""
    made: list[str] = []
    connect = tasks.arrivals.connect

    def observed(settings: Settings) -> Any:
        client, key_id = connect(settings)
        client.meta.events.register("before-call.s3", lambda model, **_: made.append(model.name))
        return client, key_id

    monkeypatch.setattr(tasks.arrivals, "connect", observed)
    return made


def test_what_was_decided_on_costs_no_request_again(
    s3: Server, place: str, project: Settings, requests: list[str]
) -> None:
    put(s3, place, {f"{number:04d}.png": b"%d" % number for number in range(2010)})
    listed = list(source_at(place).listing())
    assert len(listed) == 2010
    assert requests == ["ListObjectsV2"] * 3
    ledger_of(project).record(
        ("widget", place, one.key, one.tag, "0" * 64, "accepted", "", "batch", "now") for one in listed
    )
    put(s3, place, {"0007.png": b"written anew", "new.png": b"new"})
    requests.clear()
    batch = list_arrivals.fn("widget", place, "quick", 0.0)
    assert batch is not None
    assert sorted(pd.read_parquet(Batch(batch).objects_file)["key"]) == ["0007.png", "new.png"]
    assert stage_arrivals.fn("widget", batch) == 2
    assert sorted(requests) == ["GetObject"] * 2 + ["ListObjectsV2"] * 3
    staged = Batch(batch).staged().set_index("key")
    assert staged.loc["new.png", "sha256"] == hashlib.sha256(b"new").hexdigest()
    content = (Batch(batch).files / str(staged.loc["0007.png", "file"])).read_bytes()
    assert content == b"written anew"


def test_categories_are_the_folders_below_the_source(s3: Server, place: str) -> None:
    above = place.rpartition("/")[0]
    put(s3, f"{above}/bottle", {"a.png": b"a"})
    put(s3, f"{above}/widget", {"deep/er/b.png": b"b"})
    assert arriving_categories(above, settings=Settings()) == ["bottle", "widget"]
    assert [one.key for one in source_at(f"{above}/widget").listing()] == ["deep/er/b.png"]


def test_an_upload_under_way_is_not_there_until_it_is_whole_and_its_parts_are_checked(
    s3: Server, place: str, tmp_path: Path
) -> None:
    client, key = s3_client(s3.env), f"{place.partition(f'{BUCKET}/')[2]}/large.tif"
    parts = [bytes([65 + number]) * (5 * MEGABYTE) for number in range(2)] + [b"the rest"]
    upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    done = []
    for number, part in enumerate(parts, start=1):
        assert list(source_at(place).listing()) == []
        tag = client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number, Body=part)["ETag"]
        done.append({"PartNumber": number, "ETag": tag})
    client.complete_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Parts": done})
    source = source_at(place)
    (arrival,) = source.listing()
    assert arrival.tag.endswith("-3")
    assert source.fetch(arrival, tmp_path / "copy") == hashlib.sha256(b"".join(parts)).hexdigest()


def test_an_object_that_was_written_anew_or_deleted_since_is_left_to_the_next_run(
    s3: Server, place: str, tmp_path: Path
) -> None:
    put(s3, place, {"a.png": b"first"})
    source = source_at(place)
    (arrival,) = source.listing()
    put(s3, place, {"a.png": b"other"})
    with pytest.raises(MovedError):
        source.fetch(arrival, tmp_path / "copy")
    with pytest.raises(MovedError):
        source.fetch(Arrival("gone.png", arrival.tag, 5, ""), tmp_path / "copy")


def test_a_copy_that_is_not_what_the_server_says_it_holds_is_refused(
    s3: Server, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3, place, {"a.png": b"content"})
    source = source_at(place)
    (arrival,) = source.listing()
    digest = tasks.arrivals._Copy._digest  # no server can be made to damage what it sends
    monkeypatch.setattr(tasks.arrivals._Copy, "_digest", lambda self, chunk: digest(self, chunk[::-1]))
    with pytest.raises(AescError, match="arrived here; the server holds") as caught:
        source.fetch(arrival, tmp_path / "copy")
    assert caught.value.transient


def test_a_wrong_key_is_said_without_the_secret(s3: Server, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")
    with pytest.raises(AescError) as caught:
        list(source_at(place).listing())
    text = str(caught.value)
    assert place in text
    assert "AWS_SECRET_ACCESS_KEY" in text
    assert "a-wrong-secret" not in text
    assert SECRET_KEY not in text
    assert not caught.value.transient


def test_a_key_that_may_only_read_is_enough(
    s3: Server, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3, place, {"a.png": b"content"})
    for key, value in READER.items():
        monkeypatch.setenv(key, value)
    source = source_at(place)
    (arrival,) = source.listing()
    assert source.fetch(arrival, tmp_path / "copy") == hashlib.sha256(b"content").hexdigest()


def test_a_server_that_stops_while_it_lists_and_while_it_sends_costs_only_a_repetition(
    project: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"s3://{BUCKET}/widget"
    folder = tmp_path / "s3"
    files = {f"{number:04d}.png": b"%d" % number for number in range(1100)}
    with ExitStack() as stack:
        server = stack.enter_context(servers.s3_server(folder, buckets=(BUCKET,)))
        use(server, monkeypatch)
        put(server, place, files)
        listing = source_at(place).listing()
        first = next(listing)
        stack.close()  # between two pages
        with pytest.raises(AescError, match="does not answer") as caught:
            list(listing)
        assert caught.value.transient
        with pytest.raises(AescError, match="does not answer"):
            list_arrivals.fn("widget", place, "quick", 0.0)
        assert not list(project.state.rglob("batch.json")), "half a listing opens no batch"

    with ExitStack() as stack:
        server = stack.enter_context(servers.s3_server(folder, buckets=(BUCKET,)))
        use(server, monkeypatch)
        batch = list_arrivals.fn("widget", place, "quick", 0.0)
        assert batch is not None
        stop_after(200, stack.close, monkeypatch)
        # A server that is being stopped may still answer the last requests, with its own internal error.
        with pytest.raises(AescError, match=r"does not answer|cannot answer now") as caught:
            stage_arrivals.fn("widget", batch)
        assert caught.value.transient
        copied = {path.name: path.stat().st_mtime_ns for path in Batch(batch).files.iterdir()}
        assert 150 <= len(copied) < 1100
        assert not any(name.endswith(".part") for name in copied)

    with servers.s3_server(folder, buckets=(BUCKET,)) as server:
        use(server, monkeypatch)
        assert list_arrivals.fn("widget", place, "quick", 0.0) == batch
        assert stage_arrivals.fn("widget", batch) == 1100
        staged = Batch(batch).staged()
        assert dict(zip(staged["key"], staged["sha256"], strict=True)) == {
            key: hashlib.sha256(content).hexdigest() for key, content in files.items()
        }
        kept = {name: (Batch(batch).files / name).stat().st_mtime_ns for name in copied}
        assert kept == copied, "what was whole was not fetched again"
    assert first.key == "0000.png"


def stop_after(count: int, stop: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the server when `count` objects were copied."""
    left, lock = [count], threading.Lock()
    original = tasks.staging._fetch

    def fetch(*arguments: Any) -> Any:
        with lock:
            left[0] -= 1
            if left[0] == 0:
                stop()
        return original(*arguments)

    monkeypatch.setattr(tasks.staging, "_fetch", fetch)


def test_a_server_that_stops_in_the_middle_of_an_object_leaves_no_half_copy(
    project: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"s3://{BUCKET}/widget"
    with ExitStack() as stack:
        server = stack.enter_context(servers.s3_server(tmp_path / "s3", buckets=(BUCKET,)))
        use(server, monkeypatch)
        put(server, place, {"large.png": bytes(64 * MEGABYTE)})
        batch = list_arrivals.fn("widget", place, "quick", 0.0)
        assert batch is not None
        monkeypatch.setattr(tasks.arrivals, "CHUNK", 64 * 1024)
        digest = tasks.arrivals._Copy._digest
        stopped = threading.Event()

        def slow(self: Any, chunk: bytes) -> None:
            digest(self, chunk)
            if self.size > 4 * MEGABYTE and not stopped.is_set():
                stopped.set()
                stack.close()
                time.sleep(0.5)

        monkeypatch.setattr(tasks.arrivals._Copy, "_digest", slow)
        with pytest.raises(AescError) as caught:
            stage_arrivals.fn("widget", batch)
        assert caught.value.transient
        assert not Batch(batch).staged_file.exists()
        assert [path.name for path in Batch(batch).files.iterdir() if not path.name.endswith(".part")] == []
