"""Ending a batch and saying what became of it."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from prefect.artifacts import create_markdown_artifact

from tasks.arrival_batch import ACCEPTED, KNOWN, QUARANTINED, Batch
from tasks.quarantine import finish_release, quarantine_folder
from tasks.retries import retried_task
from tasks.settings import Settings
from tasks.staging import ledger_of
from tasks.training import slug


@retried_task(task_run_name="finish the batch of {category}")
def finish_batch(category: str, batch_folder: str) -> dict[str, Any]:
    """Record every decision, so that no arrival is looked at twice, and end the batch; its report. Safe to repeat."""
    settings, batch = Settings(), Batch(batch_folder)
    state, verdicts = batch.state, batch.verdicts()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    columns = ["key", "tag", "sha256", "verdict", "reason"]
    ledger_of(settings).record(
        (category, state["source"], *map(str, row), batch.name, now) for row in verdicts[columns].to_numpy().tolist()
    )
    if state.get("released"):
        finish_release(settings, batch)
    report = report_of(category, batch, settings)
    create_markdown_artifact(
        markdown=to_markdown(report), key=f"ingest-{slug(category)}", description=f"arrivals of {category}"
    )
    batch.update(finished=True)
    batch.discard_files()
    return report


def combine(category: str, source: str, batches: list[dict[str, Any]]) -> dict[str, Any]:
    """One report of the batches that an ingest brought to their end: an interrupted one, what was new, or neither."""
    reasons: Counter[str] = Counter()
    for report in batches:
        reasons.update(report["reasons"])
    counted = ("arrivals", ACCEPTED, QUARANTINED, KNOWN, "moved")
    last = {
        name: next((report[name] for report in reversed(batches) if report[name] is not None), None)
        for name in ("data_version", "commit", "remote", "gate", "quarantine_page")
    }
    return {
        "category": category,
        "source": source,
        **{name: sum(report[name] for report in batches) for name in counted},
        "reasons": dict(reasons),
        **last,
        "batches": [report["batch"] for report in batches],
        "seconds": {stage: sum(report["seconds"][stage] for report in batches) for stage in _stages(batches)},
    }


def _stages(batches: list[dict[str, Any]]) -> list[str]:
    return list(batches[0]["seconds"]) if batches else []


def report_of(category: str, batch: Batch, settings: Settings) -> dict[str, Any]:
    """What a batch came to, JSON-ready."""
    state, verdicts = batch.state, batch.verdicts()
    counts = {name: int((verdicts["verdict"] == name).sum()) for name in (ACCEPTED, QUARANTINED, KNOWN)}
    reasons = verdicts.loc[verdicts["verdict"] == QUARANTINED, "reason"].value_counts()
    page = quarantine_folder(settings, category) / "index.html"
    return {
        "category": category,
        "source": state["source"],
        "batch": batch.name,
        "arrivals": len(verdicts),
        **counts,
        "moved": state.get("moved", 0),
        "reasons": {str(name): int(count) for name, count in reasons.items()},
        **{name: state.get(name) for name in ("data_version", "commit", "remote", "gate")},
        "quarantine_page": str(page) if page.is_file() else None,
    }


def to_markdown(report: dict[str, Any]) -> str:
    """The report for a person."""
    held = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in report["reasons"].items()) or "none"
    return "\n".join(
        [
            f"# {report['category']}: {report[ACCEPTED]} of {report['arrivals']} arrivals accepted",
            "",
            f"From `{report['source']}`. Contamination gate: {report['gate'] or 'not asked'}.",
            "",
            "| | |",
            "|---|---|",
            f"| accepted | {report[ACCEPTED]} |",
            f"| quarantined | {report[QUARANTINED]}: {held} |",
            f"| in the data already | {report[KNOWN]} |",
            f"| changed while being read, left to the next run | {report['moved']} |",
            f"| data version | `{report['data_version'] or 'unchanged'}` |",
            f"| commit | `{report['commit'] or 'none'}` |",
            f"| pushed to | `{report['remote'] or 'nowhere'}` |",
            f"| quarantine | `{report['quarantine_page'] or 'empty'}` |",
            "",
        ]
    )
