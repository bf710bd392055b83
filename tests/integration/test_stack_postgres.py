"""The stack on a real PostgreSQL: both servers use it, and its password is seen nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest

from aesc.errors import AescError
from tasks.postgres import MLFLOW, PREFECT, postgres_databases
from tests import servers
from tests.clones import make_clone
from tests.commands import Done, Project
from tests.servers import POSTGRES_PASSWORD, Server

pytestmark = pytest.mark.integration

ESCAPED = "p%40ss%3Aw%2Frd%251"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with servers.postgres_server(tmp_path_factory.mktemp("postgres")) as server:
        yield server


def ask(server: Server, database: str, question: str) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(f"{server.url}/{database}")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(question)
            return cursor.fetchall() if cursor.description else []


@dataclass
class Life:
    """What was seen of one stack on PostgreSQL."""

    project: Project
    up: Done
    refused: Done
    written: dict[str, bytes]
    command_lines: list[str]
    left: list[str]


@pytest.fixture(scope="module")
def life(postgres: Server, tmp_path_factory: pytest.TempPathFactory) -> Life:
    clone = make_clone(tmp_path_factory.mktemp("stack") / "project")
    project = Project(clone, clone / ".aesc", {"OMP_NUM_THREADS": "1"})
    stack = project.state / "stack"
    try:
        up = project.aesc("up", "--json", **postgres.env)
        other = postgres.env["AESC_POSTGRES"].replace("127.0.0.1", "localhost")
        refused = project.aesc("up", "--json", code=1, AESC_POSTGRES=other)
        written = {str(path.relative_to(stack)): path.read_bytes() for path in text_files(stack)}
        command_lines = servers.processes(AESC_STACK=str(stack))
    finally:
        project.aesc("down")
    left = [str(path.relative_to(stack)) for path in text_files(stack) if ESCAPED.encode() in path.read_bytes()]
    return Life(project, up, refused, written, command_lines, left)


def text_files(stack: Path) -> list[Path]:
    return [path for path in stack.rglob("*") if path.is_file() and path.relative_to(stack).parts[0] != "s3"]


def test_both_servers_keep_their_knowledge_in_postgresql(life: Life, postgres: Server) -> None:
    report = life.up.report
    assert report["healthy"]
    assert report["database"] == f"PostgreSQL at {postgres.url.rpartition('@')[2]}"
    assert ask(postgres, PREFECT, "select count(*) from work_pool") == [(2,)]
    assert ask(postgres, MLFLOW, "select name from experiments") == [("Default",)]
    assert not [name for name in life.written if ".db" in name]


def test_the_password_is_in_private_files_only_and_only_while_the_stack_runs(life: Life) -> None:
    secrets = [POSTGRES_PASSWORD.encode(), ESCAPED.encode()]
    holders = {name for name, content in life.written.items() if any(secret in content for secret in secrets)}
    assert holders == {"parts/mlflow.json", "parts/prefect.json"}
    assert {"logs/mlflow.log", "logs/prefect.log", "supervisord.conf", "stack.json"} <= set(life.written)
    assert not [line for line in life.command_lines if any(secret.decode() in line for secret in secrets)]
    assert len(life.command_lines) > 5
    for done in (life.up, life.refused):
        assert not [secret for secret in secrets if secret.decode() in done.stdout + done.stderr]
    assert life.left == []


def test_a_running_stack_does_not_change_its_database_silently(life: Life) -> None:
    error = life.refused.error
    assert error["where"] == "AESC_POSTGRES"
    assert "not PostgreSQL at localhost" in error["found"]
    assert "aesc down" in error["todo"]


def test_databases_are_made_once(postgres: Server) -> None:
    first = postgres_databases(postgres.url)
    assert postgres_databases(postgres.url + "/postgres") == first
    names = {name for (name,) in ask(postgres, "postgres", "select datname from pg_database")}
    assert {PREFECT, MLFLOW} <= names


def test_a_wrong_password_is_said_without_showing_it(postgres: Server) -> None:
    with pytest.raises(AescError, match="password authentication failed") as caught:
        postgres_databases(postgres.url.replace(ESCAPED, "not-the-password"))
    assert "not-the-password" not in str(caught.value)


def test_a_user_who_may_not_is_told_what_to_ask_for(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    postgres_databases(postgres.url)
    ask(postgres, "postgres", "create role guest login password 'guest-secret'")
    ask(postgres, "postgres", f"revoke connect on database {PREFECT} from public")
    address = postgres.url.replace(f"owner:{ESCAPED}", "guest:guest-secret")
    with pytest.raises(AescError, match="permission denied for database") as closed:
        postgres_databases(address)
    monkeypatch.setattr("tasks.postgres.PREFECT", "aesc_new")
    with pytest.raises(AescError, match="guest may not make the database aesc_new") as missing:
        postgres_databases(address)
    assert missing.value.todo.endswith("createdb --owner=guest aesc_new")
    assert "guest-secret" not in str(closed.value) + str(missing.value)
