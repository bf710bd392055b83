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

    Python's own report of a lost one, a traceback, is not printed: the interrupt is not ignored. Outside the main
    thread, and where somebody handles SIGINT, or what Python drops, in a way of their own, nothing is changed.
    """
    lost = threading.Event()
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )

    def remember(number: int, frame: FrameType | None) -> None:
        lost.set()
        signal.default_int_handler(number, frame)

    def check() -> None:
        if lost.is_set():
            raise KeyboardInterrupt

    def report(dropped: UnraisableHookArgs) -> None:
        if not (lost.is_set() and dropped.exc_type is KeyboardInterrupt):
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
