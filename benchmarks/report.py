"""Timing two things in turn, and the one JSON line that every benchmark prints."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aesc.cores import cores


def alternate(ours: Callable[[], object], reference: Callable[[], object], *, rounds: int) -> tuple[float, float]:
    """Least seconds of each, run in turn so that both see the same machine; the first round is not counted.

    The least, not the mean: other work on the machine only ever adds.
    """
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(rounds + 1):
        for which, function in enumerate((ours, reference)):
            seconds[which].append(timed(function))
    return min(seconds[0][1:]), min(seconds[1][1:])


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def peak_megabytes() -> float:
    """The most memory that this process has had resident (Linux); what its parent had does not count."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def report(name: str, *, value: float, unit: str, ratio: float | None, n: int, **more: Any) -> None:
    """Print the result.

    Args:
        name: of the benchmark.
        value: what the project reaches, in `unit`.
        ratio: how many times as fast as the reference; None where there is nothing to compare with.
        n: measurements that the value is the best of.
        more: what else was measured.
    """
    line = {
        "name": name,
        "value": round(value, 4),
        "unit": unit,
        "ratio": None if ratio is None else round(ratio, 2),
        "n": n,
        **{key: round(item, 4) if isinstance(item, float) else item for key, item in more.items()},
        "machine": _processor(),
        "cores": cores(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }
    print(json.dumps(line), flush=True)


def _processor() -> str:
    """The processor's name where the system tells it, else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
