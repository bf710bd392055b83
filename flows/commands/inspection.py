"""`aesc inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.shell import Json, Report, command


@command
def inspect(
    source: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    category: Annotated[
        str | None, typer.Option("--category", "-c", help="Whose detector [default: the only registered one]")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Alias or version number, or the folder of a saved detector.")
    ] = "champion",
    out: Annotated[
        Path | None, typer.Option(help="Folder for heatmaps, CSV and gallery [default: below .aesc]")
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(help="residual, uncertainty or combined [default: the calibrated choice]")
    ] = None,
    as_json: Json = False,
) -> Report:
    """Say of each image whether it passes; heatmaps, a CSV and a gallery go into a folder.

    Examples:

    `aesc inspect part.png --category gasket`

    `aesc inspect ./shift_3 --category bottle --model 7 --out ./shift_3_report --json`
    """
    from aesc.errors import AescError
    from aesc.params import STRATEGIES
    from tasks.settings import Settings, prepare_environment

    if strategy is not None and strategy not in STRATEGIES:
        raise AescError(f"--strategy {strategy}", "unknown", allowed=", ".join(STRATEGIES), usage=True)
    settings = Settings()
    prepare_environment(settings)

    from tasks.inspection import inspect_source

    value = inspect_source(source, category=category, model=model, out=out, settings=settings, strategy=strategy)
    return Report(value, _table(value), ok=value["counts"]["error"] == 0)


def _table(value: dict[str, Any]) -> str:
    lines = [f"{'verdict':8} {'score':>12} {'threshold':>12}  image"]
    for row in value["images"]:
        if row["score"] is None:
            lines.append(f"{row['verdict']:8} {'':>12} {'':>12}  {row['error']}")
        else:
            lines.append(f"{row['verdict']:8} {row['score']:12.6g} {row['threshold']:12.6g}  {row['path']}")
    counts = value["counts"]
    lines.append(
        f"{counts['reject']} rejected, {counts['abstain']} abstained, {counts['pass']} passed, "
        f"{counts['error']} unreadable; by {value['model']}"
    )
    lines.append(f"gallery: {value['gallery']}")
    return "\n".join(lines)
