"""Prefect's embedded server, out of reach of Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from prefect import get_client
from prefect.settings import PREFECT_API_URL


def start_embedded_server() -> None:
    """Start the server that a flow would start by itself; nothing happens where the user has one of their own.

    A terminal sends Ctrl-C to the whole process group. A server that stops with the flow cannot be told that the flow
    was interrupted, and the flow would try to tell it for a minute and then fail for want of a connection.
    """
    if not PREFECT_API_URL.value():
        with _without_interrupts(), get_client(sync_client=True):
            pass


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back; processes started inside never get it, because they inherit the mask."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
