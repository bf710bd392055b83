"""A flow run whose process is killed again and again is not started for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mlflow import MlflowClient

from aesc.errors import AescError
from flows.retrain import retrain
from flows.retrain_all import retrain_all
from flows.starts import MOST_STARTS
from tasks.registry import finished_by
from tests.commands import Project


@pytest.mark.parametrize("starts", [MOST_STARTS + 1, 100])
def test_a_start_too_many_fails_before_anything_else(starts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__RUN_COUNT", str(starts))
    for begin in (lambda: retrain.fn("no such category"), lambda: asyncio.run(retrain_all.fn(["no such category"]))):
        with pytest.raises(AescError, match=f"killed {starts - 1} times") as caught:
            begin()
        assert not caught.value.transient
        assert "memory" in caught.value.todo


def test_a_run_that_had_ended_when_it_was_put_back_makes_no_second_version(
    project: Project, trained: dict[str, Any], client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = client.get_model_version("aesc-widget", trained["model_version"])
    project.enter(monkeypatch)
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", version.tags["prefect_flow_run_id"])
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__RUN_COUNT", "2")
    done = retrain.fn("widget", preset="tiny")
    assert (done["model_version"], done["weights_sha256"]) == (trained["model_version"], trained["weights_sha256"])
    client.update_run(version.run_id, status="RUNNING")  # killed before its end
    try:
        assert finished_by("widget", version.tags["prefect_flow_run_id"]) is None
    finally:
        client.update_run(version.run_id, status="FINISHED")
    assert finished_by("widget", "00000000-0000-0000-0000-000000000000") is None
