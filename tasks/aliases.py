"""Who moves which alias, when, why, and on which evidence: every move is one step, and all stand in a ledger.

The ledger is a tag of the registered model for each move, `aesc.ledger.<id>`: in MLflow, where neither another alias
nor the loss of this machine's disk can touch it. An entry is written before the first alias moves and closed after the
last. One that was never closed is a move whose process died, and the next one that comes carries it to its end. Nothing
is done twice: an alias moves only from where the entry says it was.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from aesc.errors import AescError
from tasks.lineage import readable_errors
from tasks.registry import CHALLENGER, CHAMPION, Registered, model_name
from tasks.retries import retried_task
from tasks.tracking import client

LOGGER = logging.getLogger("aesc")
PREVIOUS = "previous"
ORDER = (PREVIOUS, CHAMPION, CHALLENGER)  # the old champion gets its second name before it loses the first
PREFIX = "aesc.ledger."
BEGUN, DONE, UNDONE, OVERTAKEN = "begun", "done", "undone", "overtaken"
REGISTERED, PROMOTED, ROLLED_BACK, AWAITING = "registered", "promoted", "rolled back", "awaiting approval"
HELD, REJECTED = "held", "rejected"
LONGEST = 1000  # characters of a reason
_REGISTRATIONS = uuid.UUID("f1a3c3a4-7d5b-4d9e-8f0f-0f6d2a6c9b10")

Moves = dict[str, tuple[str | None, str | None]]


@dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    Attributes:
        id: of the move; part of the tag's name.
        at: when it began, UTC, ISO 8601.
        action: what happened, as "promoted".
        version: whom it is about.
        by: who or what did it.
        reason: why.
        moves: alias to (version before, version after); None is no version. Empty where nothing moves.
        evidence: where the record of the decision is, and what it was made on.
        state: "begun", "done", "undone" (taken back after a failure) or "overtaken" (others had moved an alias).
        note: what happened to the move itself, as "completed by a later run".
    """

    id: str
    at: str
    action: str
    version: str
    by: str
    reason: str
    moves: Moves = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)
    state: str = BEGUN
    note: str = ""

    def to_json(self) -> str:
        """The tag's value."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Entry:
        """Read a tag's value."""
        content = json.loads(text)
        content["moves"] = {alias: (old, new) for alias, (old, new) in content["moves"].items()}
        return cls(**content)


def new_entry(
    *,
    action: str,
    version: str,
    by: str,
    reason: str,
    moves: Moves | None = None,
    evidence: Mapping[str, Any] | None = None,
    number: str | None = None,
) -> Entry:
    """An entry that begins now; `number` is its id where a repetition must find it again."""
    return Entry(
        id=number or uuid.uuid4().hex,
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        action=action,
        version=version,
        by=by,
        reason=reason[:LONGEST],
        moves=dict(moves or {}),
        evidence=dict(evidence or {}),
        state=BEGUN if moves else DONE,
    )


def aliases_of(category: str) -> dict[str, str]:
    """Alias to version number; empty where nothing is registered.

    Raises:
        AescError: MLflow cannot be reached.
    """
    model = _model(category)
    return {alias: str(number) for alias, number in model.aliases.items()} if model else {}


def read_ledger(category: str) -> list[Entry]:
    """All entries, oldest first.

    Raises:
        AescError: MLflow cannot be reached.
    """
    model = _model(category)
    texts = [value for key, value in model.tags.items() if key.startswith(PREFIX)] if model else []
    return sorted((Entry.from_json(text) for text in texts), key=lambda entry: (entry.at, entry.id))


def write_entry(category: str, entry: Entry) -> None:
    """Write or replace the entry with this id; raises AescError if MLflow cannot be reached."""
    with readable_errors():
        client().set_registered_model_tag(model_name(category), PREFIX + entry.id, entry.to_json())


def promotion_moves(aliases: Mapping[str, str], version: str) -> Moves:
    """What moves if `version` becomes champion: the old one is `previous`, and nobody challenges any more."""
    wanted: dict[str, str | None] = {CHAMPION: version}
    if CHAMPION in aliases:
        wanted[PREVIOUS] = aliases[CHAMPION]
    if aliases.get(CHALLENGER) == version:
        wanted[CHALLENGER] = None
    return {
        alias: (aliases.get(alias), wanted[alias])
        for alias in ORDER
        if alias in wanted and aliases.get(alias) != wanted[alias]
    }


