"""PostgreSQL for the servers of the local stack, named by AESC_POSTGRES; without it each keeps a sqlite file."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from aesc.errors import AescError

if TYPE_CHECKING:
    from sqlalchemy import URL

VARIABLE = "AESC_POSTGRES"
PREFECT, MLFLOW = "aesc_prefect", "aesc_mlflow"
_ALLOWED = "postgresql://user:password@host:port, with a % escape for each of : / @ % in the password"
_MAINTENANCE = "postgres"  # the database that one connects to in order to make others
_CONNECT_SECONDS = 10


class Databases(NamedTuple):
    """Where the servers keep what they know: SQLAlchemy URLs, which hold the password, and a name that does not."""

    prefect: str
    mlflow: str
    name: str


def postgres_databases(address: str) -> Databases:
    """The databases of both servers at `address`, made if they are missing.

    Raises:
        AescError: not an address of PostgreSQL, it cannot be reached, or the user may not make databases. The password
            is in none of the messages.
    """
    url = _parse(address)
    for name in (PREFECT, MLFLOW):
        _make_database(url, name)
    return Databases(
        prefect=_render(_for_asyncpg(url), "postgresql+asyncpg", PREFECT),
        mlflow=_render(url, "postgresql", MLFLOW),
        name=f"PostgreSQL at {_shown(url)}",
    )


def postgres_name(address: str) -> str:
    """What `Databases.name` will be, without asking the server."""
    return f"PostgreSQL at {_shown(_parse(address))}"


def _parse(address: str) -> URL:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        raise AescError(VARIABLE, "not an address of a database", allowed=_ALLOWED) from None
    if url.drivername not in ("postgresql", "postgres") or not url.host:
        raise AescError(VARIABLE, f"not an address of PostgreSQL, but of {url.drivername}", allowed=_ALLOWED)
    return url


def _shown(url: URL) -> str:
    return f"{url.host}:{url.port or 5432}"


def _render(url: URL, drivername: str, database: str) -> str:
    return url.set(drivername=drivername, database=database).render_as_string(hide_password=False)


def _for_asyncpg(url: URL) -> URL:
    """libpq calls it sslmode, asyncpg ssl."""
    query = {("ssl" if key == "sslmode" else key): value for key, value in url.query.items()}
    return url.set(query=query)


def _make_database(url: URL, name: str) -> None:
    import psycopg2
    from psycopg2 import errors, sql

    try:
        _connect(url, name).close()
        return
    except psycopg2.OperationalError as error:
        refusal = _refusal(url, error)  # It is missing, closed to this user, or nothing answers at all.
    try:
        with closing(_connect(url, url.database or _MAINTENANCE)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
                if cursor.fetchone():
                    raise refusal
                cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    except (errors.DuplicateDatabase, errors.UniqueViolation):
        pass  # Somebody else was as quick. Whether it can be used, the next line finds out.
    except errors.InsufficientPrivilege:
        raise AescError(
            f"{VARIABLE} ({_shown(url)})",
            f"the user {url.username} may not make the database {name}",
            todo=f"let an administrator make it: createdb --owner={url.username} {name}",
        ) from None
    except psycopg2.Error as error:
        raise _refusal(url, error) from None
    try:
        _connect(url, name).close()
    except psycopg2.Error as error:
        raise _refusal(url, error) from None


def _connect(url: URL, database: str) -> Any:
    import psycopg2

    return psycopg2.connect(_render(url, "postgresql", database), connect_timeout=_CONNECT_SECONDS)


def _refusal(url: URL, error: Exception) -> AescError:
    said = " ".join(str(error).split())
    if url.password:
        said = said.replace(str(url.password), "***")
    return AescError(
        f"{VARIABLE} ({_shown(url)})",
        f"PostgreSQL cannot be used: {said}",
        allowed=_ALLOWED,
        todo="start it, or correct the variable",
    )
