"""The task that judges a batch of arrivals, with a real registry: is the gate open, and why."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from aesc.errors import AescError
from tasks.arrival_batch import Batch, new_batch, write_table
from tasks.judging import judge_arrivals, open_gate
from tasks.settings import Settings
from tests.arrivals import own_environment, staged_table
from tests.categories import draw_category
from tests.repositories import ROOT

CATEGORY = "widget"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    own_environment(monkeypatch, tmp_path)
    return Settings()


def staged_batch(settings: Settings, arrivals: dict[str, bytes]) -> Batch:
    state = {"source": "inbox", "preset": "quick"}
    batch = new_batch(settings, CATEGORY, objects=pd.DataFrame({"key": list(arrivals)}), state=state)
    write_table(batch.staged_file, staged_table(arrivals, batch.files))
    return batch


def test_without_a_champion_the_gate_is_open_and_says_why_and_a_batch_is_judged_once(
    project: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw_category(project.data, CATEGORY, train=4, test_good=0, defects={})
    fresh = draw_category(tmp_path / "fresh", train=1, test_good=0, defects={}, seed=5)
    (image,) = fresh.rglob("*.png")
    batch = staged_batch(project, {"a.png": image.read_bytes(), "b.png": image.read_bytes()})
    arguments = (CATEGORY, str(project.data), str(batch.path), str(ROOT / "params.yaml"))
    with caplog.at_level("INFO", logger="aesc"):
        assert judge_arrivals.fn(*arguments) == 1
    assert batch.state["gate"] == "open: widget has no champion yet, so nothing tells a defect from a clean image"
    assert batch.state["gate"] in caplog.text
    assert list(batch.verdicts()["verdict"]) == ["accepted", "quarantined"]
    decided = batch.verdicts_file.stat().st_mtime_ns
    shutil.rmtree(batch.files)  # judging again would need them
    assert judge_arrivals.fn(*arguments) == 1
    assert batch.verdicts_file.stat().st_mtime_ns == decided


def test_a_registry_that_is_away_does_not_open_the_gate(project: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(AescError, match="not reachable") as caught:
        open_gate(CATEGORY, Settings())
    assert caught.value.transient
    assert judge_arrivals.retry_condition_fn is not None  # and judging is tried again
    assert os.environ["MLFLOW_TRACKING_URI"] in caught.value.where
