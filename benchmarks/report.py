"""Timing two things in turn, and the one JSON line that every benchmark prints."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable

import torch


def alternate(ours: Callable[[], object], reference: Callable[[], object], *, rounds: int) -> tuple[float, float]:
    """Median seconds of each, run in turn so that both see the same machine; the first round is not counted."""
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(rounds + 1):
        for which, function in enumerate((ours, reference)):
            began = time.perf_counter()
            function()
            seconds[which].append(time.perf_counter() - began)
    return statistics.median(seconds[0][1:]), statistics.median(seconds[1][1:])


def report(name: str, *, value: float, unit: str, ratio: float, n: int) -> None:
    """Print the result."""
    line = {
        "name": name,
        "value": round(value, 3),
        "unit": unit,
        "ratio": round(ratio, 3),
        "n": n,
        "machine": platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    print(json.dumps(line), flush=True)
