"""`aesc export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.shell import Json, Report, command


@command
def export(
    model: Annotated[str, typer.Argument(help="Alias or version number, or the folder of a saved detector.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    category: Annotated[
        str | None, typer.Option("--category", "-c", help="Whose detector [default: the only registered one]")
    ] = None,
    as_json: Json = False,
) -> Report:
    """Write a detector as ONNX, compared with PyTorch first, and keep it beside the version in MLflow.

    The file takes uint8 images of any size and gives reconstruction, residual map and residual score; see
    docs/serving.md.

    Examples:

    `aesc export champion --category bottle --out bottle.onnx`
    """
    from tasks.settings import Settings, prepare_environment

    settings = Settings()
    prepare_environment(settings)

    from tasks.export import export_model

    value = export_model(model, category=category, out=out, settings=settings)
    return Report(value, _text(value))


def _text(value: dict[str, Any]) -> str:
    parity = value["parity"]
    lines = [
        f"{value['model']} -> {value['file']} ({value['bytes'] / 1e6:.1f} MB)",
        f"on {parity['images']} images it differs from PyTorch by {parity['score']:.1e} of the score and "
        f"{parity['residual']:.1e} in the map; allowed: {parity['allowed']:g}",
        f"it decides by the residual: above {value['threshold']:.6g} is a reject"
        + ("" if value["calibrated_strategy"] == "residual" else f"; calibrated was {value['calibrated_strategy']}"),
    ]
    if value["mlflow_run_id"]:
        lines.append(f"kept in MLflow run {value['mlflow_run_id']} as onnx/model.onnx")
    return "\n".join(lines)
