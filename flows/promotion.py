"""The promotion flow: the court judges a challenger, and aliases move as one step. And the way back, `rollback`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Completed
from prefect.transactions import Transaction, transaction

from aesc.errors import AescError
from aesc.files import read_json
from aesc.presets import DEFAULT_PRESET
from flows.one_at_a_time import one_at_a_time
from flows.starts import require_few_starts
from flows.tagging import tag_flow_run
from tasks.aliases import (
    AWAITING,
    BEGUN,
    HELD,
    ORDER,
    PREVIOUS,
    PROMOTED,
    REJECTED,
    ROLLED_BACK,
    Entry,
    aliases_of,
    close_entry,
    new_entry,
    promotion_moves,
    read_ledger,
    repair_aliases,
    set_alias,
    undo,
    write_entry,
)
from tasks.court import hear_versions
from tasks.court_record import RECORD, evidence_of
from tasks.data_lock import hold
from tasks.registry import CHALLENGER, CHAMPION, Registered, require_loadable, resolve
from tasks.settings import Settings, prepare_environment
from tasks.training import slug

LOGGER = logging.getLogger("aesc")
UNTOUCHED = "unchanged"


def _run_name() -> str:
    asked = flow_run.parameters
    what = "approve" if asked.get("approve") else "promote"
    return f"{what} {asked.get('version') or CHALLENGER} of {asked.get('category')}"


@flow(name="promote", flow_run_name=_run_name, log_prints=False)
def promote(
    category: str,
    version: str = CHALLENGER,
    preset: str = DEFAULT_PRESET,
    data: str | None = None,
    params_file: str | None = None,
    approve: str = "",
    by: str = "",
) -> Any:
    """Let the court compare a version with the champion on the same images, and promote it if it is shown to be better.

    Args:
        category: whose models.
        version: alias or number of the version that challenges the champion.
        preset: whose rules apply.
        data: the folder of categories; by default (or if empty) the DVC-tracked `data`.
        params_file: by default the project's params.yaml.
        approve: the reason of a person who approves a version that awaits approval; then nothing is judged again.
        by: who asks; by default the flow run.

    Returns:
        The decision and what came of it: status "promoted", "held", "rejected", "awaiting approval" or "unchanged".

    Raises:
        AescError: a version cannot be loaded, a metric is missing, MLflow cannot be reached. No alias has moved then.
    """
    settings = _opened()
    parameters = str(params_file or settings.root / "params.yaml")
    tag_flow_run(category)
    with one_case(category, settings):
        repaired = repair_aliases(category)
        if approve:
            report = _approve(category, version, reason=approve, by=by or _who())
        else:
            data_root = str(Path(data).resolve() if data else settings.data)
            report = _promote(
                category, version, preset=preset, data_root=data_root, params_file=parameters, by=by or _who()
            )
    report |= {"category": category, "repaired": repaired, "aliases": aliases_of(category)}
    LOGGER.info("%s, version %s: %s", category, report["version"], report["status"])
    if report["status"] == AWAITING:
        said = f"version {report['version']} awaits approval: aesc approve {report['version']} --category {category}"
        return Completed(name="AwaitingApproval", message=said, data=report)
    return report


@flow(
    name="rollback",
    flow_run_name=lambda: f"roll {flow_run.parameters.get('category')} back",
    log_prints=False,
)
def rollback(category: str, reason: str, to: str = PREVIOUS, by: str = "") -> dict[str, Any]:
    """Make another version the champion, without the court.

    Args:
        category: whose champion.
        reason: why; it stands in the ledger.
        to: alias or number of the version that becomes champion.
        by: who asks; by default the flow run.

    Returns:
        The versions before and after, and the aliases.

    Raises:
        AescError: no such version, its files cannot be loaded, or MLflow cannot be reached.
    """
    settings = _opened()
    if not reason.strip():
        raise AescError("reason", "empty", allowed="why the champion is replaced", usage=True)
    tag_flow_run(category)
    with one_case(category, settings):
        repaired = repair_aliases(category)
        target = resolve(category, to)
        aliases = aliases_of(category)
        if aliases.get(CHAMPION) == target.version:
            raise AescError(
                f"version {target.version} of {category}", "is the champion already", todo="see `aesc history`"
            )
        require_loadable(category, target)
        moves = promotion_moves(aliases, target.version)
        entry = move_as_one(
            category,
            new_entry(action=ROLLED_BACK, version=target.version, by=by or _who(), reason=reason, moves=moves),
        )
    return {
        "category": category,
        "status": ROLLED_BACK,
        "version": target.version,
        "from": aliases.get(CHAMPION),
        "reason": reason,
        "ledger": entry.id,
        "repaired": repaired,
        "aliases": aliases_of(category),
    }


def move_as_one(category: str, entry: Entry) -> Entry:
    """Move the entry's aliases inside a transaction: all of them, or, if one fails, none.

    If even the way back fails (MLflow is away), or the process is killed, the entry stays open, and the next run
    completes it.
    """

    def take_back(_: Transaction) -> None:
        undo(category, entry, note="a move failed, all were taken back")

    with transaction() as step:
        step.stage(entry.id, on_rollback_hooks=[take_back])
        write_entry(category, entry)
        for alias in ORDER:
            if alias in entry.moves:
                set_alias(category, entry.to_json(), alias)
        return Entry.from_json(close_entry(category, entry.to_json()))


@contextmanager
def one_case(category: str, settings: Settings) -> Iterator[None]:
    """One promotion or rollback of a category at a time: by a lock file, across machines by a limit of the server."""
    court = f"court-{slug(category)}"
    with one_at_a_time(f"aesc-{court}"), hold(court, settings):
        yield


def _opened() -> Settings:
    if LOGGER.level == logging.NOTSET:  # under a worker nobody else asks for the stages' lines
        LOGGER.setLevel(logging.INFO)
    require_few_starts()
    settings = Settings()
    prepare_environment(settings)
    return settings


def _who() -> str:
    return f"flow run {flow_run.name}"


def _promote(category: str, version: str, *, preset: str, data_root: str, params_file: str, by: str) -> dict[str, Any]:
    from aesc.params_file import load_params

    rules = load_params(Path(params_file), preset=preset, category=category).promotion
    aliases = aliases_of(category)
    if version == CHALLENGER and CHALLENGER not in aliases and CHAMPION in aliases:
        return _unchanged(aliases[CHAMPION], "nobody challenges the champion")
    challenger, champion = resolve(category, version), resolve(category, CHAMPION)
    if challenger.version == champion.version:
        return _unchanged(champion.version, f"version {champion.version} is the champion already")
    folder = Path(
        hear_versions(
            category,
            champion.version,
            challenger.version,
            preset=preset,
            data_root=data_root,
            params_file=params_file,
        )
    )
    decision = read_json(folder / RECORD)
    verdict = decision["verdict"]
    reason, evidence = "; ".join(decision["reasons"]), evidence_of(decision)
    report = {
        "version": challenger.version,
        "champion_before": champion.version,
        "page": str(folder / "index.html"),
        **decision,
        "challenger": decision["challenger"],
    }
    if verdict == "PROMOTE" and rules.approval == "automatic":
        moves = promotion_moves(aliases_of(category), challenger.version)
        entry = new_entry(
            action=PROMOTED, version=challenger.version, by=by, reason=reason, moves=moves, evidence=evidence
        )
        return report | {"status": PROMOTED, "ledger": move_as_one(category, entry).id}
    status = {"PROMOTE": AWAITING, "HOLD": HELD, "REJECT": REJECTED}[verdict]
    entry = new_entry(action=status, version=challenger.version, by=by, reason=reason, evidence=evidence)
    write_entry(category, entry)
    return report | {"status": status, "ledger": entry.id}


def _approve(category: str, version: str, *, reason: str, by: str) -> dict[str, Any]:
    """Finish a promotion that awaited a person, if it is still the same question."""
    found = resolve(category, version)
    about = [entry for entry in read_ledger(category) if entry.version == found.version and entry.state != BEGUN]
    judged = [entry for entry in about if entry.action in (AWAITING, HELD, REJECTED, PROMOTED, ROLLED_BACK)]
    if not judged or judged[-1].action != AWAITING:
        last = judged[-1].action if judged else "nothing"
        raise AescError(
            f"version {found.version} of {category}",
            f"does not await approval; the last that was decided on it: {last}",
            allowed="a version whose last decision is 'awaiting approval' in `aesc history`",
            todo=f"aesc promote --category {category}",
            usage=True,
        )
    asked = judged[-1]
    _require_same_champion(category, found, asked)
    require_loadable(category, found)
    moves = promotion_moves(aliases_of(category), found.version)
    entry = new_entry(
        action=PROMOTED,
        version=found.version,
        by=by,
        reason=f"approved: {reason}; the court: {asked.reason}",
        moves=moves,
        evidence={**asked.evidence, "awaiting": asked.id, "approved_by": by, "approval": reason},
    )
    entry = move_as_one(category, entry)
    return {
        "status": PROMOTED,
        "version": found.version,
        "champion_before": asked.evidence["champion"],
        "verdict": asked.evidence["verdict"],
        "reasons": [entry.reason],
        "record": asked.evidence["record"],
        "ledger": entry.id,
    }


def _require_same_champion(category: str, version: Registered, asked: Entry) -> None:
    champion = aliases_of(category).get(CHAMPION)
    if champion != asked.evidence["champion"]:
        raise AescError(
            f"version {version.version} of {category}",
            f"was compared with version {asked.evidence['champion']}; the champion is {champion or 'none'} now",
            allowed="the champion that the court knew",
            todo=f"ask the court again: aesc promote --category {category} --version {version.version}",
        )


def _unchanged(version: str, reason: str) -> dict[str, Any]:
    return {"status": UNTOUCHED, "version": version, "champion_before": version, "verdict": "HOLD", "reasons": [reason]}
