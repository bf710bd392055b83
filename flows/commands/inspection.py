"""`aesc inspect`."""

from __future__ import annotations

from datetime import UTC, datetime
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

    from tasks.inspection import as_json as report_json
    from tasks.inspection import find_images, inspect_images

    find_images(source)
    folder, name = _detector_folder(category, model, settings)

    from aesc.detector import Detector

    detector = Detector.load(folder)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    target = (out or settings.state / "inspections" / f"{stamp}-{source.resolve().stem}").resolve()
    rows = inspect_images(source, detector, target, strategy=strategy, title=str(source))
    value = report_json(rows, detector, model=name, out=target)
    return Report(value, _table(value), ok=value["counts"]["error"] == 0)


def _detector_folder(category: str | None, model: str, settings: Any) -> tuple[Path, str]:
    """A local folder with the detector, and its name."""
    if Path(model).is_dir():
        return Path(model), model

    from tasks.registry import download_detector, model_uri, only_category

    category = category or only_category()
    return download_detector(category, model, settings.state / "detectors"), model_uri(category, model)


def _table(value: dict[str, Any]) -> str:
    lines = [f"{'verdict':8} {'score':>12} {'threshold':>12}  image"]
    for row in value["images"]:
        if row["score"] is None:
            lines.append(f"{row['verdict']:8} {'':>12} {'':>12}  {row['error']}")
        else:
            lines.append(f"{row['verdict']:8} {row['score']:12.6g} {row['threshold']:12.6g}  {row['path']}")
    counts = value["counts"]
    lines.append(
        f"{counts['reject']} rejected, {counts['pass']} passed, {counts['error']} unreadable; by {value['model']}"
    )
    lines.append(f"gallery: {value['gallery']}")
    return "\n".join(lines)
