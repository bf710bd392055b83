"""`aesc replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.shell import Json, Report, command


@command
def replay(
    model: Annotated[str, typer.Argument(help="Version number, alias, MLflow run id, or a run's folder.")] = "champion",
    category: Annotated[
        str | None, typer.Option("--category", "-c", help="Whose version [default: the only registered model]")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Replay only the first steps, against the recorded losses.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="How far metrics may differ [default: 0.01]; with --steps losses, relative [0.0001]"
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of categories with the run's images [default: as recorded]")
    ] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Replay even if the data are not those of the run.")] = False,
    as_json: Json = False,
) -> Report:
    """Make a model again from what its run recorded, and say whether it is the same; exit code 1 if it diverged.

    Code and data are checked out into a scratch folder: the working tree is not touched, no model is registered.

    Examples:

    `aesc replay champion --category bottle`

    `aesc replay 7 --category bottle --steps 50 --json`
    """
    from tasks.settings import Settings, prepare_environment

    settings = Settings()
    prepare_environment(settings)

    from tasks.replay import replay as make_again
    from tasks.replay_verdict import DIVERGED

    value = make_again(
        model,
        category=category,
        steps=steps,
        tolerance=tolerance,
        data=data.resolve() if data else None,
        anyway=anyway,
        settings=settings,
    )
    return Report(value, _text(value), ok=value["verdict"] != DIVERGED)


def _text(value: dict[str, Any]) -> str:
    of = f"version {value['model_version']} of {value['category']}" if value["model_version"] else value["category"]
    lines = [f"{_headline(value)}: {of}, run {value['run_id']}"]
    lines.append(f"  compared      {', '.join(value['compared']) or 'nothing'}")
    if loss := value["loss"]:
        lines.append(f"  step {value['step']:<8} loss {loss['recorded']!r} recorded, {loss['found']!r} now")
    if weights := value.get("weights_sha256"):
        lines.append(f"  weights       {weights['recorded'][:16]} recorded, {weights['found'][:16]} now")
    for row in value.get("metrics", ()):
        if row["difference"]:
            lines.append(
                f"  {row['name']:24} {row['recorded']:.6f} recorded, {row['found']:.6f} now "
                f"(tolerance {value['tolerance']:g})"
            )
    for item in value["differs"]:
        lines.append(
            f"  differs       {item['what']} {item['name']}: {item['recorded']} recorded, {item['found']} here"
        )
    if not value["differs"] and value["verdict"] != "identical":
        lines.append("  differs       nothing that is recorded: the same code, parameters, data, packages and device")
    lines.append(f"  took          {value['training_seconds']:.0f} s on {value['device']['device']}")
    return "\n".join(lines)


def _headline(value: dict[str, Any]) -> str:
    if value["step"] is None:
        return str(value["verdict"])
    return f"{value['verdict']} {'at' if value['verdict'] == 'diverged' else 'from'} step {value['step']}"
