"""The start-up hook of aesc_prefect_plugin.py, called by Prefect.

What it does before `prefect deploy` is in tests/integration/test_deployments.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.settings import Settings
from tasks.stack import PREFECT, SQLITE, choose_stack, launches, sqlite_databases
from tests.repositories import ROOT

_UVICORN = ["uvicorn", "--factory", "prefect.server.api.server:create_app", "--port", "1"]
_IMPORT = """
import sys
sys.argv = {words!r}
import prefect, gc, threading
print(gc.isenabled(), any(thread.name == "garbage" for thread in threading.enumerate()))
"""

# One connection has the lock, which the main thread is to give up; another waits for it in a thread; and what the other
# one has read lies in a cycle.
_LOCKED = """
import gc, sqlite3, sys, threading, time
import aesc_prefect_plugin as plugin

plugin.COLLECT_AFTER, plugin.LOOK_EVERY = 500, 0.01
holder, waiter = (
    sqlite3.connect(sys.argv[1], isolation_level=None, check_same_thread=False, timeout=float(sys.argv[2]))
    for _ in range(2)
)
gc.disable()
holder.execute("create table numbers (one)")
holder.execute("begin immediate")
cycle = [waiter.execute("select 1")]
cycle.append(cycle)
del cycle
thread = threading.Thread(target=waiter.execute, args=("begin immediate",))
thread.start()
time.sleep(0.2)
if sys.argv[3] == "beside":
    plugin.collect_garbage_beside()
else:
    gc.enable()
    gc.set_threshold(100, 1, 1)
began = time.monotonic()
kept = []
for _ in range(10):
    kept.append([[] for _ in range(200)])
    time.sleep(0.02)
waited = time.monotonic() - began
holder.execute("commit")
thread.join()
for _ in range(200):
    if not any(isinstance(found, sqlite3.Cursor) for found in gc.get_objects()):
        break
    kept.append([[] for _ in range(200)])
    time.sleep(0.02)
else:
    sys.exit("the cursor was never collected")
print(waited)
"""


def run(script: str, *arguments: str, cwd: Path = ROOT, **more: str) -> str:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")} | more
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, text=True, timeout=120, check=True
    ).stdout.strip()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (_UVICORN, "False True"),
        (["/bin/prefect", "server", "start", "--host", "127.0.0.1"], "False True"),
        (["/bin/prefect", "server", "stop"], "True False"),
        (["/bin/prefect", "flow-run", "execute"], "True False"),
        (["/bin/mlflow", "server", "start"], "True False"),
    ],
)
def test_a_server_looks_for_garbage_beside_its_work_and_nothing_else_does(words: list[str], said: str) -> None:
    assert run(_IMPORT.format(words=words)) == said


def test_the_stack_s_server_does_too_though_it_starts_in_a_folder_of_its_own(tmp_path: Path) -> None:
    stack = choose_stack(Settings(root=tmp_path, state=tmp_path / "state"), gpu_workers=1, database=SQLITE)
    server = launches(stack, sqlite_databases(stack.folder), [])[PREFECT]
    script = _IMPORT.format(words=list(server.command))
    assert run(script, cwd=stack.folder, **server.env) == "False True"
    assert run(script, cwd=stack.folder) == "True False"


@pytest.mark.parametrize(("collector", "least", "most"), [("own", 2.5, 10.0), ("beside", 0.0, 1.5)])
def test_garbage_does_not_keep_a_lock_from_being_given_up(
    tmp_path: Path, collector: str, least: float, most: float
) -> None:
    """Python's own collector does: the one that is to commit waits until the other one's patience ends."""
    assert least < float(run(_LOCKED, str(tmp_path / "database"), "3", collector)) < most
