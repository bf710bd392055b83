"""Real servers as fixtures, started when the first test asks for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import servers
from tests.servers import Server

StartWorker = Callable[..., Server]
_PLACES = {"AESC_ROOT", "AESC_HOME", "AESC_ARTIFACTS", "AESC_DVC_REMOTE"}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the user's environment says about the outside tools is no concern of a test."""
    for key in os.environ:
        if key in _PLACES or key.startswith(("AWS_", "DVC_", "GIT_", "MLFLOW_", "PREFECT_")):
            monkeypatch.delenv(key)
    for key in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(key, str(tmp_path / "no-such-file"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """SeaweedFS with the buckets mlflow and dvc; its `env` is the AWS environment."""
    with servers.s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """MLflow on sqlite, with artifacts in a folder."""
    with servers.mlflow_server(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Prefect's server; its `env` holds PREFECT_API_URL and PREFECT_HOME."""
    with servers.prefect_server(tmp_path_factory.mktemp("prefect")) as server:
        yield server


@pytest.fixture
def start_prefect_worker(tmp_path: Path) -> Iterator[StartWorker]:
    """A function that starts a process worker: start(pool, env, cwd=...); all are stopped when the test ends."""
    with ExitStack() as stack:

        def start(pool: str, env: Mapping[str, str], *, cwd: Path | None = None) -> Server:
            return stack.enter_context(servers.prefect_worker(tmp_path, pool, env, cwd=cwd))

        yield start
