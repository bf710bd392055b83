"""What `mlflow models serve` achieves at 256 x 256 pixels: limits generous enough for a busy machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.serving import measure, served

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_requests_are_quick_none_is_lost_and_memory_is_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "set by the benchmark, and put back after the test")
    with served(tmp_path / "served") as server:
        found = measure(server, requests=1000)
    assert found["residual_p50_ms"] < 400  # 100 on two cores of its own
    assert found["all_passes_p50_ms"] < 4000  # 1000
    assert (found["requests"], found["lost"], found["wrong"]) == (1000, 0, 0)
    assert found["memory_at_the_end_mb"] < 1.05 * found["memory_after_warm_up_mb"]
    for name, (status, answer) in found["bad_images"].items():
        assert status == 400, name
        assert "image 0: " in answer["message"]
