"""What all commands share: options, one JSON object on stdout, errors that a person can read, exit codes."""

from __future__ import annotations

import functools
import getpass
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from aesc.errors import AescError

if TYPE_CHECKING:
    from tasks.settings import Settings

FAILED, WRONG_USE = 1, 2
RUN_AGAIN = "run the same command again: what was finished is kept, and it goes on from there"

Category = Annotated[str, typer.Option("--category", "-c", help="Product category: a folder below the data folder.")]
AnyCategory = Annotated[
    str | None, typer.Option("--category", "-c", help="Product category; all of them if it is left out.")
]
DataFolder = Annotated[
    Path | None, typer.Option("--data", help="Folder of categories in MVTec layout [default: the project's data]")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, everything else on stderr.")]
ParamsFile = Annotated[
    Path | None, typer.Option("--params", help="Parameter file [default: the project's params.yaml]")
]
Preset = Annotated[str, typer.Option("--preset", "-p", help="Preset of the parameter file.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Override one parameter, e.g. training.epochs=5; repeatable.")
]

By = Annotated[str | None, typer.Option(help="Who decides [default: the user's name]")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; it is recorded.")]

Command = TypeVar("Command", bound=Callable[..., Any])


class Report:
    """What a command says: `value` as JSON, or `text` for a person; `ok` decides between exit codes 0 and 1."""

    def __init__(self, value: dict[str, Any], text: str, *, ok: bool = True) -> None:
        self.value = value
        self.text = text
        self.ok = ok


def quiet_settings() -> Settings:
    """The project's settings, for a command that runs a flow: it says itself what happens, so Prefect is quiet."""
    from tasks.settings import Settings, prepare_environment

    settings = Settings()
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    # On a busy machine the embedded server's sqlite is locked at times. It tries again and nothing is lost, but it
    # prints a traceback among what the command says (github.com/PrefectHQ/prefect/issues/18934).
    os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
    prepare_environment(settings)
    return settings


def user() -> str:
    """The name of who types the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def command(function: Command) -> Command:
    """Make a function that returns a `Report` a command with proper output, errors and exit codes."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        as_json = bool(kwargs.get("as_json"))
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        logging.getLogger("aesc").setLevel(logging.INFO)
        with _stdout_for_the_report() as stdout:
            try:
                report = function(*args, **kwargs)
                code = 0 if report.ok else FAILED
                value, text = report.value, report.text
            except AescError as error:
                code = WRONG_USE if error.usage else FAILED
                value, text = {"error": error.to_dict()}, ""
                typer.echo(f"error: {error}", err=True)
            except (KeyboardInterrupt, Exception) as error:
                code = FAILED
                if _was_interrupted(error):
                    fault = AescError("aesc", "interrupted", todo=RUN_AGAIN)
                else:
                    fault = AescError("aesc", f"unexpected: {error!r}", todo=f"see {_keep_traceback()}")
                value, text = {"error": fault.to_dict()}, ""
                typer.echo(f"error: {fault}", err=True)
            if as_json:
                stdout.write(json.dumps(value, allow_nan=False) + "\n")
            elif text:
                stdout.write(text.rstrip("\n") + "\n")
            stdout.flush()
        _leave(code)

    return run  # type: ignore[return-value]


@contextmanager
def _stdout_for_the_report() -> Iterator[Any]:
    """Keep stdout for the report: what libraries and their child processes print goes to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as stdout:
            yield stdout
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _was_interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C started it: that stops Prefect's embedded server too, and the flow then fails to reach it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, KeyboardInterrupt):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _leave(code: int) -> None:
    raise typer.Exit(code)


def _keep_traceback() -> str:
    """Write the traceback to a file; its path, or the traceback itself where that fails."""
    text = traceback.format_exc()
    try:
        from tasks.settings import Settings

        path = Settings().state / "last_error.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except Exception:
        return text
    return str(path)
