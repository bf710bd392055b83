"""`aesc` that is killed, for good, right after the n-th call of one of its functions returns.

`python -m tests.killer tasks.acceptance:push_data 1 ingest --category widget ...`
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any


def main() -> None:
    """Patch the function, and run the command line."""
    place, count, *arguments = sys.argv[1:]
    module_name, _, path = place.partition(":")
    owner: Any = importlib.import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    left = int(count)

    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            result = function(*args, **kwargs)
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    setattr(owner, name, deadly(getattr(owner, name)))
    sys.argv = ["aesc", *arguments]
    from flows.cli import main as aesc

    aesc()


if __name__ == "__main__":
    main()
