"""Aliases move as one step, a crash in between is repaired, and the ledger has all of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from aesc.errors import AescError
from flows import promotion
from tasks import aliases
from tasks.aliases import (
    BEGUN,
    DONE,
    OVERTAKEN,
    PROMOTED,
    REGISTERED,
    UNDONE,
    Entry,
    aliases_of,
    carry_out,
    new_entry,
    place_registered,
    promotion_moves,
    read_ledger,
    repair,
    write_entry,
)
from tasks.registry import Registered, model_name
from tests.arrivals import own_environment

_NUMBERS = count()


class Killed(BaseException):
    """Not an Exception: nothing may catch it, as nothing catches a signal."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowClient]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("registry")
        own_environment(monkeypatch, folder)
        monkeypatch.setenv("AESC_HOME", str(folder / "state"))
        yield aliases.client()


@pytest.fixture
def category(registry: MlflowClient) -> str:
    """A category with three versions, none of which has an alias."""
    name = f"part-{next(_NUMBERS)}"
    registry.create_registered_model(model_name(name))
    for number in range(3):
        registry.create_model_version(model_name(name), f"file:///nowhere/{number}")
    return name


def give(registry: MlflowClient, category: str, **wanted: str) -> None:
    for alias, version in wanted.items():
        registry.set_registered_model_alias(model_name(category), alias, version)


def promotion_of(category: str, version: str) -> Entry:
    moves = promotion_moves(aliases_of(category), version)
    return new_entry(action=PROMOTED, version=version, by="a test", reason="better", moves=moves, evidence={"n": 3})


def registered(version: str) -> Registered:
    return Registered("", version, f"run {version}", ())


def killed_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """Let the process die after so many alias moves."""
    left = [calls]
    original = aliases._set

    def move(*arguments: Any) -> None:
        original(*arguments)
        left[0] -= 1
        if not left[0]:
            raise Killed

    monkeypatch.setattr(aliases, "_set", move)


def test_the_first_version_is_champion_too_and_the_ledger_says_so(registry: MlflowClient, category: str) -> None:
    place_registered(registered("1"), category, by="flow run x")
    assert aliases_of(category) == {"champion": "1", "challenger": "1"}
    place_registered(registered("2"), category, by="flow run y")
    assert aliases_of(category) == {"champion": "1", "challenger": "2"}
    place_registered(registered("2"), category, by="flow run y")  # a repetition after a crash
    first, second = read_ledger(category)
    assert (first.action, first.by, first.state) == (REGISTERED, "flow run x", DONE)
    assert "there was no champion" in first.reason
    assert first.moves == {"champion": (None, "1"), "challenger": (None, "1")}
    assert second.moves == {"challenger": ("1", "2")}


def test_a_repeated_registration_takes_nothing_from_a_newer_version(registry: MlflowClient, category: str) -> None:
    for version in ("1", "2", "1"):
        place_registered(registered(version), category, by="x")
    assert aliases_of(category) == {"champion": "1", "challenger": "2"}