def move_alias(category: str, entry: Entry, alias: str) -> None:
    """Carry out one of the entry's moves; one that was carried out already stays so.

    Raises:
        AescError: somebody else has moved the alias since, or MLflow cannot be reached.
    """
    before, after = entry.moves[alias]
    now = aliases_of(category).get(alias)
    if now == after:
        return
    if now != before:
        if alias == CHALLENGER:  # a newer version was registered meanwhile: it is the challenger now
            return
        raise AescError(
            f"alias {alias} of {model_name(category)}",
            f"on version {now or 'none'}, moved by somebody else meanwhile",
            allowed=f"on version {before or 'none'}, as when the decision was made",
            todo="see `aesc history`, then decide again",
        )
    _set(category, alias, after)


def undo(category: str, entry: Entry, note: str) -> None:
    """Take the entry's moves back and close it; what others have moved since stays."""
    now = aliases_of(category)
    for alias in reversed(ORDER):
        if alias in entry.moves:
            before, after = entry.moves[alias]
            if now.get(alias) == after != before:
                _set(category, alias, before)
    write_entry(category, replace(entry, state=UNDONE, note=note))


def carry_out(category: str, entry: Entry, *, note: str = "") -> Entry:
    """Carry out all moves of an entry and close it; safe to repeat. The closed entry."""
    write_entry(category, entry)
    try:
        for alias in ORDER:
            if alias in entry.moves:
                move_alias(category, entry, alias)
    except AescError as error:
        if error.transient:
            raise
        closed = replace(entry, state=OVERTAKEN, note=str(error).splitlines()[0][:LONGEST])
    else:
        closed = replace(entry, state=DONE, note=note)
    write_entry(category, closed)
    return closed


def repair(category: str) -> list[Entry]:
    """Carry to their end the moves whose process died in between; what was repaired.

    Raises:
        AescError: MLflow cannot be reached.
    """
    repaired = []
    for entry in read_ledger(category):
        if entry.state == BEGUN:
            closed = carry_out(category, entry, note="completed by a later run: the process that began it died")
            LOGGER.warning("%s, version %s of %s: %s", entry.action, entry.version, category, closed.note)
            repaired.append(closed)
    return repaired


@retried_task(task_run_name="repair the aliases of {category}")
def repair_aliases(category: str) -> list[str]:
    """`repair`; the ids of the repaired moves."""
    return [entry.id for entry in repair(category)]


@retried_task(task_run_name="move {alias} of {category}")
def set_alias(category: str, entry: str, alias: str) -> None:
    """`move_alias`, the entry as JSON."""
    move_alias(category, Entry.from_json(entry), alias)


@retried_task(task_run_name="close the move of {category}")
def close_entry(category: str, entry: str) -> str:
    """Mark an entry as done; it as JSON."""
    closed = replace(Entry.from_json(entry), state=DONE)
    write_entry(category, closed)
    return closed.to_json()


def place_registered(version: Registered, category: str, *, by: str) -> None:
    """Give a version that was just registered its aliases: challenger, and champion where there is none."""
    number = uuid.uuid5(_REGISTRATIONS, version.run_id).hex
    entry = next((one for one in read_ledger(category) if one.id == number), None)
    if entry is None:
        entry = _registration(version, category, by=by, number=number)
    if entry.state == BEGUN:
        closed = carry_out(category, entry)
        if closed.state == OVERTAKEN:  # another first version became champion meanwhile: this one challenges it
            carry_out(category, _registration(version, category, by=by, number=number))
    else:
        write_entry(category, entry)


def _registration(version: Registered, category: str, *, by: str, number: str) -> Entry:
    now = aliases_of(category)
    first = CHAMPION not in now
    wanted = {CHAMPION: version.version, CHALLENGER: version.version} if first else {CHALLENGER: version.version}
    return new_entry(
        action=REGISTERED,
        version=version.version,
        by=by,
        reason="a new version is the challenger" + ("; there was no champion, so it is that too" if first else ""),
        moves={alias: (now.get(alias), wanted[alias]) for alias in wanted if now.get(alias) != wanted[alias]},
        evidence={"mlflow_run_id": version.run_id},
        number=number,
    )


def _set(category: str, alias: str, version: str | None) -> None:
    with readable_errors():
        if version is None:
            client().delete_registered_model_alias(model_name(category), alias)
        else:
            client().set_registered_model_alias(model_name(category), alias, version)


def _model(category: str) -> Any:
    from mlflow.exceptions import MlflowException

    with readable_errors():
        try:
            return client().get_registered_model(model_name(category))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
