"""`aesc monitor`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from aesc.presets import DEFAULT_PRESET
from flows.commands.shell import AnyCategory, Json, ParamsFile, Preset, Report, command, quiet_settings


@command
def monitor(
    category: AnyCategory = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            "-s",
            help="s3://bucket/prefix or a folder with recent images "
            "[default: what was inspected and what was accepted last]",
        ),
    ] = None,
    preset: Preset = DEFAULT_PRESET,
    params_file: ParamsFile = None,
    as_json: Json = False,
) -> Report:
    """Compare recent scores with those of the calibration, and measure anew which stains the champion finds.

    Looks may be repeated as often as one likes: all of them together raise a false alarm with a probability of at most
    monitoring.false_alarm_rate.

    Examples:

    `aesc monitor --category bottle`

    `aesc monitor --category bottle --source ./shift_3 --json`
    """
    from aesc.errors import AescError
    from aesc.params_file import load_params

    if category is None and source is not None:
        raise AescError("--category", "not given", allowed="the category of the images at --source", usage=True)
    settings = quiet_settings()
    load_params(params_file or settings.root / "params.yaml", preset=preset, category=category)

    from flows.embedded_server import start_embedded_server
    from flows.monitor import monitor as flow

    start_embedded_server(meanwhile=("scipy.stats", "matplotlib.figure"))
    value: dict[str, Any] = flow(
        category, source=source, preset=preset, params_file=str(params_file.resolve()) if params_file else None
    )
    text = "\n".join(line for report in value["categories"] for line in _lines(report))
    return Report(value, text or "nothing to watch: no category has a champion")


def _lines(report: dict[str, Any]) -> list[str]:
    lines = [f"{report['category']}, version {report['version']}: {report['status']}: {report['words']}"]
    if report["look"] is not None:
        lines.append(
            f"  look {report['look']} at {report['new_images']} new images, level {report['level']:.3g} of "
            f"alpha {report['alpha']:g}"
        )
    for one in report["comparisons"]:
        lines.append(f"  {one['what']} ({one['n']} against {one['n_calibration']}): {one['words']}")
    if found := report["detectability"]:
        lines.append(f"  detectability: {found['words']}")
    if report["events"]:
        lines.append(f"  event: {', '.join(report['events'])}")
    lines.append(f"  {report['folder']}")
    return lines
