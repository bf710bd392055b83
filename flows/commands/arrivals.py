"""`aesc ingest`, `aesc quarantine` and `aesc drill`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aesc.presets import DEFAULT_PRESET
from flows.commands.shell import (
    AnyCategory,
    By,
    Category,
    DataFolder,
    Json,
    ParamsFile,
    Preset,
    Reason,
    Report,
    command,
    quiet_settings,
    user,
)

# What taking arrivals in imports beside the usual.
HEAVY = ("dvc.repo", "matplotlib.figure")

quarantine_app = typer.Typer(
    help="Arrivals that were not taken in: look at them, and accept or reject them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
Entry = Annotated[list[str], typer.Argument(help="Ids from `aesc quarantine list`, or their first digits.")]


@command
def ingest(
    category: AnyCategory = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source", "-s", help="s3://bucket/prefix or a folder [default: the category's, in AESC_ARRIVALS]"
        ),
    ] = None,
    preset: Preset = DEFAULT_PRESET,
    params_file: ParamsFile = None,
    as_json: Json = False,
) -> Report:
    """Take in images that arrived as clean: checked, gated by the champion, versioned by DVC, committed.

    What is not taken in goes to quarantine. The source is never changed. Safe to repeat and to kill.

    Examples:

    `aesc ingest --category bottle --source s3://station-3/clean`

    `aesc ingest --source ./inbox --json` takes each folder below ./inbox for a category
    """
    from aesc.params_file import load_params

    settings = quiet_settings()
    load_params(params_file or settings.root / "params.yaml", preset=preset, category=category)

    from tasks.arrivals import arrival_place

    arrival_place(source, settings)

    from flows.embedded_server import start_embedded_server
    from flows.ingest import ingest as flow

    start_embedded_server(meanwhile=HEAVY)
    value: dict[str, Any] = flow(
        category,
        source=source if source is None or "://" in source else str(Path(source).expanduser().resolve()),
        preset=preset,
        params_file=str(params_file.resolve()) if params_file else None,
    )
    text = "\n".join(_lines(report) for report in value["categories"])
    return Report(value, text or "no category arrives there")


def _lines(report: dict[str, Any]) -> str:
    reasons = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in report["reasons"].items())
    lines = [
        f"{report['category']}: {report['accepted']} of {report['arrivals']} new arrivals accepted",
        f"  quarantined   {report['quarantined']}" + (f": {reasons}" if reasons else ""),
    ]
    if report["known"]:
        lines.append(f"  known         {report['known']} were in the data already")
    if report["moved"]:
        lines.append(f"  moved         {report['moved']} changed while they were read: left to the next run")
    if report["gate"]:
        lines.append(f"  gate          {report['gate']}")
    if report["data_version"]:
        lines.append(
            f"  data version  {report['data_version']}, commit {report['commit']}, pushed to {report['remote']}"
        )
    retraining = report["retraining"]
    lines.append(f"  retraining    {'yes' if retraining['worth'] else 'not yet'}: {retraining['reason']}")
    if report["quarantine_page"]:
        lines.append(f"  page          {report['quarantine_page']}")
    return "\n".join(lines)


@command
def drill(
    category: Category,
    data: DataFolder = None,
    share: Annotated[
        float | None,
        typer.Option(min=0.001, max=0.999, help="Defective share of the arrivals [default: all there are]"),
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="Alias or version number.")] = "champion",
    preset: Preset = DEFAULT_PRESET,
    params_file: ParamsFile = None,
    as_json: Json = False,
) -> Report:
    """Poison drill: send defective test images in as if they were clean, in a scratch copy, and count what is caught.

    Without defective test images synthetic defects are drawn on clean ones, and the report says so.

    Example: `aesc drill --category bottle --data ~/mvtec --share 0.2`
    """
    from aesc.manifest import require_category
    from aesc.params_file import load_params
    from tasks.settings import Settings, prepare_environment

    settings = Settings()
    params = load_params(params_file or settings.root / "params.yaml", preset=preset, category=category)
    root = (data or settings.data).resolve()
    require_category(root, category)
    prepare_environment(settings)

    from tasks.drill import run_drill

    value = run_drill(category, data_root=root, params=params, settings=settings, share=share, model=model)
    return Report(value, _drill_table(value))


def _drill_table(value: dict[str, Any]) -> str:
    lines = [f"{'sent as clean':20} {'images':>6} {'held':>6} {'taken in':>8}  why"]
    for row in value["table"]:
        why = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in row["reasons"].items())
        lines.append(f"{row['defect']:20} {row['images']:6} {row['held']:6} {row['taken_in']:8}  {why}")
    caught, held = value["caught_rate"], value["clean_held_rate"]
    lines.append(
        f"caught {value['caught']} of {value['poison']} defective ({caught['low']:.0%} to {caught['high']:.0%}), "
        f"missed {value['missed']}; held {value['clean_held']} of {value['clean']} clean "
        f"({held['low']:.0%} to {held['high']:.0%}); by {value['model']}"
    )
    if value["synthetic_defects"]:
        lines.append("there are no defective test images: the defects were drawn on clean ones")
    lines.append(f"clean arrivals: {value['clean_images_are']}; MLflow run {value['mlflow_run_id']}")
    return "\n".join(lines)


@quarantine_app.command("list")
@command
def list_entries(
    category: AnyCategory = None,
    all_entries: Annotated[bool, typer.Option("--all", help="Decided ones too.")] = False,
    as_json: Json = False,
) -> Report:
    """List what is held.

    Example: `aesc quarantine list --category bottle`
    """
    from tasks.settings import Settings

    settings = Settings()

    from tasks.quarantine import HELD, entries, quarantine_folder

    found = [entry for entry in entries(settings, category=category) if all_entries or entry["status"] == HELD]
    pages = sorted({str(quarantine_folder(settings, entry["category"]) / "index.html") for entry in found})
    lines = [f"{'id':12}  {'status':8}  {'category':12}  {'reason':14}  arrival"]
    lines += [
        f"{entry['id']:12}  {entry['status']:8}  {entry['category']:12}  {entry['reason']:14}  {entry['key']}"
        for entry in found
    ]
    lines += [f"page: {page}" for page in pages]
    return Report({"entries": found, "pages": pages}, "\n".join(lines) if found else "nothing is held")


@quarantine_app.command("show")
@command
def show(
    entry: Annotated[str, typer.Argument(help="Id from `aesc quarantine list`, or its first digits.")],
    as_json: Json = False,
) -> Report:
    """Show why an arrival is held, and where its image and heatmap are.

    Example: `aesc quarantine show 1f3c`
    """
    from tasks.settings import Settings

    settings = Settings()

    from tasks.quarantine import entry_folder, find_entry

    record = find_entry(settings, entry)
    folder = entry_folder(settings, record)
    value = {**record, "folder": str(folder)}
    shown = {key: item for key, item in value.items() if key != "decisions" and item is not None}
    lines = [f"{key:12} {item}" for key, item in shown.items()]
    lines += [f"{one['decision']:12} by {one['by']} at {one['at']}: {one['why']}" for one in record["decisions"]]
    return Report(value, "\n".join(lines))


@quarantine_app.command("accept")
@command
def accept(
    entries: Entry, reason: Reason, by: By = None, preset: Preset = DEFAULT_PRESET, as_json: Json = False
) -> Report:
    """Take held arrivals in after all, the same way as any: data folder, DVC, push, one commit a category.

    Example: `aesc quarantine accept 1f3c 77ab --reason "dust on the lens, cleaned since"`
    """
    settings = quiet_settings()

    from tasks.quarantine import find_entry, require_acceptable, require_undecided

    records = {record["id"]: record for record in (find_entry(settings, name) for name in entries)}
    for record in records.values():
        require_undecided(record)
        require_acceptable(record)

    from flows.embedded_server import start_embedded_server
    from flows.release import release_from_quarantine

    start_embedded_server(meanwhile=HEAVY)
    value: dict[str, Any] = release_from_quarantine(list(records), by=by or user(), reason=reason, preset=preset)
    return Report(value, "\n".join(_lines(report) for report in value["categories"]))


@quarantine_app.command("reject")
@command
def reject(entries: Entry, reason: Reason, by: By = None, as_json: Json = False) -> Report:
    """Record that held arrivals are not clean; their images stay in quarantine.

    Example: `aesc quarantine reject 1f3c --reason "a scratch"`
    """
    from tasks.settings import Settings

    settings = Settings()

    from tasks.quarantine import REJECTED, decide, find_entry, require_undecided

    records = {record["id"]: record for record in (find_entry(settings, name) for name in entries)}
    for record in records.values():
        require_undecided(record)
    decided = [decide(settings, record, REJECTED, by=by or user(), why=reason) for record in records.values()]
    return Report({"entries": decided}, "\n".join(f"rejected {record['id']} ({record['key']})" for record in decided))
