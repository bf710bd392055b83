"""`aesc promote`, `aesc approve`, `aesc rollback`, `aesc history`, `aesc compare`."""

from __future__ import annotations

from textwrap import shorten
from typing import Annotated, Any

import typer

from aesc.presets import DEFAULT_PRESET
from flows.commands.shell import (
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

Version = Annotated[str, typer.Argument(help="Alias or version number.")]


@command
def promote(
    category: Category,
    version: Annotated[str, typer.Option("--version", "-v", help="Alias or version number.")] = "challenger",
    data: DataFolder = None,
    preset: Preset = DEFAULT_PRESET,
    params_file: ParamsFile = None,
    by: By = None,
    as_json: Json = False,
) -> Report:
    """Let the court compare the challenger with the champion on the same test images, and promote it if it is better.

    A tie is held. A version that cannot be loaded or measured is an error, never a promotion.

    Example: `aesc promote --category bottle`
    """
    from aesc.manifest import require_category
    from aesc.params_file import load_params

    settings = quiet_settings()
    load_params(params_file or settings.root / "params.yaml", preset=preset, category=category)
    require_category(data or settings.data, category)
    value = _run_promote(
        category,
        version=version,
        preset=preset,
        data=str(data.resolve()) if data else None,
        params_file=str(params_file.resolve()) if params_file else None,
        by=by or user(),
    )
    return Report(value, _decision(value))


@command
def approve(version: Version, category: Category, reason: Reason, by: By = None, as_json: Json = False) -> Report:
    """Finish a promotion that awaits approval (promotion.approval: required).

    Example: `aesc approve 7 --category bottle --reason "looked at the page, fine"`
    """
    quiet_settings()
    _require_reason(reason)
    value = _run_promote(category, version=version, approve=reason, by=by or user())
    return Report(value, _decision(value))


@command
def rollback(
    category: Category,
    reason: Reason,
    to: Annotated[str, typer.Option(help="Alias or number of the version that becomes champion.")] = "previous",
    by: By = None,
    as_json: Json = False,
) -> Report:
    """Make the previous champion, or another version, the champion again.

    Example: `aesc rollback --category bottle --reason "misses scratches since Monday"`
    """
    quiet_settings()
    _require_reason(reason)

    from flows.embedded_server import start_embedded_server
    from flows.promotion import rollback as flow

    start_embedded_server()
    value: dict[str, Any] = flow(category, reason=reason, to=to, by=by or user())
    text = f"{category}: version {value['version']} is the champion again, in the place of {value['from']}\n"
    return Report(value, text + _aliases(value))


@command
def history(category: Category, as_json: Json = False) -> Report:
    """Show who or what moved which alias, when, why, and on which evidence.

    Example: `aesc history --category bottle`
    """
    quiet_settings()

    from dataclasses import asdict

    from tasks.aliases import aliases_of, read_ledger

    entries = [asdict(entry) for entry in read_ledger(category)]
    value = {"category": category, "aliases": aliases_of(category), "entries": entries}
    lines = [*_ledger(entries), _aliases(value)] if entries else [f"{category} has no history yet"]
    return Report(value, "\n".join(lines))


@command
def compare(
    champion: Annotated[str, typer.Argument(metavar="A", help="Alias or version number, in the champion's place.")],
    challenger: Annotated[str, typer.Argument(metavar="B", help="Alias or number, in the challenger's place.")],
    category: Category,
    data: DataFolder = None,
    preset: Preset = DEFAULT_PRESET,
    params_file: ParamsFile = None,
    as_json: Json = False,
) -> Report:
    """Compare two versions on the same test images, as the court would; nothing is changed.

    Example: `aesc compare 3 7 --category bottle`
    """
    from aesc.files import read_json
    from aesc.manifest import require_category
    from aesc.params_file import load_params

    settings = quiet_settings()
    params = load_params(params_file or settings.root / "params.yaml", preset=preset, category=category)
    root = (data or settings.data).resolve()
    require_category(root, category)

    from tasks.court import hear
    from tasks.court_record import RECORD

    folder = hear(category, champion, challenger, data_root=root, params=params, settings=settings, attached=False)
    value = read_json(folder / RECORD) | {"page": str(folder / "index.html")}
    text = f"{category}, version {value['challenger']['version']} against {value['champion']['version']}: "
    return Report(value, "\n".join([f"{text}the court would say {value['verdict']}", *_why(value), *_table(value)]))


def _run_promote(category: str, **how: Any) -> dict[str, Any]:
    from flows.embedded_server import start_embedded_server
    from flows.promotion import promote as flow

    start_embedded_server(meanwhile=("sklearn.metrics", "matplotlib.figure"))
    found: dict[str, Any] = flow(category, **how)
    return found


def _require_reason(reason: str) -> None:
    from aesc.errors import AescError

    if not reason.strip():
        raise AescError("--reason", "empty", allowed="why; it stands in the ledger", usage=True)


def _decision(value: dict[str, Any]) -> str:
    lines = [f"{value['category']}, version {value['version']}: {value['status']} ({value['verdict']})", *_why(value)]
    lines += _table(value)
    if value["status"] == "awaiting approval":
        todo = f"aesc approve {value['version']} --category {value['category']} --reason ..."
        lines.append(f"  to do         {todo}")
    if value["repaired"]:
        lines.append(f"  repaired      {len(value['repaired'])} moves whose process had died")
    return "\n".join([*lines, _aliases(value)])


def _why(value: dict[str, Any]) -> list[str]:
    return [f"  {reason}" for reason in [*value["reasons"], *value.get("notes", ())]]


def _table(value: dict[str, Any]) -> list[str]:
    lines = []
    if value.get("differences"):
        head = ("champion", "challenger", "difference", "interval")
        lines.append(f"  {'':34} {head[0]:>10} {head[1]:>10} {head[2]:>10}  {head[3]}")
    for row in value.get("differences", ()):
        metric = row["metric"].replace("_", " ").replace("auroc", "AUROC").replace("aupro", "AUPRO")
        name = f"  {metric}, {row['defect']}"
        if row["difference"] is None:
            lines.append(f"{name:36} not available")
        else:
            lines.append(
                f"{name:36} {row['champion']:10.4f} {row['challenger']:10.4f} {row['difference']:+10.4f}  "
                f"{row['low']:+.4f} to {row['high']:+.4f}"
            )
    if "n_good" in value:
        lines.append(
            f"  on {value['n_good']} clean and {value['n_defective']} defective images, data "
            f"{value['data_version'][:16]}, seed {value['seed']}"
        )
    if value.get("page"):
        lines.append(f"  page          {value['page']}")
    return lines


def _ledger(entries: list[dict[str, Any]]) -> list[str]:
    rows = [("when", "version", "what", "by", "aliases", "why")]
    for entry in entries:
        moves = ", ".join(f"{alias} {old or '-'} -> {new or '-'}" for alias, (old, new) in entry["moves"].items())
        state = "" if entry["state"] == "done" else f" [{entry['state']}]"
        why = shorten(entry["reason"], 110, placeholder=" ...")
        by = shorten(entry["by"], 40, placeholder=" ...")
        rows.append((entry["at"][:19], entry["version"], entry["action"] + state, by, moves or "-", why))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    found = [head]
    for line, entry in zip(lines, entries, strict=True):
        found.append(line.rstrip())
        if entry["note"]:
            found.append(f"    note: {entry['note']}")
        if record := entry["evidence"].get("record"):
            found.append(f"    evidence: {record}")
    return found


def _aliases(value: dict[str, Any]) -> str:
    return "  aliases       " + (", ".join(f"{name} {number}" for name, number in value["aliases"].items()) or "none")
