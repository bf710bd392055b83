"""Great Expectations in a process of its own. This process has imported it, perhaps, so others ask here."""

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
import pytest

from aesc.bands import Band
from tasks.arrival_suite import build_arrival_suite
from tasks.expectations import meta_of
from tasks.suite_run import suite_outcome
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
from tasks import suite_process
from tasks.arrival_suite import build_arrival_suite
from tasks.expectations import run_suite

asked = json.loads(sys.argv[1])
suite_process.start_suite_process()
first = suite_process._ahead.start()
if asked["kill"]:
    first.kill()
    first.wait()
build = partial(build_arrival_suite, bands={"mean": Band(**asked["bright"])}, **asked["suite"])
try:
    outcome = run_suite(pd.DataFrame(asked["table"]), build, name="widget", index="file")
except RuntimeError as error:
    outcome = str(error)
print(json.dumps({"outcome": outcome, "imported": "great_expectations" in sys.modules, "code": first.returncode}))
"""


def ask(table: dict[str, Any], *, kill: bool = False) -> dict[str, Any]:
    asked = {"table": table, "suite": SUITE, "bright": asdict(BRIGHT), "kill": kill}
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
    here = suite_outcome(
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
    answer = ask({column: values for column, values in TABLE.items() if column != "kind"})
    assert "other_format could not be evaluated" in answer["outcome"]


def test_a_process_that_was_killed_is_done_without() -> None:
    answer = ask(TABLE, kill=True)
    assert [name for name, met, _ in judged(answer["outcome"]) if not met] == ["unreadable", "other_size"]
    assert (answer["imported"], answer["code"]) == (True, -signal.SIGKILL)


def test_it_ends_with_a_process_that_was_killed_and_ctrl_c_is_not_for_it(tmp_path: Path) -> None:
    code = """
import os, signal
from tasks import suite_process
suite_process.start_suite_process()
pid = suite_process._ahead.start().pid
print(pid, os.getpgid(pid), os.getpgid(0), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    asking = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    assert asking.stdout is not None
    pid, group, own_group = map(int, asking.stdout.readline().split())
    asking.wait()
    asking.stdout.close()
    assert group != own_group
    try:
        psutil.Process(pid).wait(timeout=60)
    except psutil.NoSuchProcess:
        pass
    except psutil.TimeoutExpired:
        os.kill(pid, signal.SIGKILL)
        pytest.fail("it waits for a process that is dead")
