"""Taking held arrivals in after all, because a person says so."""

from __future__ import annotations

from typing import Any

from prefect import flow

from aesc.presets import DEFAULT_PRESET
from flows.ingest import process_batch
from flows.one_at_a_time import DATA_LIMIT, one_at_a_time
from tasks.arrival_batch import unfinished_batch
from tasks.data_lock import INGEST, hold
from tasks.ingest_report import combine
from tasks.quarantine import HELD, find_entry, release, require_undecided
from tasks.retraining_rule import announce_retraining
from tasks.settings import Settings, prepare_environment
from tasks.versioning import ensure_data


@flow(name="release", flow_run_name="release from quarantine", log_prints=False)
def release_from_quarantine(
    entries: list[str], *, by: str, reason: str, preset: str = DEFAULT_PRESET
) -> dict[str, Any]:
    """Take quarantined arrivals in.

    Args:
        entries: their ids.
        by, reason: who decided and why; recorded with each entry and in the commit's message.
        preset: whose rule decides on a retraining.

    Returns:
        `categories`: one report a category, as `ingest` gives.
    """
    settings = Settings()
    prepare_environment(settings)
    params_file = str(settings.root / "params.yaml")
    reports = []
    with one_at_a_time(DATA_LIMIT), hold(INGEST, settings):
        records = [find_entry(settings, name) for name in entries]
        for record in records:
            require_undecided(record)
        for category in sorted({record["category"] for record in records}):
            ensure_data(settings)
            done = []
            if interrupted := unfinished_batch(settings, category):
                done.append(process_batch(category, str(interrupted.path), params_file=params_file, settings=settings))
            # The interrupted batch may have been this very release.
            current = [find_entry(settings, record["id"]) for record in records if record["category"] == category]
            held = [record for record in current if record["status"] == HELD]
            if held:
                batch = release(settings, held, by=by, why=reason, preset=preset)
                done.append(process_batch(category, str(batch.path), params_file=params_file, settings=settings))
            decision = announce_retraining(category, str(settings.data), params_file, preset)
            reports.append({**combine(category, "quarantine", done), "retraining": decision})
    return {"categories": reports}
