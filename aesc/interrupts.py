"""Ctrl-C that cannot be lost.

Python raises KeyboardInterrupt wherever it happens to be. In a finaliser or a weak-reference callback it prints
"Exception ignored" and goes on (https://docs.python.org/3/library/sys.html#sys.unraisablehook), and a long loop never
hears of it.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


@contextmanager
def certain_interrupts() -> Iterator[Callable[[], None]]:
    """Remember Ctrl-C; the value raises the KeyboardInterrupt again if one got lost. Call it in each round of a loop.

    One that got lost after the last round is raised at the end. Python's own report of it, a traceback, is not
    printed: the interrupt is not ignored. Outside the main thread, and where somebody handles SIGINT, or what Python
    drops, in a way of their own, nothing is changed.
    """
    lost, unsaid = threading.Event(), threading.Event()
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )

    def remember(number: int, frame: FrameType | None) -> None:
        lost.set()
        signal.default_int_handler(number, frame)

    def check() -> None:
        if lost.is_set():
            unsaid.clear()
            raise KeyboardInterrupt

    def report(dropped: UnraisableHookArgs) -> None:
        if lost.is_set() and dropped.exc_type is KeyboardInterrupt:
            unsaid.set()
        else:
            sys.__unraisablehook__(dropped)

    reports = ours and sys.unraisablehook is sys.__unraisablehook__
    if ours:
        signal.signal(signal.SIGINT, remember)
    if reports:
        sys.unraisablehook = report
    try:
        yield check
    finally:
        if reports:
            sys.unraisablehook = sys.__unraisablehook__
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if unsaid.is_set():
        raise KeyboardInterrupt
