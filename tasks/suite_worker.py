"""Great Expectations in a process of its own, started ahead.

It takes three seconds to import, and one process imports one thing at a time. A flow that will validate starts this
worker first, and imports what it needs itself meanwhile. It judges one table and ends.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations import ExpectationSuite

LOGGER = logging.getLogger("aesc")


class _Worker:
    """The one worker of this process. What is judged after it was asked is judged here: by then little is left to
    import meanwhile, and one import here serves every later table.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = False
        self._waiting: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._lock:
            if self._started:
                return
            self._started = True
            # The code that runs here comes first, whatever else of that name is installed or lies in the working
            # directory, which -P leaves out.
            places = [str(Path(__file__).parents[1]), *(path for path in sys.path if path)]
            self._waiting = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
                start_new_session=True,  # Ctrl-C is not for it
            )
            atexit.register(_end, self._waiting)  # if this process fails before it asks, nobody waits for an import

    def take(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            worker, self._waiting = self._waiting, None
        return worker


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.wait()


_worker = _Worker()


def start_suite_worker() -> None:
    """Start the worker, unless there was one or this process has imported Great Expectations itself."""
    if "great_expectations" not in sys.modules:
        _worker.start()


def run_suite_in_worker(
    table: pd.DataFrame, build: Callable[[], ExpectationSuite], *, name: str, index: str
) -> dict[str, Any] | None:
    """`tasks.suite_run.run_suite_here` by the worker; None where none waits, or it ended without an answer.

    Args:
        build: can be pickled.

    Raises:
        RuntimeError: what was raised there.
    """
    worker = _worker.take()
    if worker is None:
        return None
    answer, _ = worker.communicate(pickle.dumps((table, build, name, index)))
    if worker.returncode != 0:
        LOGGER.warning("the process that imports Great Expectations ended with %d: done without", worker.returncode)
        return None
    outcome: dict[str, Any] | RuntimeError = pickle.loads(answer)  # noqa: S301 (our own process)
    if isinstance(outcome, RuntimeError):
        raise outcome
    return outcome


def _serve() -> None:
    # Standard output is for the answer alone: whatever else is printed goes where errors go.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    gc.disable()  # a process of seconds: what it would look through are modules

    # What suites are made of and with.
    import great_expectations.expectations  # noqa: F401

    import tasks.arrival_suite
    import tasks.validation_suite  # noqa: F401

    asked = sys.stdin.buffer.read()
    if asked:
        with suppress(BrokenPipeError):  # who asked is gone
            pickle.dump(_answer(asked), answers)
            answers.close()
    sys.stderr.flush()
    os._exit(0)  # without looking through the modules once more


def _answer(asked: bytes) -> dict[str, Any] | RuntimeError:
    from tasks.suite_run import run_suite_here

    try:
        table, build, name, index = pickle.loads(asked)  # noqa: S301 (of the process that started this one)
        return run_suite_here(table, build, name=name, index=index)
    except Exception as error:
        raised = RuntimeError(f"{type(error).__name__}: {error}")  # which can be pickled
        raised.add_note(traceback.format_exc())
        return raised


if __name__ == "__main__":
    _serve()
