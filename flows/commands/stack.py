"""`aesc up`, `aesc status`, `aesc down`, `aesc env`, `aesc deploy`."""

from __future__ import annotations

import os
import shlex
from typing import Annotated, Any

import typer

from flows.commands.shell import Json, Report, command


@command
def up(
    gpu_workers: Annotated[
        int | None,
        typer.Option(min=1, help="Workers of the pool gpu [default: one for each GPU, or one without a GPU]"),
    ] = None,
    patience: Annotated[float, typer.Option(help="Seconds that a part may take until it works.")] = 180.0,
    as_json: Json = False,
) -> Report:
    """Start the whole stack on this machine: S3, MLflow, Prefect, workers; deploy; print the addresses.

    All of it listens on 127.0.0.1 only. What runs already stays. Data, ports and keys live in .aesc/stack and are the
    same the next time. AESC_POSTGRES=postgresql://user:password@host:port puts both servers on PostgreSQL; of the other
    variables that name servers, buckets or keys, none is listened to: a stack uses its own.

    Examples:

    `aesc up`

    `aesc up --gpu-workers 2 --json`
    """
    from flows.stack import start
    from tasks.settings import Settings

    value = start(Settings(), gpu_workers=gpu_workers, patience=patience)
    deployed = value["deployed"]
    lines = [
        *value["notes"],
        _table(value),
        f"deployed: {', '.join(deployed['deployments'])}",
        'next: eval "$(aesc env)" points this shell at it; aesc status; aesc down',
    ]
    return Report(value, "\n".join(lines), ok=value["healthy"])


@command
def status(as_json: Json = False) -> Report:
    """Ask every part of the local stack whether it works; exit code 1 if one does not.

    Example: `aesc status --json`
    """
    from flows.stack import status as ask
    from tasks.settings import Settings

    value = ask(Settings())
    text = _table(value) if value["running"] else f"no stack is running in {value['stack']}; start one: aesc up"
    return Report(value, text, ok=value["healthy"])


@command
def down(as_json: Json = False) -> Report:
    """Stop the local stack: workers first, then the servers. Data, ports and keys stay for the next `aesc up`.

    Example: `aesc down`
    """
    from flows.stack import stop
    from tasks.settings import Settings

    value = stop(Settings())
    stopped = list(value["stopped"])
    if value["strays"]:
        stopped.append(f"{value['strays']} processes that had no supervisor")
    return Report(value, f"stopped {', '.join(stopped)}" if stopped else f"no stack is running in {value['stack']}")


@command
def env(as_json: Json = False) -> Report:
    """Print what points a shell at the running stack, **the S3 secret among it**: no other command shows that.

    Example: `eval "$(aesc env)"`; without a shell: `aesc env --json`
    """
    from flows.stack import running_stack
    from tasks.settings import Settings
    from tasks.stack import ELSEWHERE

    value = running_stack(Settings()).client_environment()
    # What would lead clients past the stack, such as a session token of AWS.
    others = [key for key in os.environ if key.startswith(ELSEWHERE) and key not in value]
    lines = [f"unset {key}" for key in sorted(others) if key != "AESC_POSTGRES"]
    lines += [f"export {key}={shlex.quote(text)}" for key, text in value.items()]
    return Report(value, "\n".join(lines))


@command
def deploy(as_json: Json = False) -> Report:
    """Make work pools, limits, deployments and automations on the Prefect server that PREFECT_API_URL names.

    Safe to repeat: after a change of prefect.yaml, or of the project's place. `aesc up` does it too.

    Example: `PREFECT_API_URL=http://127.0.0.1:4200/api aesc deploy`
    """
    from tasks.settings import Settings, prepare_environment

    settings = Settings()
    prepare_environment(settings)

    from flows.deploying import deploy as make

    value = make(settings)
    text = "\n".join(f"{key.replace('_', ' '):12} {_listed(found)}" for key, found in value.items())
    return Report(value, text)


def _listed(found: Any) -> str:
    if isinstance(found, dict):
        return ", ".join(f"{key} = {value}" for key, value in found.items())
    return found if isinstance(found, str) else ", ".join(found)


def _table(value: dict[str, Any]) -> str:
    lines = []
    for part in value["parts"]:
        word = "works" if part["healthy"] else f"{part['problem']}; log: {part['log']}"
        lines.append(f"{part['name']:14} {part['address']:52} {word}")
    return "\n".join([*lines, f"{'database':14} {value['database']}"])
