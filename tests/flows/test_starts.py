"""A flow run whose process is killed again and again is not started for ever."""

from __future__ import annotations

import pytest

from aesc.errors import AescError
from flows.retrain import MOST_STARTS, retrain


@pytest.mark.parametrize("starts", [MOST_STARTS + 1, 100])
def test_a_start_too_many_fails_before_anything_else(starts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__RUN_COUNT", str(starts))
    with pytest.raises(AescError, match=f"killed {starts - 1} times") as caught:
        retrain.fn("no such category")
    assert not caught.value.transient
    assert "memory" in caught.value.todo
