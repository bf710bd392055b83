"""`aesc inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.shell import Json, Report, command, quiet_settings


@command
def inspect(
    source: Annotated[str, typer.Argument(help="An image, a folder of images, or s3://bucket/prefix.")],
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
    all_scores: Annotated[
        bool, typer.Option("--all-scores", help="Every strategy's score, also where the verdict does not need it.")
    ] = False,
    as_json: Json = False,
) -> Report:
    """Say of each image whether it passes; results as Parquet and CSV, heatmaps and a page go into a folder.

    Of more than 200 images only those that do not pass get a heatmap. Killed, the same command goes on where it was.

    Examples:

    `aesc inspect part.png --category gasket`

    `aesc inspect ./shift_3 --category bottle --model 7 --out ./shift_3_report --json`
    """
    from aesc.errors import AescError
    from aesc.params import STRATEGIES

    if strategy is not None and strategy not in STRATEGIES:
        raise AescError(f"--strategy {strategy}", "unknown", allowed=", ".join(STRATEGIES), usage=True)
    settings = quiet_settings()

    value = _inspect(source, category, model, out, strategy, all_scores=all_scores, settings=settings)
    return Report(value, _table(value), ok=value["counts"]["error"] == 0)


def _inspect(
    source: str, category: str | None, model: str, out: Path | None, strategy: Any, *, all_scores: bool, settings: Any
) -> dict[str, Any]:
    """A few images at once and here; many by a task runner, which costs some seconds to start."""
    from tasks.inspection import inspect_source, is_small

    if settings.task_runner == "threads" and is_small(source, settings):
        return inspect_source(
            source,
            category=category,
            model=model,
            out=out,
            strategy=strategy,
            all_scores=all_scores,
            settings=settings,
        )
    from prefect import flow

    from flows.embedded_server import start_embedded_server
    from flows.inspection import inspect_by_shards

    start_embedded_server(meanwhile=("matplotlib.figure", "pyarrow.parquet"))
    run = flow(name="inspect", flow_run_name=f"inspect {category or source}")(inspect_by_shards)
    found: dict[str, Any] = run(source, category, model, str(out) if out else None, strategy, all_scores=all_scores)
    return found


def _table(value: dict[str, Any]) -> str:
    lines = [f"{'verdict':8} {'score':>12} {'threshold':>12}  image"]
    for row in value["images"]:
        if row["score"] is None:
            lines.append(f"{row['verdict']:8} {'':>12} {'':>12}  {row['error']}")
        else:
            lines.append(f"{row['verdict']:8} {row['score']:12.6g} {row['threshold']:12.6g}  {row['path']}")
    counts = value["counts"]
    if unnamed := sum(counts.values()) - len(value["images"]):
        lines.append(f"... and {unnamed} more in {value['table']}")
    lines.append(
        f"{counts['reject']} rejected, {counts['abstain']} abstained, {counts['pass']} passed, "
        f"{counts['error']} unreadable; by {value['model']}"
    )
    lines.append(f"gallery: {value['gallery']}")
    return "\n".join(lines)
