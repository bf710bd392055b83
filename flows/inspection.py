"""The inspection flow: what `aesc inspect` does, as a run that can be sent to a worker.

The file is not named inspect.py: Prefect puts a flow's folder on the import path, where it would hide Python's own
`inspect` from every process that the run starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from tasks.inspection import inspect_source
from tasks.settings import Settings, prepare_environment
from tasks.training import slug

SHOWN = 50  # rejected and unreadable images in the artifact; the gallery and the CSV have all


def _run_name() -> str:
    return f"inspect {flow_run.parameters.get('category')}"


@flow(name="inspect", flow_run_name=_run_name, log_prints=False)
def inspect(source: str, category: str, model: str = "champion", out: str | None = None) -> dict[str, Any]:
    """Say of each image whether it passes; heatmaps, a CSV and a gallery go into a folder.

    Args:
        source: an image or a folder of images on the worker's machine.
        category: whose detector.
        model: alias or version number, or the folder of a saved detector.
        out: the folder for heatmaps, CSV and gallery; by default one below .aesc/inspections.

    Returns:
        The counts of verdicts, where the gallery is, and which model of which data said so.
    """
    settings = Settings()
    prepare_environment(settings)
    report = inspect_source(
        Path(source), category=category, model=model, out=Path(out) if out else None, settings=settings
    )
    create_markdown_artifact(
        markdown=to_markdown(report, source=source),
        key=f"inspect-{slug(category)}",
        description=f"inspect {source}",
    )
    return {key: value for key, value in report.items() if key != "images"}


def to_markdown(report: dict[str, Any], *, source: str) -> str:
    """The report as a page for Prefect's UI: the counts, and the images that did not pass."""
    counts = report["counts"]
    found = [row for row in report["images"] if row["verdict"] != "pass"]
    rows = [
        f"| {_cell(row['path'])} | {row['verdict']} | "
        + (_cell(row["error"]) if row["score"] is None else f"{row['score']:.6g} of {row['threshold']:.6g}")
        + " |"
        for row in found[:SHOWN]
    ]
    more = [f"\n... and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return "\n".join(
        [
            f"# {report['category']}: {counts['reject']} of {sum(counts.values())} images rejected",
            "",
            f"{counts['abstain']} abstained (a person should look), {counts['pass']} passed, "
            f"{counts['error']} unreadable, in `{source}`. "
            f"By `{report['model']}`, data version `{report['data_version']}`.",
            "",
            f"Promise: {report['promise']['message']}; {report['abstention']['message']}.",
            "",
            f"Heatmaps and gallery: `{report['gallery']}`",
            *(["", "| image | verdict | score |", "|---|---|---|", *rows, *more] if rows else []),
            "",
        ]
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
