"""Great Expectations in a process of its own. This process may have imported it already, so another one asks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from aesc.bands import Band
from tasks.arrival_suite import build_arrival_suite
from tasks.expectations import meta_of
from tasks.suite_run import run_suite_here
from tests.repositories import ROOT

SUITE = {"category": "widget", "size": "8 x 8", "kind": "8-bit rgb", "max_megapixels": 1.0}
BRIGHT = Band(low=0.25, high=0.75, n=40)
TABLE = {
    "file": ["a.png", "b.png", "c.png"],
    "fault": [None, None, "truncated"],
    "size": ["8 x 8", "9 x 8", None],
    "kind": ["8-bit rgb", "8-bit rgb", None],
    "judged_mean": [0.5, 0.5, None],
}
ASK = """
import json, sys
from functools import partial
import pandas as pd
from aesc.bands import Band
from tasks import suite_worker
from tasks.arrival_suite import build_arrival_suite
from tasks.expectations import run_suite

asked = json.loads(sys.argv[1])
suite_worker.start_suite_worker()
worker = suite_worker._worker._waiting
suite_worker.start_suite_worker()
assert suite_worker._worker._waiting is worker
if asked["kill"]:
    worker.kill()
    worker.wait()
build = partial(build_arrival_suite, bands={asked["statistic"]: Band(**asked["bright"])}, **asked["suite"])
try:
    outcome = run_suite(pd.DataFrame(asked["table"]), build, name="widget", index="file")
except RuntimeError as error:
    outcome = str(error)
suite_worker.start_suite_worker()
assert suite_worker._worker._waiting is None, "one worker is enough for a process"
print(json.dumps({"outcome": outcome, "imported": "great_expectations" in sys.modules, "code": worker.returncode}))
"""


def ask(table: dict[str, Any], *, statistic: str = "mean", kill: bool = False) -> dict[str, Any]:
    asked = {"table": table, "suite": SUITE, "statistic": statistic, "bright": asdict(BRIGHT), "kill": kill}
    found = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(asked)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(found.stdout)
    return answer


def judged(outcome: dict[str, Any]) -> list[tuple[Any, ...]]:
    """By expectation: whether it was met, and the files that do not meet it."""
    return [
        (meta_of(each)["name"], each["success"], each["result"].get("unexpected_index_list"))
        for each in outcome["results"]
    ]


def test_the_other_process_finds_what_this_one_finds() -> None:
    answer = ask(TABLE)
    here = run_suite_here(
        pd.DataFrame(TABLE),
        lambda: build_arrival_suite(bands={"mean": BRIGHT}, **SUITE),
        name="widget",
        index="file",
    )
    here["results"].sort(key=lambda each: int(meta_of(each)["order"]))
    assert judged(answer["outcome"]) == judged(here)
    assert [name for name, met, _ in judged(here) if not met] == ["unreadable", "other_size"]
    assert (answer["imported"], answer["code"]) == (False, 0)


def test_what_is_raised_there_is_raised_here() -> None:
    answer = ask(TABLE, statistic="nonsense")
    assert answer == {"outcome": "KeyError: 'nonsense'", "imported": False, "code": 0}


def test_an_expectation_that_could_not_be_evaluated_there_is_no_verdict() -> None:
    answer = ask({column: values for column, values in TABLE.items() if column != "kind"})
    assert "other_format could not be evaluated" in answer["outcome"]
    assert (answer["imported"], answer["code"]) == (False, 0)


def test_a_process_that_was_killed_is_done_without() -> None:
    answer = ask(TABLE, kill=True)
    assert [name for name, met, _ in judged(answer["outcome"]) if not met] == ["unreadable", "other_size"]
    assert (answer["imported"], answer["code"]) == (True, -signal.SIGKILL)


STARTED = """
import os, signal
from tasks import suite_worker
suite_worker.start_suite_worker()
pid = suite_worker._worker._waiting.pid
print(pid, os.getpgid(pid), os.getpgid(0), flush=True)
"""


def started(tmp_path: Path, *, then: str) -> int:
    """The worker of a process that ended by `then` and never asked it."""
    asking = subprocess.run(
        [sys.executable, "-c", STARTED + then],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    pid, group, own_group = map(int, asking.stdout.split())
    assert group != own_group, "Ctrl-C would be for both"
    return pid


def test_a_process_that_ends_before_it_asks_takes_it_along(tmp_path: Path) -> None:
    pid = started(tmp_path, then="raise SystemExit(1)")
    assert not psutil.pid_exists(pid), "whoever reads the errors of both waits for an import that nobody needs"


def test_it_outlives_a_process_that_was_killed_by_its_import_only(tmp_path: Path) -> None:
    pid = started(tmp_path, then="os.kill(os.getpid(), signal.SIGKILL)")
    try:
        psutil.Process(pid).wait(timeout=60)
    except psutil.NoSuchProcess:
        pass
    except psutil.TimeoutExpired:
        os.kill(pid, signal.SIGKILL)
        raise
