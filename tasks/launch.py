"""Becomes one part of the local stack: reads a private file, sets the environment that it names, executes its command.

The supervisor starts `python launch.py FILE`. So secrets stand in no command line and in no configuration of the
supervisor, each part gets its own only, and a part that is restarted gets them again. Only the standard library is
imported: every part waits for this.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def environment(spec: Mapping[str, Any], inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of a part: `inherited` without what points tools elsewhere, defaults, and what the part sets."""
    forgotten: Sequence[str] = spec["forget"]
    kept = {key: value for key, value in inherited.items() if not key.startswith(tuple(forgotten))}
    return {**spec["defaults"], **kept, **spec["env"]}


def main() -> None:
    """Read the file that the command line names and become what it describes."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    # A script starts what it sends to the background with SIGINT ignored, and Prefect's worker then never stops.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.chdir(spec["cwd"])
    os.execve(spec["command"][0], spec["command"], environment(spec, os.environ))  # noqa: S606 - this is its purpose


if __name__ == "__main__":
    main()
