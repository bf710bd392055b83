"""Shards on a real Ray cluster of two workers: the results of threads, and a killed worker's shard is done again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.inspection_folder import SHARD, InspectionFolder
from tests.commands import Project
from tests.rays import Cluster, needs_ray, ray_cluster
from tests.stations import draw_arrivals

pytestmark = [pytest.mark.integration, pytest.mark.slow, needs_ray]
SHARDS = 6
FILES = ("verdicts.csv", "verdicts.parquet")


@pytest.fixture(scope="module")
def shift(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shift")
    draw_arrivals(folder, clean=SHARDS * SHARD - 6, spotted=6, seed=31)
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ray_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def by_threads(project: Project, trained: dict[str, Any], shift: Path, tmp_path_factory: Any) -> Path:
    out: Path = tmp_path_factory.mktemp("threads") / "out"
    project.aesc("inspect", shift, "--category", "widget", "--out", out, "--json")
    return out


def by_ray(project: Project, cluster: Cluster, shift: Path, out: Path) -> dict[str, Any]:
    env = {"AESC_TASK_RUNNER": "ray", "AESC_RAY_ADDRESS": cluster.address}
    return project.aesc("inspect", shift, "--category", "widget", "--out", out, "--json", **env).report


def test_a_cluster_comes_to_what_threads_come_to(
    project: Project, cluster: Cluster, by_threads: Path, shift: Path, tmp_path: Path
) -> None:
    report = by_ray(project, cluster, shift, tmp_path / "out")
    assert sum(report["counts"].values()) == SHARDS * SHARD
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (by_threads / name).read_bytes()


def test_a_killed_worker_s_shard_is_done_again(
    project: Project, cluster: Cluster, by_threads: Path, shift: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    killed: list[int] = []
    over = threading.Event()

    def kill_one() -> None:
        """As soon as a shard is finished, the worker of another that is not."""
        while not over.is_set() and not killed:
            folder = InspectionFolder(out)
            if folder.begun and len(folder.missing()) < SHARDS:
                for pid in cluster.at_work("inspect_shard"):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    break
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        by_ray(project, cluster, shift, out)
    finally:
        over.set()
        killer.join()
    assert len(killed) == 1, "no worker was at work when one was to be killed"
    for name in FILES:
        assert (out / name).read_bytes() == (by_threads / name).read_bytes()


def test_a_cluster_that_is_away_is_said(project: Project, trained: dict[str, Any], shift: Path, tmp_path: Path) -> None:
    env = {"AESC_TASK_RUNNER": "ray", "AESC_RAY_ADDRESS": "127.0.0.1:9"}
    error = project.aesc("inspect", shift, "-c", "widget", "--out", tmp_path / "out", "--json", code=1, **env).error
    assert error["where"] == "Ray at 127.0.0.1:9"
    assert "AESC_RAY_ADDRESS" in error["todo"]
