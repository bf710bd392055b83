"""`aesc sample`, `aesc import`, `aesc validate`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from aesc.presets import DEFAULT_PRESET
from flows.commands.shell import AnyCategory, DataFolder, Json, ParamsFile, Preset, Report, command

MOST_GIGABYTES = 50.0
MOST_FILES = 1_000_000
NAMED = 5  # files of a failure in the text; the JSON and the page have them all


@command
def sample(as_json: Json = False) -> Report:
    """Draw the sample data into the data folder and version it with DVC.

    The same bytes every time: data.dvc in git is this sample's version.

    Example: `aesc sample`
    """
    from aesc.sample import CATEGORIES, draw_sample
    from tasks.settings import Settings, prepare_environment

    settings = Settings()
    prepare_environment(settings)
    files = draw_sample(settings.data)

    from tasks.versioning import track_data

    version = track_data(settings)
    value = {"data": str(settings.data), "categories": list(CATEGORIES), "files": len(files), "data_version": version}
    return Report(value, f"{len(files)} images of {', '.join(CATEGORIES)} in {settings.data}, data version {version}")


@command
def import_data(
    source: Annotated[Path, typer.Argument(help="MVTec archive (.zip, .tar, .tar.gz, .tar.xz) or folder.")],
    category: Annotated[
        str | None, typer.Option("--category", "-c", help="Name for a source that holds one unnamed category.")
    ] = None,
    preset: Preset = DEFAULT_PRESET,
    params_file: ParamsFile = None,
    max_gigabytes: Annotated[float, typer.Option(help="Refuse more than this, unpacked.")] = MOST_GIGABYTES,
    as_json: Json = False,
) -> Report:
    """Lay an archive or folder out in the data folder, validate it, and version it with DVC.

    Examples:

    `aesc import ~/Downloads/bottle.tar.xz`

    `aesc import ./my_product --category my_product`
    """
    from aesc.archive import extract_category
    from tasks.settings import Settings, prepare_environment

    settings = Settings()
    prepare_environment(settings)
    categories = extract_category(
        source,
        settings.data,
        name=category,
        max_bytes=int(max_gigabytes * 2**30),
        max_files=MOST_FILES,
        note=logging.getLogger("aesc").info,
    )
    reports = [
        _validate(name, settings.data, preset=preset, params_file=params_file, settings=settings) for name in categories
    ]
    lines = [f"imported {', '.join(categories)} into {settings.data}", *map(_verdict_line, reports)]
    version = None
    if ok := all(report["success"] for report in reports):
        from tasks.versioning import track_data

        version = track_data(settings)
        lines.append(f'data version {version}; to keep it: git add data.dvc && git commit -m "data: import"')
    else:
        # Images that nothing can be trained on get no version; they stay, so that the page's faults can be mended.
        lines.append("not versioned: mend the files in place, then type `aesc validate` and `dvc add data`")
    return Report(
        {"categories": categories, "data": str(settings.data), "data_version": version, "validation": reports},
        "\n".join(lines),
        ok=ok,
    )


@command
def validate(
    category: AnyCategory = None,
    data: DataFolder = None,
    preset: Preset = DEFAULT_PRESET,
    params_file: ParamsFile = None,
    as_json: Json = False,
) -> Report:
    """Check a category's images with Great Expectations; the page shows the offending ones.

    Examples:

    `aesc validate`

    `aesc validate --category bottle --data ~/mvtec --json`
    """
    from aesc.manifest import list_categories, require_category
    from tasks.settings import Settings, prepare_environment

    settings = Settings()
    prepare_environment(settings)
    root = (data or settings.data).resolve()
    if category:
        require_category(root, category)
    judge = _validate if category else _validate_or_say_why
    names = [category] if category else list_categories(root)
    reports = [judge(name, root, preset=preset, params_file=params_file, settings=settings) for name in names]
    ok = bool(reports) and all(report["success"] for report in reports)
    text = "\n".join(_verdict_line(report) for report in reports) or f"no categories in {root}"
    return Report({"data": str(root), "success": ok, "categories": reports}, text, ok=ok)


def _validate(name: str, root: Path, *, preset: str, params_file: Path | None, settings: Any) -> dict[str, Any]:
    from aesc.manifest import scan_category
    from aesc.params_file import load_params
    from tasks.validation import validate_manifest

    params = load_params(params_file or settings.root / "params.yaml", preset=preset, category=name)
    manifest = scan_category(root, name, data=params.data, cache_folder=settings.cache)
    folder = settings.state / "validation" / name
    report = validate_manifest(manifest, category=name, params=params, data_root=root, folder=folder)
    return {"category": name, **report.to_dict(), "page": str(folder / "index.html")}


def _validate_or_say_why(name: str, root: Path, **how: Any) -> dict[str, Any]:
    """As `_validate`; a category that cannot even be listed must not hide the verdicts on the others."""
    from aesc.errors import AescError

    try:
        return _validate(name, root, **how)
    except AescError as error:
        if error.usage:
            raise
        failure = {
            "expectation": "listed",
            "reason": error.where,
            "observed": error.found,
            "allowed": error.allowed,
            "todo": error.todo,
            "files": [],
            "found": [],
        }
        return {"category": name, "success": False, "n_images": 0, "failures": [failure], "notes": [], "page": None}


def _verdict_line(report: dict[str, Any]) -> str:
    if report["success"]:
        return f"{report['category']}: fine, {report['n_images']} images; page: {report['page']}"
    lines = [f"{report['category']}: not fit for training"]
    lines += [f"  {failure['reason']}: {_named(failure)}" for failure in report["failures"]]
    if report["page"]:
        lines.append(f"  page: {report['page']}")
    return "\n".join(lines)


def _named(failure: dict[str, Any]) -> str:
    """The first offending files, or what was observed where no file is at fault."""
    files = failure["files"]
    return ", ".join(files[:NAMED]) + (" ..." if len(files) > NAMED else "") or str(failure["observed"])
