"""The record of decided arrivals: all or nothing, harmless to repeat, and lost without loss."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aesc.errors import AescError
from tasks.arrival_ledger import Counts, Ledger

Row = tuple[str, str, str, str, str, str, str, str, str]
BOTTLE = ("bottle", "s3://station/clean")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "arrivals" / "ledger.db")


def row(key: str, tag: str = "t1", *, category: str = "bottle", verdict: str = "accepted", sha: str = "") -> Row:
    return (category, BOTTLE[1], key, tag, sha or f"sha of {key} {tag}", verdict, "", "batch", "now")


def test_what_was_decided_on_is_seen(ledger: Ledger) -> None:
    assert ledger.seen(*BOTTLE) == set()
    ledger.record([row("a.png"), row("b.png", verdict="quarantined")])
    ledger.record([row("a.png", "t2", verdict="known")])
    assert ledger.seen(*BOTTLE) == {("a.png", "t1"), ("b.png", "t1"), ("a.png", "t2")}
    assert Ledger(ledger.path).seen(*BOTTLE) == ledger.seen(*BOTTLE)
    assert ledger.seen("apple", BOTTLE[1]) == set()
    assert ledger.seen("bottle", "another source") == set()


def test_only_accepted_content_of_the_category_is_accepted(ledger: Ledger) -> None:
    ledger.record(
        [
            row("a.png", sha="1"),
            row("b.png", verdict="quarantined", sha="2"),
            row("c.png", verdict="known", sha="3"),
            row("d.png", category="apple", sha="4"),
        ]
    )
    assert ledger.accepted("bottle") == {"1"}


def test_the_newest_accepted_come_first(ledger: Ledger) -> None:
    for day, key in (("2024-05-01", "a.png"), ("2024-05-03", "b.png"), ("2024-05-02", "c.png")):
        ledger.record([(*row(key, sha=key)[:-1], day)])
    ledger.record([row("d.png", verdict="quarantined"), row("e.png", category="apple")])
    assert [sha256 for sha256, _, _ in ledger.newest_accepted("bottle", 2)] == ["b.png", "c.png"]


def test_counts_are_those_of_one_basis(ledger: Ledger) -> None:
    counts = Counts(clean=9, trained=5, new=4, missing=0)
    ledger.remember_counts("bottle", "v1", "run", "rules", counts)
    assert ledger.counts("bottle", "v1", "run", "rules") == counts
    for other in (("apple", "v1", "run", "rules"), ("bottle", "v2", "run", "rules"), ("bottle", "v1", "x", "rules")):
        assert ledger.counts(*other) is None
    ledger.remember_counts("bottle", "v2", "run", "rules", counts)
    assert ledger.counts("bottle", "v1", "run", "rules") is None


def test_recording_again_changes_nothing_and_a_later_decision_counts(ledger: Ledger) -> None:
    rows = [row("a.png", sha="1"), row("b.png", verdict="quarantined", sha="2")]
    for _ in range(2):
        ledger.record(rows)
    with sqlite3.connect(ledger.path) as database:
        assert database.execute("SELECT count(*) FROM seen").fetchone() == (2,)
    ledger.record([row("b.png", verdict="accepted", sha="2")])
    assert ledger.accepted("bottle") == {"1", "2"}


def test_a_batch_is_recorded_whole_or_not_at_all(ledger: Ledger) -> None:
    def breaking() -> Iterator[Row]:
        yield row("a.png")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.record(breaking())
    assert ledger.seen(*BOTTLE) == set()
    with pytest.raises(AescError, match="cannot be used"):
        ledger.record([row("a.png"), row("b.png")[:-1]])  # type: ignore[list-item]
    assert ledger.seen(*BOTTLE) == set()


def test_keys_are_data_not_sql(ledger: Ledger) -> None:
    key = "'); DROP TABLE seen; --.png"
    ledger.record([row(key)])
    assert ledger.seen(*BOTTLE) == {(key, "t1")}


def test_two_at_once_wait_for_each_other(ledger: Ledger) -> None:
    faults: list[BaseException] = []

    def write(name: str) -> None:
        try:
            for number in range(20):
                Ledger(ledger.path).record([row(f"{name}{number}.png")])
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(ledger.seen(*BOTTLE)) == 40


def test_an_announcement_is_for_its_grounds_only(ledger: Ledger) -> None:
    grounds = ("bottle", "data 1", "version 3", "images")
    assert not ledger.was_announced(*grounds)
    for _ in range(2):
        ledger.announce(*grounds, "now")
    assert ledger.was_announced(*grounds)
    for at in range(4):
        other = [*grounds[:at], "other", *grounds[at + 1 :]]
        assert not ledger.was_announced(*other)


def damaged(path: Path) -> None:
    path.write_bytes(b"this is no database at all" * 100)


def a_folder(path: Path) -> None:
    path.mkdir()


def another_database(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE seen (something TEXT)")


@pytest.mark.parametrize("spoil", [damaged, a_folder, another_database])
def test_an_unusable_file_is_named_with_what_to_do(ledger: Ledger, spoil: object) -> None:
    ledger.path.parent.mkdir()
    spoil(ledger.path)  # type: ignore[operator]
    for use in (
        lambda: ledger.seen(*BOTTLE),
        lambda: ledger.accepted("bottle"),
        lambda: ledger.record([row("a.png")]),
    ):
        with pytest.raises(AescError, match="ledger of arrivals cannot be used") as caught:
            use()
        assert caught.value.where == str(ledger.path)
        assert "moved away" in caught.value.todo
