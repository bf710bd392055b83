"""`aesc ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.shell import Category, DataFolder, Json, ParamsFile, Preset, Report, Set, command, quiet_settings


@command
def ablate(
    category: Category,
    preset: Preset = "ablation",
    data: DataFolder = None,
    params_file: ParamsFile = None,
    overrides: Set = None,
    network: Annotated[list[str] | None, typer.Option(help="AE, AESc or U-Net; again for more [default: all]")] = None,
    corruption: Annotated[
        list[str] | None,
        typer.Option(help="A corruption.kind; again for more [default: none, gaussian, scratch, drops, stain]"),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Of a training; again for more [default: 1]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for tables and figures [default: below .aesc]")] = None,
    as_json: Json = False,
) -> Report:
    """Compare networks and corruptions, by every strategy: the paper's table and figures.

    Typed again after an interruption it goes on with the cells that are missing. Nothing is registered.

    Examples:

    `aesc ablate --category bottle --data ~/mvtec --seed 1 --seed 2 --seed 3`

    `aesc ablate --category gasket --preset demo --network AESc --corruption none --corruption stain`
    """
    from aesc.ablation import CORRUPTIONS, NETWORKS, plan
    from aesc.manifest import require_category
    from aesc.params_file import load_params

    networks, corruptions, seeds = network or list(NETWORKS), corruption or list(CORRUPTIONS), seed or [1]
    settings = quiet_settings()
    path = params_file or settings.root / "params.yaml"
    # What a person can get wrong is said before the first training, not before the last.
    for cell in plan(networks, corruptions, seeds):
        load_params(path, preset=preset, category=category, overrides=[*(overrides or []), *cell.overrides])
    require_category(data or settings.data, category)

    from flows.ablate import ablate as flow
    from flows.embedded_server import start_embedded_server

    start_embedded_server()
    value: dict[str, Any] = flow(
        category,
        preset=preset,
        data=str(data.resolve()) if data else None,
        params_file=str(path.resolve()),
        overrides=overrides or [],
        networks=networks,
        corruptions=corruptions,
        seeds=seeds,
        out=str(out.resolve()) if out else None,
    )
    return Report(value, Path(value["report"]).read_text(encoding="utf-8"))
