"""The check of S3 before training: what it says without a server, and with broken ones."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from aesc.errors import AescError
from tasks.settings import Settings
from tasks.storage import check_s3, check_stores, parse_s3, redact

SECRET = "very/secret+key"


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for key in os.environ:
        if key.startswith("AWS_"):
            monkeypatch.delenv(key)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for key in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(key, str(tmp_path / "no-such-file"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE1234")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@contextmanager
def answering(status: int, **headers: str) -> Iterator[str]:
    """The address of a server that gives this answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key.replace("_", "-"), value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_PUT = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def refusal(endpoint: str | None, url: str = "s3://bucket/prefix") -> AescError:
    with pytest.raises(AescError) as caught:
        check_s3([url], settings=Settings(s3_endpoint=endpoint))
    assert SECRET not in str(caught.value)
    assert "AKIAEXAMPLE1234" not in str(caught.value)
    return caught.value


def test_other_addresses_are_ignored() -> None:
    check_s3(["/some/folder", "file:///tmp/x", "http://127.0.0.1:1/", "", None], settings=Settings())


@pytest.mark.parametrize(
    ("url", "bucket", "prefix", "clean"),
    [
        ("s3://dvc", "dvc", "", "s3://dvc"),
        ("s3://dvc/", "dvc", "", "s3://dvc"),
        ("s3://my.bucket-1/a/b/", "my.bucket-1", "a/b", "s3://my.bucket-1/a/b"),
    ],
)
def test_parse(url: str, bucket: str, prefix: str, clean: str) -> None:
    location = parse_s3(url)
    assert (location.bucket, location.prefix, location.url) == (bucket, prefix, clean)


@pytest.mark.parametrize("url", ["s3://", "s3:///prefix", "s3://a b/c", f"s3://user:{SECRET}@bucket/x"])
def test_addresses_without_a_bucket(url: str) -> None:
    error = refusal("http://127.0.0.1:1", url)
    assert "no valid bucket name" in error.found
    assert "s3://bucket/prefix" in error.allowed


def test_nothing_listens_there() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{probe.getsockname()[1]}"
    error = refusal(endpoint)
    assert error.where == "s3://bucket/prefix"
    assert f"{endpoint} does not answer" in error.found
    assert "AWS_ENDPOINT_URL" in error.todo
    assert error.transient


def test_a_silent_server_costs_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.storage._READ_SECONDS", 0.5)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        start = time.monotonic()
        error = refusal(f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert time.monotonic() - start < 30
    assert "does not answer" in error.found
    assert error.transient


def test_a_busy_server_is_worth_another_try() -> None:
    with answering(503) as endpoint:
        error = refusal(endpoint)
    assert "cannot answer now" in error.found
    assert error.transient


def test_a_bucket_of_another_region() -> None:
    with answering(301, x_amz_bucket_region="eu-north-1") as endpoint:
        error = refusal(endpoint)
    assert "eu-north-1" in error.found
    assert "AWS_DEFAULT_REGION" in error.todo


def test_forbidden_names_the_end_of_the_key_only() -> None:
    with answering(403) as endpoint:
        error = refusal(endpoint)
    assert "'1234'" in error.found
    assert not error.transient


def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    error = refusal("http://127.0.0.1:1")
    assert "no AWS credentials" in error.found
    assert "AWS_ACCESS_KEY_ID" in error.todo


def test_half_of_the_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "AWS_SECRET_ACCESS_KEY" in str(refusal("http://127.0.0.1:1"))


@pytest.mark.parametrize("endpoint", ["localhost:9000", "not a url"])
def test_an_endpoint_that_is_none(endpoint: str) -> None:
    error = refusal(endpoint)
    assert endpoint in str(error)
    assert "AWS_ENDPOINT_URL" in str(error)


def test_unknown_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "nobody" in str(refusal("http://127.0.0.1:1"))


def test_redact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    text = f"PUT https://me:{SECRET}@host/x with {SECRET} and token"
    assert redact(text) == "PUT https://host/x with *** and ***"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "")
    assert redact("plain") == "plain"


def test_the_task_retries_faults_of_the_connection_only() -> None:
    from prefect.states import Failed

    def is_retried(error: Exception) -> bool:
        return bool(check_stores.retry_condition_fn(check_stores, None, Failed(data=error)))

    assert check_stores.retries == 2
    with answering(503) as endpoint:
        assert is_retried(refusal(endpoint))
    with answering(403) as endpoint:
        assert not is_retried(refusal(endpoint))
