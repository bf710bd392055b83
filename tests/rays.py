"""A Ray cluster of two workers, each a node of its own with one core, on this machine."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil
import pytest

from tasks.ports import free_ports
from tests.servers import clean_environment

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("prefect_ray") is None,
    reason="no Ray: pip install -c constraints.txt -e '.[cluster]'",
)
MARK = "AESC_TEST_RAY"  # an environment variable that all processes of one cluster have


@dataclass(frozen=True)
class Cluster:
    """The address, and the mark of its processes."""

    address: str
    mark: str

    def processes(self) -> list[psutil.Process]:
        """Those with the mark, and their children: a process that renames itself overwrites its environment."""
        found: set[psutil.Process] = set()
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark:
                    found |= {process, *process.children(recursive=True)}
        return list(found)

    def at_work(self, task: str) -> list[int]:
        """The process ids of workers that run a task of this name now."""
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                if " ".join(process.cmdline()).startswith(f"ray::{task}"):
                    found.append(process.pid)
        return found


@contextmanager
def ray_cluster() -> Iterator[Cluster]:
    """Two nodes; all their processes are ended by their ids."""
    ports = free_ports(2)
    cluster = Cluster(f"127.0.0.1:{ports[0]}", uuid.uuid4().hex)
    env = clean_environment() | {MARK: cluster.mark, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
    ray = os.path.join(os.path.dirname(sys.executable), "ray")
    common = ["--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000", "--disable-usage-stats"]
    # The paths of Unix sockets must be short.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        try:
            head = [f"--port={ports[0]}", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"]
            _run([ray, "start", "--head", *head, "--include-dashboard=false", *common], env)
            _run([ray, "start", f"--address={cluster.address}", "--node-ip-address=127.0.0.1", *common], env)
            yield cluster
        finally:
            _end(cluster)


def _run(command: list[str], env: dict[str, str]) -> None:
    done = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _end(cluster: Cluster) -> None:
    end = time.monotonic() + 20
    while (left := cluster.processes()) and time.monotonic() < end:
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=5)
