"""The local stack as a whole: start it, look at it, stop it."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from logging import getLogger
from typing import Any

from filelock import FileLock, Timeout

from aesc.errors import AescError
from flows.deploying import deploy, make_work_pools
from tasks import stack as parts
from tasks.postgres import Databases, postgres_databases, postgres_name
from tasks.settings import Settings, prepare_environment
from tasks.stack import MLFLOW, PREFECT, SERVERS, Stack, choose_stack, find_gpus, find_stack, stack_folder
from tasks.stack_health import problem
from tasks.supervision import (
    Process,
    is_supervised,
    processes,
    start_parts,
    start_supervisor,
    stop_stack,
    stop_strays,
    tail,
)

PATIENCE = 180.0  # seconds that a part may take until it works, on a busy machine
_LOCK_SECONDS = 5
_MOST_ENDS = 3  # a part whose process ended so often while it was waited for will not work by waiting longer
_NOT_RUNNING = "has no process"
_log = getLogger("aesc")


def start(settings: Settings, *, gpu_workers: int | None = None, patience: float = PATIENCE) -> dict[str, Any]:
    """Start what does not run of the stack, wait until every part works, and deploy; what runs stays.

    Args:
        settings: where the project and its state are.
        gpu_workers: how many workers the pool `gpu` gets; one for each GPU if it is None, or one without a GPU.
        patience: seconds that a part may take until it works.

    Raises:
        AescError: something is not installed, PostgreSQL cannot be used, a part does not come to work, or the stack
            that runs is another one than is asked for.
    """
    parts.require_tools()
    with _alone(settings):
        found = find_stack(settings)
        notes: list[str] = []
        if found and is_supervised(found):
            _refuse_another(found, settings, gpu_workers)
            stack = found
        else:
            stack = _prepare(settings, found, gpu_workers, notes)
            start_supervisor(stack)
        for note in notes:
            _log.info(note)
        # What is imported from here on finds the stack, and not what the shell may point to.
        _enter(stack, settings)
        _bring_up(stack, SERVERS, patience)
        make_work_pools(settings)
        started = start_parts(stack, stack.workers)
        deployed = deploy(settings)
        _wait(stack, stack.workers, patience, started=started)
        return status(settings) | {"deployed": deployed, "notes": notes}


def status(settings: Settings) -> dict[str, Any]:
    """What each part does, asked now."""
    stack = find_stack(settings)
    value: dict[str, Any] = {
        "stack": str(stack_folder(settings)),
        "running": False,
        "healthy": False,
        "database": None,
        "parts": [],
    }
    told = processes(stack) if stack else {}
    if stack and told:
        found = [_part(stack, name, told.get(name)) for name in stack.names]
        healthy = all(part["healthy"] for part in found)
        value |= {"running": True, "healthy": healthy, "database": stack.database, "parts": found}
    return value


def stop(settings: Settings) -> dict[str, Any]:
    """Stop everything; data, ports and keys stay for the next start."""
    stack = find_stack(settings)
    stopped: list[str] = []
    strays = 0
    if stack:
        with _alone(settings):
            _log.info("stopping the workers, then the servers ...")
            stopped, strays = stop_stack(stack)
            parts.forget_launches(stack)
    return {"stack": str(stack_folder(settings)), "stopped": stopped, "strays": strays}


def running_stack(settings: Settings) -> Stack:
    """The stack that runs here.

    Raises:
        AescError: there is none.
    """
    stack = find_stack(settings)
    if stack is None or not is_supervised(stack):
        raise AescError(stack_folder(settings), "no stack is running here", todo="start one: aesc up")
    return stack


def _prepare(settings: Settings, found: Stack | None, gpu_workers: int | None, notes: list[str]) -> Stack:
    """Choose ports and write everything that the parts need."""
    if found and (strays := stop_strays(found)):
        notes.append(f"{strays} processes of a stack whose supervisor was killed are stopped")
    gpus = find_gpus()
    # Its address is asked for before anything is written or started.
    databases = _databases(settings)
    stack = choose_stack(settings, gpu_workers=gpu_workers or len(gpus) or 1, database=databases.name)
    if found:
        if found.database != stack.database:
            notes.append(
                f"the database changes from {found.database} to {stack.database}: "
                "what the servers knew stays there, and is not seen here"
            )
        moved = [name for name in ("s3.port", MLFLOW, PREFECT) if found.ports[name] != stack.ports[name]]
        if moved:
            notes.append("others took ports of this stack, so addresses changed: evaluate `aesc env` again")
    parts.write_launches(stack, settings, parts.launches(stack, databases, gpus))
    return stack


def _databases(settings: Settings) -> Databases:
    if settings.postgres is None or not settings.postgres.get_secret_value():
        return parts.sqlite_databases(stack_folder(settings))
    return postgres_databases(settings.postgres.get_secret_value())


def _refuse_another(stack: Stack, settings: Settings, gpu_workers: int | None) -> None:
    """A wish that the running stack does not fulfil must not go unheard."""
    asked = settings.postgres.get_secret_value() if settings.postgres else ""
    wishes = {
        "AESC_POSTGRES": (stack.database, postgres_name(asked) if asked else stack.database),
        "--gpu-workers": (len(stack.workers) - 1, gpu_workers or len(stack.workers) - 1),
    }
    for where, (has, wished) in wishes.items():
        if has != wished:
            raise AescError(where, f"the stack that runs has {has}, not {wished}", todo="aesc down, then aesc up")


def _enter(stack: Stack, settings: Settings) -> None:
    for key in [key for key in os.environ if key.startswith(parts.ELSEWHERE)]:
        del os.environ[key]
    os.environ |= stack.client_environment()
    os.environ["PREFECT_HOME"] = str(stack.folder / "prefect")
    prepare_environment(settings)


def _bring_up(stack: Stack, names: Collection[str], patience: float) -> None:
    started = start_parts(stack, names)
    _wait(stack, names, patience, started=started)


def _wait(stack: Stack, names: Collection[str], patience: float, *, started: Collection[str]) -> None:
    """Wait until the parts work.

    Raises:
        AescError: one does not.
    """
    if started:
        _log.info("starting %s ...", ", ".join(started))
    waiting = dict.fromkeys(names, _NOT_RUNNING)
    seen: dict[str, set[int]] = {name: set() for name in names}
    end = time.monotonic() + patience
    while waiting:
        told = processes(stack)
        for name in list(waiting):
            process = told.get(name, Process("UNKNOWN", 0, 0.0))
            seen[name] |= {process.pid} - {0}
            reason = problem(stack, name, since=process.since) if process.is_up else _NOT_RUNNING
            if not reason:
                del waiting[name]
                continue
            waiting[name] = reason
            if process.has_given_up or len(seen[name]) >= _MOST_ENDS:
                raise _failure(stack, name, "ends again and again")
        if waiting and time.monotonic() > end:
            name, reason = next(iter(waiting.items()))
            raise _failure(stack, name, f"{reason}, after {patience:.0f} s")
        time.sleep(0.3 if waiting else 0)


def _failure(stack: Stack, name: str, reason: str) -> AescError:
    log = stack.log(name)
    return AescError(
        f"aesc up: {name}",
        f"{reason}; the end of {log}:\n{tail(log)}",
        todo="mend that, then aesc up again; aesc down stops what runs",
    )


def _part(stack: Stack, name: str, process: Process | None) -> dict[str, Any]:
    pid = process.pid if process and process.is_up else None
    found = problem(stack, name, since=process.since) if process and pid else _NOT_RUNNING
    return {
        "name": name,
        "address": stack.addresses[name],
        "healthy": not found,
        "problem": found,
        "pid": pid,
        "log": str(stack.log(name)),
    }


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """One `aesc up` or `aesc down` at a time."""
    folder = stack_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=_LOCK_SECONDS):
            yield
    except Timeout:
        raise AescError(folder, "another aesc up or aesc down is at work", todo="wait for it, or stop it") from None
