"""Whether what was taken in is worth a retraining: a rule of the parameters, and the event that starts one.

New images are those that the newest version was not made from, whether it was promoted or not: a retraining that was
done is not asked for again. The champion's age counts as long as no younger version waits to take its place.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event

from aesc.params import Arrivals, Params
from tasks.arrival_ledger import Counts
from tasks.retries import retried_task
from tasks.settings import Settings
from tasks.staging import ledger_of
from tasks.training import slug

if TYPE_CHECKING:
    from tasks.registry import Registered

LOGGER = logging.getLogger("aesc")
EVENT = "aesc.data.accepted"
_EVENTS = uuid.UUID("6a0c9d50-6d0e-4f0e-9a55-8f2f6f6c2a11")  # namespace: one occasion, one event, however often said


@dataclass(frozen=True)
class RetrainingDecision:
    """The decision and its numbers.

    Attributes:
        worth: whether to retrain.
        reason: why, or why not, in words.
        kind: which rule said yes: "first" (there is no version), "images", "share", "age"; "" for no.
        new_images, trained_images: clean images that the newest version was not, and was, made from.
        newest_version, champion_version: None where there is none.
        champion_days: the champion's age.
    """

    worth: bool
    reason: str
    kind: str
    new_images: int
    trained_images: int
    newest_version: str | None
    champion_version: str | None
    champion_days: float | None


def decide_retraining(
    rule: Arrivals,
    *,
    counts: Counts,
    newest_version: str | None,
    champion_version: str | None,
    champion_days: float | None,
    newest_days: float | None,
) -> RetrainingDecision:
    """Apply the rule.

    Args:
        counts: of clean images.
        newest_version, champion_version: their numbers, None where there is none.
        champion_days, newest_days: their ages.
    """
    new, trained, missing = counts.new, counts.trained, counts.missing
    share = new / trained if trained else 1.0
    counted = f"{new} new clean images of {counts.clean}"
    wanted = f"{rule.retrain_images} (arrivals.retrain_images) or {rule.retrain_share:.0%} (arrivals.retrain_share)"
    if newest_version is None:
        lack = f"about {missing} more are needed for a first one" if missing else "enough for a first one"
        return RetrainingDecision(
            worth=not missing,
            reason=f"{counted}, and no version yet; {lack} (validation.min_*)",
            kind="" if missing else "first",
            new_images=new,
            trained_images=0,
            newest_version=None,
            champion_version=champion_version,
            champion_days=champion_days,
        )
    kind, reason = "", f"{counted}, {share:.0%} of the {trained} of version {newest_version}; wanted {wanted}"
    if new >= rule.retrain_images:
        kind = "images"
    elif new and share >= rule.retrain_share:
        kind = "share"
    elif champion_days is not None and newest_days is not None and newest_days >= rule.retrain_days:
        kind = "age"
        reason = (
            f"the champion is {champion_days:.1f} days old and no version is younger than "
            f"{rule.retrain_days:g} days (arrivals.retrain_days); {counted}"
        )
    return RetrainingDecision(
        worth=bool(kind),
        reason=reason,
        kind=kind,
        new_images=new,
        trained_images=trained,
        newest_version=newest_version,
        champion_version=champion_version,
        champion_days=champion_days,
    )


@retried_task(task_run_name="decide on retraining {category}")
def announce_retraining(category: str, data_root: str, params_file: str, preset: str) -> dict[str, Any]:
    """Decide, say so in an artifact, and emit `aesc.data.accepted` if it is worth it; the decision as a dictionary.

    On the same data version, version and ground the event is emitted once.
    """
    from aesc.params_file import load_params
    from tasks.versioning import pinned_version

    settings = Settings()
    params = load_params(Path(params_file), preset=preset, category=category)
    version = pinned_version(settings) or "none"
    decision = _decide(category, Path(data_root), version, params, settings)
    occasion = (category, version, decision.newest_version or "none", decision.kind)
    ledger = ledger_of(settings)
    announced = decision.worth and ledger.was_announced(*occasion)
    if decision.worth and not announced:
        emit_event(
            EVENT,
            resource={"prefect.resource.id": f"aesc.category.{category}", "prefect.resource.name": category},
            payload={
                "category": category,
                "preset": preset,
                "data_version": version,
                "new_images": decision.new_images,
                "reason": decision.reason,
            },
            id=uuid.uuid5(_EVENTS, "\n".join(occasion)),
        )
        ledger.announce(*occasion, datetime.now(UTC).isoformat(timespec="seconds"))
    LOGGER.info("retraining %s: %s", "is worth it" if decision.worth else "is not worth it yet", decision.reason)
    create_markdown_artifact(
        markdown=_markdown(category, decision, version, announced=announced),
        key=f"retraining-{slug(category)}",
        description=f"is retraining {category} worth it",
    )
    return {**asdict(decision), "event": EVENT if decision.worth and not announced else None, "data_version": version}


def _decide(
    category: str, data_root: Path, data_version: str, params: Params, settings: Settings
) -> RetrainingDecision:
    from tasks.lineage import age_in_days
    from tasks.registry import CHAMPION, find_version, newest_version

    newest, champion = newest_version(category), find_version(category, CHAMPION)
    # An ingest comes every few minutes and mostly finds nothing: the same data are not counted again.
    ledger = ledger_of(settings)
    basis = (category, data_version, newest.run_id if newest else "none", _rules(params))
    counts = ledger.counts(*basis) if data_version != "none" else None
    if counts is None:
        counts = _count(category, data_root, newest, params, settings)
        ledger.remember_counts(*basis, counts)
    return decide_retraining(
        params.arrivals,
        counts=counts,
        newest_version=newest.version if newest else None,
        champion_version=champion.version if champion else None,
        champion_days=age_in_days(champion) if champion else None,
        newest_days=age_in_days(newest) if newest else None,
    )


def _count(category: str, data_root: Path, newest: Registered | None, params: Params, settings: Settings) -> Counts:
    """Hash all images, and fetch the manifest of the newest version."""
    from aesc.layout import CLEAN_FOLDER
    from aesc.manifest import scan_category
    from aesc.shortage import images_to_add
    from tasks.lineage import clean_images_of
    from tasks.validation_table import CLEAN_SPLITS

    clean: set[str] = set()
    splits = dict.fromkeys(CLEAN_SPLITS, 0)
    if (data_root / category).is_dir():
        manifest = scan_category(data_root, category, data=params.data, cache_folder=settings.cache, need_clean=False)
        rows = manifest[(manifest["folder"] == CLEAN_FOLDER) & (manifest["error"] == "")]
        clean = set(rows["sha256"])
        splits |= {split: int((rows["split"] == split).sum()) for split in CLEAN_SPLITS}
    trained = clean_images_of(newest) if newest else set()
    missing = images_to_add(
        splits,
        minimum={split: int(getattr(params.validation, f"min_{split}")) for split in CLEAN_SPLITS},
        shares={split: float(getattr(params.data, split)) for split in CLEAN_SPLITS},
    )
    return Counts(clean=len(clean), trained=len(trained), new=len(clean - trained), missing=missing)


def _rules(params: Params) -> str:
    """The parameters that counting depends on."""
    return f"{params.data.model_dump_json()}{params.validation.model_dump_json()}"


def _markdown(category: str, decision: RetrainingDecision, version: str, *, announced: bool) -> str:
    answer = "yes" if decision.worth else "no"
    if announced:
        answer = "yes, and it was asked for before on these grounds"
    days = "none" if decision.champion_days is None else f"{decision.champion_days:.2f} days"
    return "\n".join(
        [
            f"# Retraining {category}: {answer}",
            "",
            decision.reason + ".",
            "",
            "| | |",
            "|---|---|",
            f"| new clean images | {decision.new_images} |",
            f"| images that the newest version was made from | {decision.trained_images} |",
            f"| newest version | {decision.newest_version or 'none'} |",
            f"| champion | {decision.champion_version or 'none'} |",
            f"| champion's age | {days} |",
            f"| data version | `{version}` |",
            f"| event | {'`' + EVENT + '`' if decision.worth and not announced else 'none'} |",
            "",
        ]
    )
