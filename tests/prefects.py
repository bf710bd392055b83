"""Prefect's command line and API, as tests of deployments use them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.servers import Server, clean_environment, executable

T = TypeVar("T")


def prefect_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment in which a test runs Prefect's command line."""
    path = os.pathsep.join([str(executable("python").parent), os.environ["PATH"]])
    return clean_environment() | {"PATH": path, "COLUMNS": "200", **env}


def prefect(env: Mapping[str, str], folder: Path, *arguments: str, log: Path | None = None) -> str:
    """Run the Prefect CLI, with nobody to answer a question; what it printed."""
    done = subprocess.run(
        [str(executable("prefect")), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=prefect_environment(env),
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + (log.read_text(encoding="utf-8") if log else "")
    return done.stdout


@contextmanager
def prefect_client(server: Server) -> Iterator[Any]:
    """A client of `server`, whatever this process's own settings are."""
    from prefect import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as client:
        yield client


def asked_for(client: Any, *, flow: str | None = None) -> list[Any]:
    """The flow runs that a person or an event asked for, not those that a schedule has in store."""
    flows = {found.id: found.name for found in client.read_flows()}
    runs = [run for run in client.read_flow_runs(limit=200) if not run.auto_scheduled]
    return [run for run in runs if flow is None or flows[run.flow_id] == flow]


def wait_for(what: str, found: Callable[[], T | None], *, timeout: float, log: Path | None = None) -> T:
    """What `found` returns, as soon as it is something."""
    end = time.monotonic() + timeout
    while not (value := found()):
        assert time.monotonic() < end, f"no {what} within {timeout:.0f} s\n{log.read_text() if log else ''}"
        time.sleep(0.5)
    return value
