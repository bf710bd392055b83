"""Addresses of PostgreSQL: what is accepted, what the servers get, and that no message shows the password."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url

from aesc.errors import AescError
from tasks import postgres
from tasks.postgres import postgres_databases, postgres_name
from tests.servers import free_ports

PASSWORD = "s3cret-pass"


@pytest.fixture
def _unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_make_database", lambda url, name: None)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        (f"mysql://user:{PASSWORD}@host", "but of mysql"),
        (f"user:{PASSWORD}@host", "not an address"),
        (f"postgresql://user:{PASSWORD}@host:port", "not an address"),
        ("postgresql:///name", "not an address"),
        ("", "not an address"),
    ],
)
def test_what_is_no_address_of_postgresql_is_refused(address: str, found: str) -> None:
    with pytest.raises(AescError, match=found) as caught:
        postgres_databases(address)
    assert caught.value.where == "AESC_POSTGRES"
    assert PASSWORD not in str(caught.value)


@pytest.mark.usefixtures("_unasked")
@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_each_server_gets_its_own_database_and_driver(scheme: str) -> None:
    found = postgres_databases(f"{scheme}://user:p%40ss@host:5433/other?sslmode=require")
    assert found.prefect == "postgresql+asyncpg://user:p%40ss@host:5433/aesc_prefect?ssl=require"
    assert found.mlflow == "postgresql://user:p%40ss@host:5433/aesc_mlflow?sslmode=require"
    assert make_url(found.prefect).password == "p@ss"
    assert found.name == postgres_name(f"{scheme}://user@host:5433") == "PostgreSQL at host:5433"


def test_a_server_that_does_not_answer_is_said_without_the_password() -> None:
    (port,) = free_ports(1)
    with pytest.raises(AescError, match="refused") as caught:
        postgres_databases(f"postgresql://user:{PASSWORD}@127.0.0.1:{port}")
    assert f"127.0.0.1:{port}" in caught.value.where
    assert PASSWORD not in str(caught.value)
