"""The `aesc` command as a person runs it: a process of its own, in a project of its own."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.repositories import ROOT
from tests.servers import Server

PATIENCE = 400  # seconds for one command, on a busy machine
_FOREIGN = ("AESC_", "AWS_", "DVC_", "GIT_", "MLFLOW_", "PREFECT_")
# A process started in the background of a script ignores SIGINT, and so would everything started from it.
_WITH_SIGINT = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        assert self.stdout.count("\n") == 1, f"not one line: {self.stdout!r}"
        value = json.loads(self.stdout)
        assert isinstance(value, dict)
        return value

    @property
    def error(self) -> dict[str, str]:
        """The error in the report, whose text a person sees on stderr."""
        (error,) = self.report.values()
        assert set(error) == {"where", "found", "allowed", "todo"}
        for text in error.values():
            assert text in self.stderr
        return error


@dataclass(frozen=True)
class Project:
    """A folder to run commands in; `state` stands for .aesc."""

    root: Path
    state: Path
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def tracking_uri(self) -> str:
        return self.env.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.state / 'mlflow.db'}"

    def on(self, server: Server) -> Project:
        """The same, whose commands use this Prefect server instead of starting one each, which takes seconds."""
        return replace(self, env={**self.env, **server.env})

    def copy_registry(self, other: Project) -> None:
        """Give `other` the same runs and versions, whole even while another test registers one."""
        with (
            closing(sqlite3.connect(self.state / "mlflow.db")) as found,
            closing(sqlite3.connect(other.state / "mlflow.db")) as made,
        ):
            found.backup(made)

    def environment(self, **more: str) -> dict[str, str]:
        """Nobody's environment: no settings of outside tools, an empty home folder."""
        own = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
        return own | {"AESC_HOME": str(self.state), "PYTHONPATH": str(ROOT), **self.env, **more}

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have this process work in the project until the test ends."""
        monkeypatch.setenv("AESC_ROOT", str(self.root))
        monkeypatch.setenv("AESC_HOME", str(self.state))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", self.tracking_uri)

    def aesc(self, *arguments: object, code: int = 0, wrapper: tuple[str, ...] = (), **env: str) -> Done:
        """Run `aesc ARGUMENTS` (behind `wrapper`), which must end with `code` and show no traceback."""
        command = [*wrapper, sys.executable, "-m", "flows.cli", *map(str, arguments)]
        found = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment(**env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return self._checked(Done(found.returncode, found.stdout, found.stderr), code)

    def interrupted(self, *arguments: object, at: Callable[[], object]) -> Done:
        """Start `aesc ARGUMENTS` and press Ctrl-C as soon as `at()` is true; it must end with 1 and no traceback."""
        command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
        process = subprocess.Popen(
            [sys.executable, "-c", _WITH_SIGINT, *command],
            cwd=self.root,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            end = time.monotonic() + PATIENCE
            while not at():
                assert process.poll() is None, f"ended too early: {process.communicate()}"
                assert time.monotonic() < end, "never came to where it is to be interrupted"
                time.sleep(0.005)
            os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
            stdout, stderr = process.communicate(timeout=PATIENCE)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        return self._checked(Done(process.returncode, stdout, stderr), 1)

    def killed(self, place: str, calls: int, *arguments: object) -> None:
        """Run `aesc ARGUMENTS`, killed for good after call number `calls` of a function; see tests/killer.py."""
        command = [sys.executable, "-m", "tests.killer", place, str(calls), *map(str, arguments)]
        with tempfile.TemporaryFile("w+") as output:  # a pipe would be held open by what outlives the process
            process = subprocess.Popen(
                command,
                cwd=self.root,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(PATIENCE)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # Prefect's embedded server
            output.seek(0)
            assert code == -signal.SIGKILL, f"{place} was not reached:\n{output.read()}"

    @staticmethod
    def _checked(done: Done, code: int) -> Done:
        assert done.code == code, f"exit code {done.code}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done


def at_once(projects: Sequence[Project], *arguments: object) -> list[Done]:
    """Run `aesc ARGUMENTS` in all of these projects at the same time; each must end with 0."""
    with ThreadPoolExecutor(len(projects)) as pool:
        return list(pool.map(lambda project: project.aesc(*arguments), projects))
