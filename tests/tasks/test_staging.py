"""Copying arrivals into a batch: incremental, resumable, and whole whatever happens on the way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from aesc.errors import AescError
from tasks import staging
from tasks.arrival_batch import Batch, batches_folder, new_batch, unfinished_batch
from tasks.settings import Settings
from tasks.staging import ledger_of, list_arrivals, stage_arrivals
from tests.arrivals import largest_file, own_environment, sha256
from tests.repositories import write

CATEGORY = "bottle"
LONG_AGO = 1_700_000_000.0


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    own_environment(monkeypatch, tmp_path)
    return Settings()


@pytest.fixture
def inbox(settings: Settings) -> Path:
    for number in range(4):
        put(settings.root / "inbox" / f"{number}.png", f"image {number}".encode())
    return settings.root / "inbox"


def put(path: Path, content: bytes, *, modified: float = LONG_AGO) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (modified, modified))


def listed(inbox: Path) -> Batch | None:
    folder = list_arrivals.fn(CATEGORY, str(inbox), "quick", 10.0)
    return Batch(folder) if folder else None


def opened(inbox: Path) -> Batch:
    batch = listed(inbox)
    assert batch is not None
    return batch


def staged(batch: Batch) -> int:
    return stage_arrivals.fn(CATEGORY, str(batch.path))


def decide(settings: Settings, batch: Batch) -> None:
    """End a batch as if all of it had been decided on."""
    rows = batch.staged()[["key", "tag", "sha256"]].to_numpy().tolist()
    source = batch.state["source"]
    ledger_of(settings).record((CATEGORY, source, *row, "accepted", "", batch.name, "now") for row in rows)
    batch.update(finished=True)


def copies(batch: Batch) -> dict[str, bytes]:
    """By key."""
    table = batch.staged()
    return {key: (batch.files / file).read_bytes() for key, file in zip(table["key"], table["file"], strict=True)}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_that_arrived_is_copied_once(settings: Settings, inbox: Path) -> None:
    before = dict(sorted(contents(inbox).items()))
    batch = opened(inbox)
    assert batch.state["new"] == batch.state["listed"] == 4
    assert staged(batch) == 4
    assert copies(batch) == before
    assert list(batch.staged()["sha256"]) == [sha256(content) for content in before.values()]
    assert contents(inbox) == before
    decide(settings, batch)
    assert listed(inbox) is None
    put(inbox / "sub" / "4.png", b"image 4")
    put(inbox / "0.png", b"IMAGE 0", modified=LONG_AGO + 1)
    second = opened(inbox)
    staged(second)
    assert copies(second) == {"0.png": b"IMAGE 0", "sub/4.png": b"image 4"}


def test_nothing_new_opens_no_batch(settings: Settings, inbox: Path) -> None:
    for path in inbox.iterdir():
        path.unlink()
    assert listed(inbox) is None
    assert not batches_folder(settings, CATEGORY).exists()


def test_an_interrupted_batch_is_taken_up_before_anything_new(inbox: Path) -> None:
    batch = opened(inbox)
    put(inbox / "9.png", b"image 9")
    assert opened(inbox).path == batch.path
    assert staged(batch) == 4
    assert "9.png" not in copies(batch)


def test_a_batch_that_was_never_opened_whole_is_no_batch(settings: Settings, inbox: Path) -> None:
    batch = opened(inbox)
    (batch.path / "batch.json").unlink()  # the state is written last
    assert unfinished_batch(settings, CATEGORY) is None
    again = opened(inbox)
    assert again.path != batch.path
    assert not batch.path.exists()


def test_staging_again_fetches_nothing(inbox: Path) -> None:
    batch = opened(inbox)
    staged(batch)
    before = copies(batch)
    for path in inbox.iterdir():
        path.unlink()
    assert staged(batch) == 4
    assert copies(batch) == before


def test_a_killed_copy_goes_on_where_it_was(inbox: Path) -> None:
    batch = opened(inbox)
    staged(batch)
    expected = copies(batch)
    # As after a kill: some files are whole, one is half written, no table.
    batch.staged_file.unlink()
    (batch.files / "0000002.png").unlink()
    (batch.files / "0000003.png").rename(batch.files / "0000003.png.part")
    (batch.files / "0000003.png.part").write_bytes(b"ima")
    for name in ("0.png", "1.png"):  # their copies are all that is left of them
        (inbox / name).unlink()
    kept = (batch.files / "0000000.png").stat()
    assert staged(batch) == 4
    assert copies(batch) == expected
    assert batch.state["moved"] == 0
    assert (batch.files / "0000000.png").stat().st_ino == kept.st_ino
    assert not list(batch.files.glob("*.part"))


def test_a_full_disk_stops_it_and_space_lets_it_go_on(settings: Settings, inbox: Path) -> None:
    big = os.urandom(2 << 20)
    put(inbox / "2.png", big)
    batch = opened(inbox)
    with largest_file(1 << 20), pytest.raises(AescError, match=r"could not be written: File too large") as caught:
        staged(batch)
    assert "what was copied is kept" in caught.value.todo
    assert not batch.staged_file.exists()
    assert sorted(path.name for path in batch.files.iterdir()) == ["0000000.png", "0000001.png", "0000003.png"]
    inodes = {path.name: path.stat().st_ino for path in batch.files.iterdir()}
    assert opened(inbox).path == batch.path
    assert staged(batch) == 4
    assert copies(batch)["2.png"] == big
    assert {name: (batch.files / name).stat().st_ino for name in inodes} == inodes


def test_no_space_for_the_batch_itself_is_said_and_leaves_none(settings: Settings, inbox: Path) -> None:
    ledger_of(settings).record([])  # a new ledger would not fit either
    with largest_file(100), pytest.raises(AescError, match="File too large"):
        listed(inbox)
    assert unfinished_batch(settings, CATEGORY) is None
    assert staged(opened(inbox)) == 4
    assert len(list(batches_folder(settings, CATEGORY).iterdir())) == 1


def test_what_moved_is_left_to_the_next_run(settings: Settings, inbox: Path) -> None:
    batch = opened(inbox)
    put(inbox / "1.png", b"written on", modified=LONG_AGO + 9)
    (inbox / "3.png").unlink()
    assert staged(batch) == 2
    assert batch.state["moved"] == 2
    assert set(copies(batch)) == {"0.png", "2.png"}
    decide(settings, batch)
    second = opened(inbox)
    staged(second)
    assert copies(second) == {"1.png": b"written on"}


def test_all_of_it_may_have_moved(inbox: Path) -> None:
    batch = opened(inbox)
    for path in inbox.iterdir():
        path.unlink()
    assert staged(batch) == 0
    assert staged(batch) == 0
    assert list(batch.staged().columns) == ["key", "tag", "size", "modified", "sha256", "file"]


@pytest.mark.parametrize("suffix", [".PNG", ".jpeg", "", ".p/../../x", ".verylongsuffix", ".<b>", ". png"])
def test_no_key_decides_where_its_copy_goes(settings: Settings, suffix: str) -> None:
    inbox = settings.root / "inbox"
    put(inbox / "sub" / f"a{suffix.replace('/', '_')}", b"image")
    batch = opened(inbox)
    staged(batch)
    (file,) = batch.staged()["file"]
    assert file == "0000000" + (suffix.lower() if suffix in (".PNG", ".jpeg") else "")
    assert [path.name for path in batch.files.iterdir()] == [file]


def test_a_source_that_went_away_under_a_batch_is_said_with_the_way_out(settings: Settings, inbox: Path) -> None:
    batch = opened(inbox)
    inbox.rename(inbox.with_name("unplugged"))
    with pytest.raises(AescError, match="no such folder") as caught:
        staged(batch)
    assert str(batch.path) in caught.value.todo
    inbox.with_name("unplugged").rename(inbox)
    assert staged(batch) == 4


def test_more_arrivals_than_are_under_way_at_once_keep_their_order(
    settings: Settings, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "DOWNLOADS", 2)
    for number in range(30):
        put(inbox / f"more {number:02d}.png", f"more {number}".encode())
    batch = opened(inbox)
    assert staged(batch) == 34
    assert list(batch.staged()["key"]) == sorted(contents(inbox))
    assert copies(batch) == contents(inbox)


def test_a_damaged_table_says_what_to_delete(inbox: Path) -> None:
    batch = opened(inbox)
    write(batch.staged_file, "no parquet")
    with pytest.raises(AescError, match=r"staged\.parquet: not readable") as caught:
        staged(batch)
    assert "delete it" in caught.value.todo
    batch.staged_file.unlink()
    assert staged(batch) == 4


def test_what_fill_cannot_write_opens_no_batch(settings: Settings) -> None:
    import pandas as pd

    def fill(batch: Batch) -> None:
        (batch.files / "big").write_bytes(bytes(2 << 20))

    state: dict[str, Any] = {"source": "quarantine", "preset": "quick"}
    with largest_file(1 << 20), pytest.raises(AescError, match="File too large"):
        new_batch(settings, CATEGORY, objects=pd.DataFrame({"key": ["a"]}), state=state, fill=fill)
    assert unfinished_batch(settings, CATEGORY) is None
