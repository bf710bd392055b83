"""`aesc up`, `status`, `down`, `env` and `deploy` where there is no stack, or none can be had."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from flows.stack import _prepare
from tasks.postgres import Databases
from tasks.settings import Settings
from tests.commands import Project
from tests.repositories import ROOT
from tests.servers import free_ports


@pytest.fixture
def bare(tmp_path: Path) -> Project:
    """A project with parameters and deployments only."""
    for name in ("params.yaml", "prefect.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return Project(tmp_path, tmp_path / "state")


def test_without_a_stack_status_says_how_to_start_one(bare: Project) -> None:
    assert bare.aesc("status", "--json", code=1).report == {
        "stack": str(bare.state / "stack"),
        "running": False,
        "healthy": False,
        "database": None,
        "parts": [],
    }
    assert "aesc up" in bare.aesc("status", code=1).stdout
    assert not bare.state.exists()


def test_without_a_stack_there_is_nothing_to_stop_and_no_environment(bare: Project) -> None:
    assert bare.aesc("down", "--json").report == {"stack": str(bare.state / "stack"), "stopped": [], "strays": 0}
    assert "no stack is running" in bare.aesc("down").stdout
    assert bare.aesc("env", "--json", code=1).error["todo"] == "start one: aesc up"
    done = bare.aesc("env", code=1)
    assert done.stdout == ""  # it is evaluated by a shell


def test_up_starts_nothing_if_postgresql_is_away(bare: Project) -> None:
    (port,) = free_ports(1)
    address = f"postgresql://user:s3cret-pass@127.0.0.1:{port}"
    done = bare.aesc("up", "--json", code=1, AESC_POSTGRES=address)
    assert done.error["where"] == f"AESC_POSTGRES (127.0.0.1:{port})"
    assert "s3cret-pass" not in done.stdout + done.stderr
    assert [path.name for path in (bare.state / "stack").iterdir()] == ["lock"]


def test_up_needs_a_worker(bare: Project) -> None:
    assert "--gpu-workers" in bare.aesc("up", "--gpu-workers", "0", "--json", code=2).report["error"]["found"]


def test_deploy_needs_a_server(bare: Project) -> None:
    error = bare.aesc("deploy", "--json", code=2).error
    assert error["where"] == "PREFECT_API_URL"
    assert "aesc up" in error["todo"]


def test_deploy_says_that_the_server_is_away(bare: Project) -> None:
    (port,) = free_ports(1)
    error = bare.aesc("deploy", "--json", code=1, PREFECT_API_URL=f"http://127.0.0.1:{port}/api").error
    assert error["where"] == f"http://127.0.0.1:{port}/api"
    assert "does not answer" in error["found"]


def test_a_changed_database_is_said(bare: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(root=bare.root, home=bare.state, postgres=None)
    notes: list[str] = []
    first = _prepare(settings, None, 1, notes)
    assert _prepare(settings, first, 1, notes) == first
    assert notes == []
    other = Databases("postgresql+asyncpg://p", "postgresql://m", "PostgreSQL at host:5432")
    monkeypatch.setattr("flows.stack.postgres_databases", lambda address: other)
    changed = Settings(root=bare.root, home=bare.state, postgres=SecretStr("postgresql://user:s3cret-pass@host"))
    assert _prepare(changed, first, 1, notes).database == other.name
    assert "from sqlite to PostgreSQL at host:5432" in notes[0]
