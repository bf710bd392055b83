"""How much can be done at once on this machine's processor."""

from __future__ import annotations

import os


def cores() -> int:
    """Those that this process may use; on macOS, which does not say, all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
