from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import aesc.cache
from aesc.cache import ImageCache, sha256_of, threaded_map
from aesc.errors import AescError
from aesc.images import read_image, to_network_input

SIZE = 64
Items = list[tuple[str, Path]]


def make_images(folder: Path, count: int, seed: int = 0) -> Items:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for index in range(count):
        path = folder / f"{seed}-{index:03d}.png"
        Image.fromarray(rng.integers(0, 256, (80, 70, 3), dtype=np.uint8)).save(path)
        items.append((sha256_of(path), path))
    return items


def cache_of(folder: Path) -> ImageCache:
    return ImageCache(folder, size=SIZE, channels=3)


def assert_holds(cache: ImageCache, items: Items) -> None:
    expected = [to_network_input(read_image(path, max_megapixels=1), size=SIZE, channels=3) for _, path in items]
    np.testing.assert_array_equal(cache.take([name for name, _ in items]), np.stack(expected))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_add_then_read_by_hash_in_any_order(tmp_path: Path, store: Path) -> None:
    items = make_images(tmp_path / "images", 9)
    cache = cache_of(store)
    assert cache.array().shape == (0, SIZE, SIZE, 3)
    steps: list[tuple[int, int]] = []
    cache.add(items + items[:3], max_megapixels=1, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(done, 9) for done in range(1, 10)]
    assert cache.array().shape == (9, SIZE, SIZE, 3)
    assert cache.rows([name for name, _ in items]).tolist() == list(range(9))
    assert_holds(cache, items)
    assert_holds(cache, items[::-1])


