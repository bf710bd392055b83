"""Ctrl-C that cannot be lost.

Python raises KeyboardInterrupt wherever it happens to be. In a finaliser or a weak-reference callback it prints
"Exception ignored" and goes on (https://docs.python.org/3/library/sys.html#sys.unraisablehook), and a long loop never
hears of it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def certain_interrupts() -> Iterator[Callable[[], None]]:
    """Remember Ctrl-C; the value raises the KeyboardInterrupt again if one got lost. Call it in each round of a loop.

    Outside the main thread, and where somebody handles SIGINT in a way of their own, nothing is changed.
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

    if ours:
        signal.signal(signal.SIGINT, remember)
    try:
        yield check
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
