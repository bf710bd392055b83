"""The inbox folder as a source: what counts as arrived, and a verified copy of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from aesc.errors import AescError
from tasks.arrival import Arrival, MovedError
from tasks.arrivals import Source, arriving_categories, open_source
from tasks.settings import Settings
from tests.arrivals import sha256

LONG_AGO = 1_700_000_000.0


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


def put(path: Path, content: bytes = b"image", *, modified: float = LONG_AGO) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (modified, modified))
    return path


def opened(folder: Path, *, settle: float = 10) -> Source:
    return open_source(str(folder), settings=Settings(root=folder), settle_seconds=settle)


def keys(folder: Path, *, settle: float = 10) -> list[str]:
    return [arrival.key for arrival in opened(folder, settle=settle).listing()]


def only(folder: Path) -> tuple[Source, Arrival]:
    source = opened(folder)
    (arrival,) = source.listing()
    return source, arrival


def test_an_arrival_is_described_and_copied(inbox: Path, tmp_path: Path) -> None:
    path = put(inbox / "a.png", b"0123456789")
    source, arrival = only(inbox)
    assert (arrival.key, arrival.size) == ("a.png", 10)
    assert datetime.fromisoformat(arrival.modified).timestamp() == LONG_AGO
    assert source.fetch(arrival, tmp_path / "copy") == sha256(b"0123456789")
    assert (tmp_path / "copy").read_bytes() == b"0123456789"
    assert path.read_bytes() == b"0123456789"
    assert path.stat().st_mtime == LONG_AGO


def test_large_files_are_whole(inbox: Path, tmp_path: Path) -> None:
    content = os.urandom((1 << 20) * 2 + 17)  # more than one chunk
    put(inbox / "a.png", content)
    source, arrival = only(inbox)
    assert source.fetch(arrival, tmp_path / "copy") == sha256(content)
    assert (tmp_path / "copy").read_bytes() == content


def test_nested_keys_are_paths_below_the_source_in_order(inbox: Path) -> None:
    for name in ("b/2.png", "b/1.png", "a/x/y/3.png", "0.png"):
        put(inbox / name)
    assert keys(inbox) == ["0.png", "a/x/y/3.png", "b/1.png", "b/2.png"]


def test_a_file_is_left_alone_until_it_has_settled(inbox: Path) -> None:
    now = time.time()
    put(inbox / "growing.png", modified=now - 3)
    put(inbox / "settled.png", modified=now - 60)
    assert keys(inbox) == ["settled.png"]
    assert keys(inbox, settle=2) == ["growing.png", "settled.png"]


def test_a_sender_whose_clock_runs_ahead_does_not_wait_for_ever(inbox: Path) -> None:
    put(inbox / "tomorrow.png", modified=time.time() + 86400)
    assert keys(inbox) == []
    time.sleep(0.1)
    assert keys(inbox, settle=0.05) == ["tomorrow.png"]


@pytest.mark.parametrize(
    "name",
    [
        ".a.png.xYz1",  # rsync
        "a.png.part",
        "a.png.PARTIAL",
        "a.png.tmp",
        "a.png.crdownload",
        "a.png.filepart",
        "._a.png",
        ".DS_Store",
        "Thumbs.db",
        "README.txt",
        ".sync/a.png",
    ],
)
def test_hidden_and_unfinished_files_have_not_arrived(inbox: Path, name: str) -> None:
    put(inbox / name)
    put(inbox / "sub" / name)
    assert keys(inbox) == []
    put(inbox / "part.png")
    assert keys(inbox) == ["part.png"]


def test_links_and_special_files_are_not_followed(inbox: Path, tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "secret.png")
    (inbox / "file.png").symlink_to(tmp_path / "elsewhere" / "secret.png")
    (inbox / "folder").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (inbox / "nowhere.png").symlink_to(tmp_path / "nothing")
    os.mkfifo(inbox / "pipe.png")
    os.utime(inbox / "pipe.png", (LONG_AGO, LONG_AGO))
    assert keys(inbox) == []


def test_names_may_be_anything_else(inbox: Path) -> None:
    names = ["<script>.png", 'quote".png', "über 1.PNG", "line\nbreak.png"]
    for name in names:
        put(inbox / name)
    assert sorted(keys(inbox)) == sorted(names)


def test_a_name_that_no_record_can_hold_is_said(inbox: Path) -> None:
    put(Path(os.fsdecode(os.fsencode(inbox) + b"/bad\xff.png")))
    with pytest.raises(AescError, match="not UTF-8"):
        keys(inbox)


@pytest.mark.parametrize("rewritten", [b"IMAGE", b"a longer image", b""])
def test_the_tag_changes_with_the_content(inbox: Path, rewritten: bytes) -> None:
    put(inbox / "a.png", b"image")
    _, before = only(inbox)
    assert only(inbox)[1] == before
    put(inbox / "a.png", rewritten, modified=LONG_AGO + (0 if len(rewritten) != 5 else 1e-3))
    _, after = only(inbox)
    assert (after.key, after.tag != before.tag) == ("a.png", True)


def rewrite(path: Path) -> None:
    put(path, b"other", modified=LONG_AGO + 5)


def grow(path: Path) -> None:
    put(path, b"image and more")


def remove(path: Path) -> None:
    path.unlink()


def exchange_for_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def exchange_for_link(path: Path) -> None:
    put(path.parent / "b.txt", path.read_bytes())
    path.unlink()
    path.symlink_to(path.parent / "b.txt")


def lose_the_folder(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()
    put(path.parent)


@pytest.mark.parametrize("happens", [rewrite, grow, remove, exchange_for_folder, exchange_for_link, lose_the_folder])
def test_what_moved_since_the_listing_is_not_taken_for_what_was_listed(
    inbox: Path, tmp_path: Path, happens: object
) -> None:
    path = put(inbox / "sub" / "a.png")
    source, arrival = only(inbox)
    happens(path)  # type: ignore[operator]
    with pytest.raises(MovedError):
        source.fetch(arrival, tmp_path / "copy")


def test_what_moves_while_it_is_read_is_noticed(inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload that goes on after a pause: the first chunk is read, then the file is written on."""
    path = put(inbox / "a.png", b"x" * 2_000_000)
    source, arrival = only(inbox)
    chunks = type(source)._chunks  # type: ignore[attr-defined]

    def interrupted(*arguments: object) -> Iterator[bytes]:
        for number, chunk in enumerate(chunks(source, *arguments)):
            if number == 0:
                os.truncate(path, 1_500_000)
            yield chunk

    monkeypatch.setattr(source, "_chunks", interrupted)
    with pytest.raises(MovedError):
        source.fetch(arrival, tmp_path / "copy")