def test_of_two_first_versions_at_once_one_is_champion_and_the_other_challenges_it(
    registry: MlflowClient, category: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_registered(registered("1"), category, by="flow run x")
    seen: list[dict[str, str]] = [{}]  # what the other one read just before that

    def read(name: str) -> dict[str, str]:
        return seen.pop() if seen else aliases_of(name)

    monkeypatch.setattr(aliases, "aliases_of", read)
    place_registered(registered("2"), category, by="flow run y")
    assert aliases_of(category) == {"champion": "1", "challenger": "2"}
    first, second = read_ledger(category)
    assert (first.state, second.state) == (DONE, DONE)
    assert second.moves == {"challenger": ("1", "2")}
    assert repair(category) == []


def test_a_promotion_moves_three_aliases(registry: MlflowClient, category: str) -> None:
    give(registry, category, champion="1", challenger="2")
    closed = carry_out(category, promotion_of(category, "2"))
    assert aliases_of(category) == {"champion": "2", "previous": "1"}
    assert closed.state == DONE
    assert read_ledger(category) == [closed]
    assert closed.moves == {"previous": (None, "1"), "champion": ("1", "2"), "challenger": ("2", None)}


def test_a_challenger_that_waits_meanwhile_stays_one(registry: MlflowClient, category: str) -> None:
    give(registry, category, champion="1", challenger="3")
    carry_out(category, promotion_of(category, "2"))
    assert aliases_of(category) == {"champion": "2", "previous": "1", "challenger": "3"}


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_kill_between_the_moves_is_repaired_by_the_next_one(
    registry: MlflowClient, category: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(registry, category, champion="1", challenger="2")
    with monkeypatch.context() as patch:
        killed_after(patch, calls)
        with pytest.raises(Killed):
            carry_out(category, promotion_of(category, "2"))
    (left,) = read_ledger(category)
    assert left.state == BEGUN
    assert [entry.id for entry in repair(category)] == [left.id]
    assert aliases_of(category) == {"champion": "2", "previous": "1"}
    (entry,) = read_ledger(category)
    assert (entry.state, entry.id, entry.at) == (DONE, left.id, left.at)
    assert "died" in entry.note
    assert repair(category) == []


@pytest.mark.parametrize("failing", ["champion", "challenger"])
def test_a_failed_move_takes_all_of_them_back(
    registry: MlflowClient, category: str, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(registry, category, champion="1", challenger="2")
    before = aliases_of(category)

    def move(category: str, entry: str, alias: str) -> None:
        if alias == failing:
            raise AescError("MLflow", "away", transient=True)
        aliases.move_alias(category, Entry.from_json(entry), alias)

    monkeypatch.setattr(promotion, "set_alias", move)
    with pytest.raises(AescError, match="away"):
        promotion.move_as_one(category, promotion_of(category, "2"))
    assert aliases_of(category) == before
    (entry,) = read_ledger(category)
    assert (entry.state, entry.note) == (UNDONE, "a move failed, all were taken back")
    assert repair(category) == []


def test_what_somebody_else_moved_meanwhile_is_left_alone(registry: MlflowClient, category: str) -> None:
    give(registry, category, champion="1", challenger="2")
    entry = promotion_of(category, "2")
    write_entry(category, entry)  # and then the process dies
    give(registry, category, champion="3")
    (closed,) = repair(category)
    assert closed.state == OVERTAKEN
    assert "moved by somebody else" in closed.note
    assert aliases_of(category)["champion"] == "3"


def test_a_newer_challenger_does_not_stop_a_promotion(registry: MlflowClient, category: str) -> None:
    give(registry, category, champion="1", challenger="2")
    entry = promotion_of(category, "2")
    give(registry, category, challenger="3")
    assert carry_out(category, entry).state == DONE
    assert aliases_of(category) == {"champion": "2", "previous": "1", "challenger": "3"}


def test_the_ledger_survives_moves_and_the_loss_of_the_disk(
    registry: MlflowClient, category: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = registry.tracking_uri
    for version in ("1", "2"):
        place_registered(registered(version), category, by="x")
    carry_out(category, promotion_of(category, "2"))
    before = read_ledger(category)
    monkeypatch.setenv("AESC_HOME", str(tmp_path / "another disk"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    give(registry, category, champion="3")
    registry.delete_registered_model_alias(model_name(category), "previous")
    assert read_ledger(category) == before
    assert [entry.action for entry in before] == [REGISTERED, REGISTERED, PROMOTED]


def test_nothing_registered_is_an_empty_history_and_no_server_an_error(
    registry: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (read_ledger("nothing"), aliases_of("nothing"), repair("nothing")) == ([], {}, [])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(AescError, match="not reachable") as caught:
        aliases_of("nothing")
    assert caught.value.transient
