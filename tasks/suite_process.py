"""Great Expectations in a process of its own, started ahead.

It takes three seconds to import, and one process imports one thing at a time. A flow that will validate starts this
process first, and imports what it needs itself meanwhile. A process judges one table and ends.
"""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations import ExpectationSuite


class _Ahead:
    """The process that was started and has not been asked yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """The process, started unless one waits already."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", __name__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
                    start_new_session=True,  # Ctrl-C is not for it: it ends with the end of its input
                )
            return self._process

    def take(self) -> subprocess.Popen[bytes] | None:
        """The process, for the one who asks it."""
        with self._lock:
            process, self._process = self._process, None
        return process


_ahead = _Ahead()


def start_suite_process() -> None:
    """Start a process that imports Great Expectations, unless one waits already or this process has imported it."""
    if "great_expectations" not in sys.modules:
        _ahead.start()


def outcome_ahead(
    table: pd.DataFrame, build: Callable[[], ExpectationSuite], *, name: str, index: str
) -> dict[str, Any] | None:
    """`tasks.suite_run.suite_outcome` by the process that was started; None where none was, or it was killed.

    Args:
        build: can be pickled.

    Raises:
        RuntimeError: what was raised there.
    """
    process = _ahead.take()
    if process is None:
        return None
    answer, _ = process.communicate(pickle.dumps((table, build, name, index)))
    if process.returncode != 0:
        return None
    outcome: dict[str, Any] | str = pickle.loads(answer)  # noqa: S301 (our own process)
    if isinstance(outcome, str):
        raise RuntimeError(outcome)
    return outcome


def _serve() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever is printed is not an answer
    gc.disable()  # a process of seconds: what it would look through are modules

    # What a suite is made of and with.
    import great_expectations.expectations  # noqa: F401

    import tasks.arrival_suite
    import tasks.validation_suite  # noqa: F401
    from tasks.suite_run import suite_outcome

    asked = sys.stdin.buffer.read()
    if asked:
        table, build, name, index = pickle.loads(asked)  # noqa: S301 (of the process that started this one)
        try:
            answer: dict[str, Any] | str = suite_outcome(table, build, name=name, index=index)
        except Exception:
            answer = traceback.format_exc()
        pickle.dump(answer, answers)
        answers.close()
    sys.stderr.flush()
    os._exit(0)  # without looking through the modules once more


if __name__ == "__main__":
    _serve()
