"""Prefect's embedded server, out of reach of Ctrl-C."""

from __future__ import annotations

import gc
import importlib
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from filelock import FileLock
from prefect import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_HOME

USUAL = ("mlflow.pyfunc", "aesc.detector")  # needed by nearly every flow, and slow to import


def start_embedded_server(*, meanwhile: Sequence[str] = ()) -> None:
    """Start the server that a flow would start by itself; nothing happens where the user has one of their own.

    `meanwhile` names modules that the flow will need beside the usual ones, the first needed first: they are imported
    in the background, then the usual ones, which costs nothing while this process waits for its server.

    A terminal sends Ctrl-C to the whole process group. A server that stops with the flow cannot be told that the flow
    was interrupted, and the flow would try to tell it for a minute and then fail for want of a connection.

    Commands that are typed at once start their servers one after the other: two that bring the same new database up to
    date at the same time fail.
    """
    imports = threading.Thread(target=_import_all, args=((*meanwhile, *USUAL),), daemon=True)
    if PREFECT_API_URL.value():
        imports.start()
        return
    # First what the client imports to start the server: two threads that import hold each other up.
    importlib.import_module("prefect.server.api.server")
    with _without_interrupts():  # which the thread inherits: Ctrl-C is for the main one
        imports.start()
    home = PREFECT_HOME.value()
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "server-start.lock"), _without_interrupts(), get_client(sync_client=True):
        pass


def _import_all(names: Sequence[str]) -> None:
    collected = gc.isenabled()
    gc.disable()  # modules are objects that stay: looking for garbage among them is a tenth of their import
    try:
        for name in names:
            with suppress(Exception):  # whoever needs it imports it again, and then says what is wrong
                importlib.import_module(name)
    finally:
        if collected:
            gc.enable()


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