def test_array_is_mapped_and_read_only(tmp_path: Path, store: Path) -> None:
    cache = cache_of(store)
    cache.add(make_images(tmp_path / "images", 2), max_megapixels=1)
    assert isinstance(cache.array(), np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        cache.array()[0] = 0


def test_reopened_cache_decodes_only_what_is_missing(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = make_images(tmp_path / "images", 8)
    cache_of(store).add(items[:5], max_megapixels=1)
    before = (cache_of(store).folder / "rows.u8").read_bytes()
    decoded: list[str] = []

    def watch(path: Path, **options: float) -> object:
        decoded.append(path.name)
        return read_image(path, max_megapixels=options["max_megapixels"])

    monkeypatch.setattr(aesc.cache, "read_image", watch)
    cache = cache_of(store)
    cache.add(items, max_megapixels=1)
    cache.add(items, max_megapixels=1)
    assert sorted(decoded) == [path.name for _, path in items[5:]]
    assert (cache.folder / "rows.u8").read_bytes().startswith(before)
    assert_holds(cache, items)


def test_open_reader_sees_what_a_writer_adds(tmp_path: Path, store: Path) -> None:
    items = make_images(tmp_path / "images", 6)
    cache_of(store).add(items[:3], max_megapixels=1)
    reader = cache_of(store)
    assert reader.array().shape[0] == 3
    cache_of(store).add(items[3:], max_megapixels=1)
    assert_holds(reader, items)


def test_sizes_and_channels_do_not_mix(tmp_path: Path, store: Path) -> None:
    items = make_images(tmp_path / "images", 2)
    for size, channels in ((64, 3), (128, 3), (64, 1)):
        cache = ImageCache(store, size=size, channels=channels)
        cache.add(items, max_megapixels=1)
        assert cache.take([items[0][0]]).shape == (1, size, size, channels)


def test_missing_image_is_an_aesc_error(tmp_path: Path, store: Path) -> None:
    cache = cache_of(store)
    cache.add(make_images(tmp_path / "images", 1), max_megapixels=1)
    with pytest.raises(AescError, match="1 of 1 images are not decoded yet, the first aaaaaaaaaaaa"):
        cache.rows(["a" * 64])


def test_torn_tail_is_overwritten(tmp_path: Path, store: Path) -> None:
    items = make_images(tmp_path / "images", 6)
    cache = cache_of(store)
    cache.add(items[:3], max_megapixels=1)
    with (cache.folder / "rows.u8").open("ab") as stream:  # a row and a half that no index names
        stream.write(b"\x55" * (SIZE * SIZE * 3 * 3 // 2))
    assert_holds(cache_of(store), items[:3])
    later = cache_of(store)
    later.add(items, max_megapixels=1)
    assert (later.folder / "rows.u8").stat().st_size == 6 * SIZE * SIZE * 3
    assert_holds(later, items)


def test_crash_between_append_and_index_loses_nothing(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = make_images(tmp_path / "images", 6)
    cache_of(store).add(items[:3], max_megapixels=1)

    def crash(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(aesc.cache, "write_atomically", crash)
        with pytest.raises(RuntimeError, match="killed"):
            cache_of(store).add(items, max_megapixels=1)
    cache = cache_of(store)
    assert len(cache) == 3
    assert_holds(cache, items[:3])
    cache.add(items, max_megapixels=1)
    assert_holds(cache, items)


def start_writer(store: Path, items: Items, progress: str = "None") -> subprocess.Popen[str]:
    script = f"""
import os, signal, sys
from pathlib import Path
import aesc.cache
aesc.cache._ROWS_PER_COMMIT = 2
items = [(name, Path(path)) for name, path in (line.split("|") for line in sys.stdin.read().splitlines())]
aesc.cache.ImageCache(Path({str(store)!r}), size={SIZE}, channels=3).add(items, max_megapixels=1, progress={progress})
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write("\n".join(f"{name}|{path}" for name, path in items))
    process.stdin.close()
    return process


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_killed_writer_loses_nothing(tmp_path: Path, store: Path) -> None:
    items = make_images(tmp_path / "images", 12)
    cache_of(store).add(items[:4], max_megapixels=1)
    # Dies at the fifth new row: two commits of two rows, and one row that no index names.
    kill = "lambda done, _: os.kill(os.getpid(), signal.SIGKILL) if done == 5 else None"
    result = start_writer(store, items, kill)
    result.wait(60)
    assert result.returncode == -signal.SIGKILL
    cache = cache_of(store)
    assert len(cache) == 8
    assert_holds(cache, items[:8])
    cache.add(items, max_megapixels=1)
    assert_holds(cache, items)


def test_two_processes_write_at_once(tmp_path: Path, store: Path) -> None:
    items = make_images(tmp_path / "images", 20)
    writers = [start_writer(store, part) for part in (items[:14], items[6:])]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    cache = cache_of(store)
    assert len(cache) == len({name for name, _ in items}) == 20
    assert (cache.folder / "rows.u8").stat().st_size == 20 * SIZE * SIZE * 3
    assert_holds(cache, items)


def add(store: Path, items: Items) -> None:
    cache_of(store).add(items, max_megapixels=1)


def test_two_threads_write_at_once(tmp_path: Path, store: Path) -> None:
    items = make_images(tmp_path / "images", 10)
    threads = [threading.Thread(target=add, args=(store, part)) for part in (items[:7], items[3:])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    cache = cache_of(store)
    assert len(cache) == 10
    assert_holds(cache, items)


def test_unreadable_image_is_named_and_the_others_are_kept(tmp_path: Path, store: Path) -> None:
    items = make_images(tmp_path / "images", 4)
    bad = tmp_path / "images" / "bad.png"
    bad.write_text("no image")
    cache = cache_of(store)
    with pytest.raises(AescError, match=r"bad\.png"):
        cache.add([*items, (sha256_of(bad), bad)], max_megapixels=1)
    assert_holds(cache_of(store), items)


def test_changed_file_is_refused(tmp_path: Path, store: Path) -> None:
    items = make_images(tmp_path / "images", 1)
    wrong = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(AescError, match="changed since it was hashed"):
        cache_of(store).add([(wrong, items[0][1])], max_megapixels=1)
    assert wrong not in cache_of(store)


def test_damaged_store_says_what_to_do(tmp_path: Path, store: Path) -> None:
    cache = cache_of(store)
    cache.add(make_images(tmp_path / "images", 3), max_megapixels=1)
    os.truncate(cache.folder / "rows.u8", SIZE * SIZE * 3)
    with pytest.raises(AescError, match=r"1 images where index\.txt names 3") as caught:
        cache_of(store)
    assert str(cache.folder) in caught.value.todo


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    items = make_images(tmp_path / "images", 1)
    (tmp_path / "file").touch()
    with pytest.raises(AescError, match="cannot be written"):
        cache_of(tmp_path / "file").add(items, max_megapixels=1)


def test_full_disk_keeps_what_is_there(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = make_images(tmp_path / "images", 4)
    cache_of(store).add(items[:2], max_megapixels=1)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(AescError, match="no space left on device"):
            cache_of(store).add(items, max_megapixels=1)
    assert_holds(cache_of(store), items[:2])
    cache = cache_of(store)
    cache.add(items, max_megapixels=1)
    assert_holds(cache, items)


def test_threaded_map_keeps_order_bounds_what_is_in_flight_and_raises() -> None:
    drawn = 0

    def items() -> object:
        nonlocal drawn
        for value in range(10_000):
            drawn += 1
            yield value

    results = threaded_map(lambda value: value * 2, items())  # type: ignore[arg-type]
    assert [next(results) for _ in range(5)] == [0, 2, 4, 6, 8]
    results.close()  # type: ignore[attr-defined]
    assert drawn < 5_000
    with pytest.raises(ZeroDivisionError):
        list(threaded_map(lambda value: 1 // value, [1, 0, 1]))
