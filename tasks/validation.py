"""Validation: Great Expectations judges the manifest before anything is trained. Bound by one CPU core, for seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import task

from aesc.errors import AescError
from aesc.files import write_atomically, write_json
from aesc.params import Params
from aesc.splits import TEST
from tasks.expectations import meta_of, run_suite
from tasks.run_folder import RunFolder
from tasks.validation_page import render_page
from tasks.validation_suite import build_suite
from tasks.validation_table import profile_clean, tabulate

FILES_NAMED = 10  # of each failed expectation, in the error; the page and result.json have more
_NEXT_LINE = "\n" + " " * 11  # as deep as `AescError` prints its parts


@dataclass(frozen=True)
class Failure:
    """An expectation that was not met.

    Attributes:
        expectation: its name, as "unique_content".
        reason: what is wrong, in a few words.
        observed: how much of it was found.
        allowed, todo: what is allowed, and what to do.
        files: offending images, or masks without an image; below the data root. Empty where a count is at fault.
        found: what was found in each of `files`, in the same order.
    """

    expectation: str
    reason: str
    observed: str
    allowed: str
    files: tuple[str, ...]
    found: tuple[str, ...]
    todo: str


@dataclass(frozen=True)
class Note:
    """Something to know that stops nothing."""

    expectation: str
    text: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Check:
    """An expectation that a run depends on, and whether it was met."""

    name: str
    description: str
    success: bool


@dataclass(frozen=True)
class ValidationReport:
    """What validation says of one category.

    Attributes:
        success: whether every check passed.
        data_root: the folder that all files are below.
        n_images: all images, usable or not; masks do not count.
        counts: usable images in train, validation, calibration and test.
        checks, failures, notes: in the suite's order.
        page, result: the files written, index.html and result.json.
    """

    category: str
    success: bool
    data_root: str
    n_images: int
    counts: Mapping[str, int]
    checks: tuple[Check, ...]
    failures: tuple[Failure, ...]
    notes: tuple[Note, ...]
    page: str
    result: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return asdict(self)


@task(task_run_name="validate {category}")
def validate_data(category: str, data_root: str, run_folder: str) -> str:
    """Validate a run's images before anything is trained on them; the path of the result.

    Raises:
        AescError: an expectation failed.
    """
    run = RunFolder(run_folder)
    report = validate_manifest(
        run.manifest(), category=category, params=run.params(), data_root=Path(data_root), folder=run.validation
    )
    ensure_valid(report)
    return report.result


def validate_manifest(
    manifest: pd.DataFrame, *, category: str, params: Params, data_root: Path, folder: Path
) -> ValidationReport:
    """Judge a category's images and write what was found.

    Args:
        manifest: the category's, see `aesc.manifest`.
        category: its name.
        params: limits and shares.
        data_root: the folder that the manifest's paths are below.
        folder: gets `result.json` (the report and Great Expectations' own result) and `index.html`; made if absent.

    Raises:
        AescError: `folder` cannot be written.
    """
    table = tabulate(manifest, min_std=params.validation.min_std)
    profile = profile_clean(table)
    build = partial(build_suite, params, profile=profile, category=category)
    outcome = run_suite(table, build, name=category, index="path")
    rows = {str(row["path"]): row for row in table.to_dict("records")}
    results = outcome["results"]
    binding = [result for result in results if result["expectation_config"]["severity"] == "critical"]
    failures = tuple(_failure(result, rows) for result in binding if not result["success"])
    report = ValidationReport(
        category=category,
        success=not failures,
        data_root=str(data_root),
        n_images=int((table["part"] != "mask").sum()),
        counts={**profile.counts, TEST: int((table["part"] == "test").sum())},
        checks=tuple(
            Check(meta_of(result)["name"], result["expectation_config"]["description"], bool(result["success"]))
            for result in binding
        ),
        failures=failures,
        notes=tuple(
            note
            for result in results
            if result not in binding and not result["success"]
            for note in _notes(result, rows)
        ),
        page=str(folder / "index.html"),
        result=str(folder / "result.json"),
    )
    page = render_page(report, table, data_root=data_root, max_megapixels=params.data.max_megapixels)
    write_atomically(folder / "index.html", lambda file: _write_text(file, page))
    write_json(folder / "result.json", {**report.to_dict(), "great_expectations": _plain(outcome)})
    return report


def ensure_valid(report: ValidationReport) -> None:
    """Stop here unless every check passed.

    Raises:
        AescError: what failed, naming the first files of each failure, and the page that shows them.
    """
    if report.success:
        return
    lines = [f"{len(report.failures)} of {len(report.checks)} checks of the images failed"]
    for failure in report.failures:
        lines.append(f"  {failure.reason}: {failure.observed}")
        named = zip(failure.files[:FILES_NAMED], failure.found, strict=False)
        lines += [f"    {file}: {found}" for file, found in named]
        if len(failure.files) > FILES_NAMED:
            lines.append(f"    and {len(failure.files) - FILES_NAMED} more")
    raise AescError(
        Path(report.data_root) / report.category,
        "\n".join(lines),
        allowed=_said_once([(failure.reason, failure.allowed) for failure in report.failures]),
        todo=_said_once([(failure.reason, failure.todo) for failure in report.failures])
        + f"{_NEXT_LINE}open the page {report.page}",
    )


def _write_text(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def _offending(result: Mapping[str, Any], rows: Mapping[str, Mapping[Any, Any]]) -> list[str]:
    """Paths of the unexpected rows; copies beside the file that they equal."""

    def position(path: str) -> tuple[str, str]:
        row = rows[path]
        partner = row["twin"] or str(row["also_in"] or "").partition(": ")[2]
        paired = partner and meta_of(result)["name"] in ("unique_content", "separate_splits")
        return (min(path, partner) if paired else path), path

    found = result["result"].get("unexpected_index_list") or []
    return sorted({str(index["path"]) for index in found}, key=position)


def _failure(result: Mapping[str, Any], rows: Mapping[str, Mapping[Any, Any]]) -> Failure:
    meta, files = meta_of(result), _offending(result, rows)
    return Failure(
        expectation=meta["name"],
        reason=meta["reason"],
        observed=_number(len(files), "file") if files else meta["found"],
        allowed=meta["allowed"],
        files=tuple(files),
        found=tuple(meta["found"].format_map(rows[path]) for path in files),
        todo=meta["todo"],
    )


def _notes(result: Mapping[str, Any], rows: Mapping[str, Mapping[Any, Any]]) -> list[Note]:
    name, files = meta_of(result)["name"], _offending(result, rows)
    if name != "masks_complete":
        return [Note(name, f"{meta_of(result)['reason']}: {len(files)}", tuple(files))]
    notes = []
    for defect in sorted({str(rows[path]["defect"]) for path in files}):
        bare = tuple(path for path in files if rows[path]["defect"] == defect)
        total = sum(row["part"] == "test" and row["defect"] == defect for row in rows.values())
        extent = "not available" if len(bare) == total else f"of {total - len(bare)} images only"
        text = f"pixel metrics of type {defect} {extent}: {len(bare)} of {total} images have no mask"
        notes.append(Note(name, text, bare))
    return notes


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _said_once(pairs: Sequence[tuple[str, str]]) -> str:
    """Each text once, behind the reasons that it belongs to if there are others."""
    reasons: dict[str, list[str]] = {}
    for reason, text in pairs:
        reasons.setdefault(text, []).append(reason)
    if len(reasons) == 1:
        return pairs[0][1]
    return _NEXT_LINE.join(f"{'; '.join(those)}: {text}" for text, those in reasons.items())


def _plain(value: Any) -> Any:
    """The same value in types that JSON has; what is missing or not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
