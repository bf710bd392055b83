"""The start-up hook of aesc_prefect_plugin.py, called by Prefect.

What it does before `prefect deploy` is in tests/integration/test_deployments.py.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest

import aesc_prefect_plugin
from tests.repositories import ROOT

_IMPORT = "import sys; sys.argv[1:] = {words!r}; import prefect; import gc; print(*gc.get_threshold())"


@pytest.mark.parametrize(
    ("words", "after"),
    [
        (["--factory", "prefect.server.api.server:create_app", "--port", "1"], aesc_prefect_plugin.COLLECT_AFTER),
        (["flow-run", "execute"], gc.get_threshold()[0]),
    ],
)
def test_a_server_looks_for_garbage_seldom_and_nothing_else_does(words: list[str], after: int) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    command = [sys.executable, "-c", _IMPORT.format(words=words)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout.split()[0]) == after
