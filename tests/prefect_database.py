"""Prefect's database as a server leaves it at its first start, which takes ten seconds: made once, then copied."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from tests.repositories import ROOT

_KEPT = ROOT / ".pytest_cache" / f"prefect-{version('prefect')}.db"


def provide_database(home: Path) -> None:
    """Put it into `home`, the PREFECT_HOME of a server that has not started yet; one that is there stays."""
    home.mkdir(parents=True, exist_ok=True)
    if (home / "prefect.db").exists():
        return
    _KEPT.parent.mkdir(exist_ok=True)
    with FileLock(_KEPT.with_suffix(".lock")):
        if not _KEPT.exists():
            _make()
    shutil.copy(_KEPT, home / "prefect.db")


def _make() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    with tempfile.TemporaryDirectory(dir=_KEPT.parent) as scratch:
        subprocess.run(
            [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"],
            env=environment | {"PREFECT_HOME": scratch},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=300,
            check=True,
        )
        (Path(scratch) / "prefect.db").replace(_KEPT)
