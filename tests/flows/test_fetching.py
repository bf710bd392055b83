"""A registered detector is fetched once, whole, by however many want it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from aesc.detector import Detector
from tasks import registry
from tests.commands import Project

AT_ONCE = 6


@pytest.fixture
def fetch(
    project: Project, trained: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Path]:
    """Fetches the champion into the test's own folder, and loads it."""
    project.enter(monkeypatch)

    def fetched() -> Path:
        found = registry.download_detector("widget", trained["model_version"], tmp_path / "detectors")
        assert Detector.load(found, device="cpu").operating_point.weights_sha256 == trained["weights_sha256"]
        return found

    return fetched


def test_processes_that_fetch_the_same_at_once_never_read_half_of_it(
    fetch: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that all find nothing, and are told apart by nothing but their scratch folders, as processes are."""
    barrier, usual, interval = threading.Barrier(AT_ONCE), registry._is_whole, sys.getswitchinterval()
    waited = threading.local()

    def together(detector: Path) -> bool:
        whole = usual(detector)
        if not hasattr(waited, "once"):
            waited.once = True
            barrier.wait(60)
        return whole

    monkeypatch.setattr(registry, "_is_whole", together)
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = [one.result() for one in [pool.submit(fetch) for _ in range(AT_ONCE)]]
    finally:
        sys.setswitchinterval(interval)
    assert len(set(found)) == 1
    assert [path.name for path in (tmp_path / "detectors").iterdir()] == [found[0].parent.name]


def test_half_of_it_that_was_left_is_replaced(fetch: Callable[[], Path]) -> None:
    whole = fetch()
    (whole / "operating_point.json").unlink()
    (whole / "weights.safetensors").write_bytes(b"half")
    assert fetch() == whole
