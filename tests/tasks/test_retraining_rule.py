"""When retraining is worth it: the rule by table."""

from __future__ import annotations

from typing import Any

import pytest

from aesc.params import Arrivals
from tasks.arrival_ledger import Counts
from tasks.retraining_rule import RetrainingDecision, decide_retraining

RULE = Arrivals(
    settle_seconds=10,
    band_width=3.0,
    band_images=20,
    near_duplicate_bits=10,
    retrain_images=50,
    retrain_share=0.1,
    retrain_days=30,
)


def images(start: int, stop: int) -> set[str]:
    return {f"sha {number}" for number in range(start, stop)}


def decided(
    *,
    trained: int | None,
    new: int,
    gone: int = 0,
    champion_days: float | None = 1.0,
    newest_days: float | None = 1.0,
    missing: int = 0,
    **rule: Any,
) -> RetrainingDecision:
    """`trained` images made the newest version (None: there is none), `gone` of them were removed, `new` came."""
    have = trained is not None
    clean, learnt = images(gone, (trained or 0) + new), images(0, trained or 0)
    return decide_retraining(
        RULE.model_copy(update=rule),
        counts=Counts(clean=len(clean), trained=len(learnt), new=len(clean - learnt), missing=missing),
        newest_version="4" if have else None,
        champion_version="3" if have and champion_days is not None else None,
        champion_days=champion_days if have else None,
        newest_days=newest_days if have else None,
    )


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        # so many new images
        ({"trained": 1000, "new": 50}, "images"),
        ({"trained": 1000, "new": 49}, ""),
        # no version yet: as many as a first one needs
        ({"trained": None, "new": 30}, "first"),
        ({"trained": None, "new": 500, "missing": 1}, ""),
        ({"trained": None, "new": 0, "missing": 30}, ""),
        ({"trained": 1000, "new": 1, "retrain_images": 1}, "images"),
        # such a share of those trained on
        ({"trained": 200, "new": 20}, "share"),
        ({"trained": 200, "new": 19}, ""),
        ({"trained": 5, "new": 1}, "share"),
        ({"trained": 200, "new": 49, "retrain_share": 0.5}, ""),
        ({"trained": 0, "new": 1}, "share"),
        ({"trained": 0, "new": 0}, ""),
        ({"trained": 200, "new": 60}, "images"),
        # an image that was removed is no new one
        ({"trained": 200, "new": 19, "gone": 100}, ""),
        ({"trained": 200, "new": 0, "gone": 100}, ""),
        # a champion of this age, and nothing younger waits
        ({"trained": 200, "new": 0, "champion_days": 30.0, "newest_days": 30.0}, "age"),
        ({"trained": 200, "new": 0, "champion_days": 29.9, "newest_days": 29.9}, ""),
        ({"trained": 200, "new": 0, "champion_days": 90.0, "newest_days": 2.0}, ""),
        ({"trained": 200, "new": 0, "champion_days": None, "newest_days": 90.0}, ""),
        ({"trained": 200, "new": 20, "champion_days": 90.0, "newest_days": 90.0}, "share"),
    ],
    ids=str,
)
def test_the_rule(case: dict[str, Any], kind: str) -> None:
    decision = decided(**case)
    assert decision.kind == kind
    assert decision.worth == bool(kind)
    assert decision.new_images == case["new"]
    assert decision.trained_images == (case["trained"] or 0)


def test_the_reason_has_the_numbers_that_were_compared() -> None:
    assert decided(trained=200, new=19).reason == (
        "19 new clean images of 219, 10% of the 200 of version 4; "
        "wanted 50 (arrivals.retrain_images) or 10% (arrivals.retrain_share)"
    )
    assert decided(trained=None, new=12, missing=19).reason == (
        "12 new clean images of 12, and no version yet; about 19 more are needed for a first one (validation.min_*)"
    )
    aged = decided(trained=200, new=3, champion_days=40.25, newest_days=40.25).reason
    assert aged == (
        "the champion is 40.2 days old and no version is younger than 30 days (arrivals.retrain_days); "
        "3 new clean images of 203"
    )


def test_the_decision_names_the_versions() -> None:
    decision = decided(trained=200, new=0, champion_days=5.0)
    assert (decision.newest_version, decision.champion_version, decision.champion_days) == ("4", "3", 5.0)
    assert decided(trained=None, new=0).newest_version is None
