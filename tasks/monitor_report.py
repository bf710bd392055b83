"""What a look came to: a run in MLflow, a page in Prefect's UI, and the events that others may act on."""

from __future__ import annotations

import base64
import logging
import uuid
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event

from aesc.files import read_json, write_atomically, write_json
from tasks.looks import end_look
from tasks.monitoring import CHANGED, DEGRADED, REPORT, SCORES_FIGURE, STAINS_FIGURE
from tasks.registry import resolve
from tasks.retries import retried_task
from tasks.tracking import log_report
from tasks.training import slug

LOGGER = logging.getLogger("aesc")
DEGRADED_EVENT, CHANGED_EVENT = "aesc.model.degraded", "aesc.scores.changed"
PAGE = "monitor.md"
_EVENTS = uuid.UUID("b7f2d0f4-53b5-4d3a-9b6e-1f0f4c8a7d55")  # namespace: one look, one event of a kind


@retried_task(task_run_name="publish the look at {category}")
def publish_look(category: str, folder: str) -> dict[str, Any]:
    """Log the look in MLflow, show it in Prefect's UI, and emit its events; the report. Safe to repeat.

    Raises:
        AescError: MLflow cannot be reached.
    """
    place = Path(folder)
    report: dict[str, Any] = read_json(place / REPORT)
    page = to_markdown(report)
    write_atomically(place / PAGE, lambda path: path.write_text(page, encoding="utf-8"))
    report["folder"], report["events"] = str(place), []
    if report["look"] is not None:
        if "run_id" not in report:
            report["run_id"] = _log(report, place)
            write_json(place / REPORT, report)
        version = resolve(category, report["version"])
        end_look(version, report["look"], run_id=report["run_id"], status=f"look {report['look']}: {report['status']}")
        report["events"] = [_emit(name, report) for name in _events(report)]
        write_json(place / REPORT, report)
    create_markdown_artifact(
        markdown="\n".join([page, *_pictures(place)]),
        key=f"monitor-{slug(category)}",
        description=f"monitor {category}",
    )
    LOGGER.info("%s, version %s: %s", category, report["version"], report["status"])
    return report


def to_markdown(report: dict[str, Any]) -> str:
    """The report as a page for people, without its figures."""
    look = report["look"]
    lines = [
        f"# {report['category']}, version {report['version']}: {report['status']}",
        "",
        f"{_sentence(report['words'])} Looked at: {report['source']}.",
        "",
    ]
    if look is None:
        return "\n".join(lines)
    rows = [
        f"| {one['what']} | {one['n']} | {one['n_calibration']} | {_number(one['p'])} | {one['level']:.3g} | "
        f"{'**alarm**' if one['alarm'] else 'no'} | {one['words']} |"
        for one in report["comparisons"]
    ]
    lines += [
        f"Look {look} at this champion, {report['new_images']} images that no look was about before; its share of "
        f"alpha {report['alpha']:g} is {report['level']:.3g}.",
        "",
        "| what | images | calibration images | p | level | alarm | found |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]
    if found := report["detectability"]:
        lines += ["## Detectability", "", _sentence(found["words"]), ""]
        for name, title in (("registered", "At the registration"), ("now", "Now")):
            if found[name]:
                lines += [f"- {title}: {found[name]['words']}."]
        lines.append("")
    return "\n".join(lines)


def _events(report: dict[str, Any]) -> list[str]:
    changed = any(one["alarm"] for one in report["comparisons"])
    degraded = report["status"] == DEGRADED
    return [name for name, said in ((CHANGED_EVENT, changed), (DEGRADED_EVENT, degraded)) if said]


def _emit(name: str, report: dict[str, Any]) -> str:
    category = report["category"]
    found = report["detectability"] or {}
    reason = found["words"] if name == DEGRADED_EVENT else report["words"]
    emit_event(
        name,
        resource={"prefect.resource.id": f"aesc.category.{category}", "prefect.resource.name": category},
        payload={
            "category": category,
            "version": report["version"],
            "preset": report["preset"],
            "look": report["look"],
            "reason": reason,
            "mlflow_run_id": report["run_id"],
        },
        id=uuid.uuid5(_EVENTS, f"{name}\n{report['model_run_id']}\n{report['look']}"),
    )
    LOGGER.warning("%s: %s: %s", name, category, reason)
    return name


def _log(report: dict[str, Any], place: Path) -> str:
    metrics = {
        "look": float(report["look"]),
        "level": report["level"],
        "new_images": float(report["new_images"]),
        "changed": float(report["status"] == CHANGED or any(one["alarm"] for one in report["comparisons"])),
        "degraded": float(report["status"] == DEGRADED),
    }
    for one in report["comparisons"]:
        name = one["what"].replace(" ", "_")
        metrics |= {f"{name}.{key}": float(one[key]) for key in ("p", "effect", "n") if one[key] is not None}
    found = report["detectability"] or {}
    for when in ("now", "registered"):
        if (found.get(when) or {}).get("size") is not None:
            metrics[f"detectability.{when}"] = found[when]["size"]
    if found.get("loss"):
        metrics["detectability.ratio"] = found["loss"]["ratio"]
    return log_report(
        report["category"],
        kind="monitor",
        metrics=metrics,
        tags={
            "model": report["model"],
            "model_run_id": report["model_run_id"],
            "data_version": report["data_version"],
            "seed": str(report["seed"]),
            "status": report["status"],
        },
        files=sorted(place.iterdir()),
    )


def _pictures(place: Path) -> list[str]:
    """The figures inside the page: an address would have to be served by somebody."""
    found = []
    for name, title in ((SCORES_FIGURE, "scores"), (STAINS_FIGURE, "detectability")):
        if (place / name).is_file():
            content = base64.b64encode((place / name).read_bytes()).decode()
            found += [f"![{title}](data:image/png;base64,{content})", ""]
    return found


def _number(value: float | None) -> str:
    return "not tested" if value is None else f"{value:.3g}"


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."
