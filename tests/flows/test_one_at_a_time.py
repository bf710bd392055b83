"""The limit that keeps runs of several machines apart, on a real Prefect server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import one_at_a_time as limits
from flows.one_at_a_time import ensure_limit, one_at_a_time
from tests.prefects import prefect_client
from tests.servers import Server

pytestmark = pytest.mark.integration


@pytest.fixture
def server(prefect_server: Server) -> Iterator[Server]:
    with temporary_settings({PREFECT_API_URL: prefect_server.url}):
        yield prefect_server


def test_a_limit_that_another_run_makes_at_the_same_moment_is_the_limit(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = SyncPrefectClient.create_global_concurrency_limit
    answers: list[str] = []

    def late(client: SyncPrefectClient, wanted: Any) -> Any:
        """Somebody else is faster, between looking and making."""
        create(client, wanted)
        try:
            return create(client, wanted)
        except Exception as error:
            answers.append(type(error).__name__)
            raise

    monkeypatch.setattr(SyncPrefectClient, "create_global_concurrency_limit", late)
    ensure_limit("made-twice")
    assert answers == ["ObjectAlreadyExists"], "the server has refused the second one"
    with prefect_client(server) as client:
        assert client.read_global_concurrency_limit_by_name("made-twice").limit == limits.AT_A_TIME


def test_the_second_run_waits_for_the_first(server: Server) -> None:
    inside, leave = threading.Event(), threading.Event()
    order: list[str] = []

    def first() -> None:
        with one_at_a_time("queue"):
            inside.set()
            assert leave.wait(60)
            order.append("first ends")

    def second() -> None:
        with one_at_a_time("queue"):
            order.append("second begins")

    # Prefect's settings, of which the server is one, are in the context of the thread.
    one, two = (threading.Thread(target=copy_context().run, args=(run,)) for run in (first, second))
    one.start()
    assert inside.wait(60)
    two.start()
    two.join(3)
    assert order == [], "the second is inside"
    leave.set()
    one.join(60)
    two.join(60)
    assert order == ["first ends", "second begins"]


def test_without_a_server_of_the_users_nobody_is_asked() -> None:
    with temporary_settings({PREFECT_API_URL: None}), one_at_a_time("nobody"):
        pass