def test_a_file_that_goes_while_the_folder_is_listed_is_no_fault(inbox: Path) -> None:
    for name in ("a.png", "b.png"):
        put(inbox / name)
    listing = opened(inbox).listing()
    assert next(listing).key == "a.png"
    (inbox / "b.png").unlink()
    assert list(listing) == []


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file here fails to be read")
def test_a_fault_of_the_source_is_not_blamed_on_the_target(tmp_path: Path) -> None:
    with pytest.raises(AescError, match="mem: cannot be read: Input/output error"):
        opened(Path("/proc/self")).fetch(Arrival("mem", "0-0", 0, ""), tmp_path / "copy")


def test_a_fault_of_the_target_is_not_blamed_on_the_source(inbox: Path, tmp_path: Path) -> None:
    put(inbox / "a.png")
    source, arrival = only(inbox)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        source.fetch(arrival, tmp_path / "nowhere" / "copy")


def test_categories_are_the_folders_of_a_source(inbox: Path) -> None:
    put(inbox / "bottle" / "a.png")
    put(inbox / "apple" / "sub" / "a.png")
    put(inbox / "stray.png")
    put(inbox / ".hidden" / "a.png")
    assert arriving_categories(str(inbox), settings=Settings(root=inbox)) == ["apple", "bottle"]


@pytest.mark.parametrize("address", ["{}/missing", "{}/a.png", "ftp://server/folder"])
def test_what_is_no_source_is_refused(inbox: Path, address: str) -> None:
    put(inbox / "a.png")
    with pytest.raises(AescError) as caught:
        open_source(address.format(inbox), settings=Settings(root=inbox), settle_seconds=0)
    assert caught.value.usage
    assert "s3://bucket" in caught.value.allowed
