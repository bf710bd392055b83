"""Decoded images at the network's size, so that no training step waits for a decoder.

A folder per size holds `rows.u8`, the images one after the other, and `index.txt`, one sha256 a line in the same order.
Rows are appended and synced before the index that names them replaces the old one: whoever is killed in between leaves
a tail that no index names, and the next writer overwrites it. Readers take no lock.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from aesc.cores import cores
from aesc.errors import AescError
from aesc.files import write_atomically
from aesc.images import read_image, to_network_input

Progress = Callable[[int, int], None]  # done, total

_LAYOUT = 1  # raise it when decoding or resizing changes: old rows are then not found
_ROWS_PER_COMMIT = 2048  # how many decoded images a crash can cost

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class ImageCache:
    """An append-only store of uint8 images, addressed by the sha256 of the files they were decoded from.

    Args:
        folder: holds the caches of all sizes; made when first written to.
        size: side of the images, pixels.
        channels: 1 or 3.
    """

    def __init__(self, folder: Path, *, size: int, channels: int) -> None:
        self.size = size
        self.channels = channels
        self.folder = folder / f"{size}x{size}x{channels}-v{_LAYOUT}"
        self._row_of: dict[str, int] = {}
        self._array: npt.NDArray[np.uint8] | None = None
        self._reload()

    def __len__(self) -> int:
        return len(self._row_of)

    def __contains__(self, sha256: object) -> bool:
        return sha256 in self._row_of

    def add(
        self, items: Sequence[tuple[str, Path]], *, max_megapixels: float, progress: Progress | None = None
    ) -> None:
        """Decode, on all cores, the images that are not here yet. Safe to repeat after a crash at any point.

        Args:
            items: sha256 and file of each image; a sha256 may repeat.
            max_megapixels: as in `aesc.images.read_image`.
            progress: called with (done, total) as decoding goes on; total counts the missing images only.

        Raises:
            AescError: an image cannot be read or is no longer what was hashed, or the folder cannot be written.
                Images decoded before it are kept.
        """
        if all(sha256 in self._row_of for sha256, _ in items):
            return
        with _writing_to(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "lock"):
                self._reload()
                missing = {sha256: path for sha256, path in items if sha256 not in self._row_of}
                if missing:
                    self._append(missing, max_megapixels, progress)

    def rows(self, sha256s: Sequence[str]) -> npt.NDArray[np.int64]:
        """(n,) rows of these images in `array()`.

        Raises:
            AescError: an image is not in the cache.
        """
        if any(sha256 not in self._row_of for sha256 in sha256s):
            self._reload()
        absent = [sha256 for sha256 in sha256s if sha256 not in self._row_of]
        if absent:
            raise AescError(
                self.folder,
                f"{len(absent)} of {len(sha256s)} images are not decoded yet, the first {absent[0][:12]}",
                todo="add them to the cache first",
            )
        return np.array([self._row_of[sha256] for sha256 in sha256s], dtype=np.int64)

    def array(self) -> npt.NDArray[np.uint8]:
        """(N, size, size, channels) of all images, memory-mapped and read-only."""
        count = len(self._row_of)
        if self._array is None or len(self._array) != count:
            shape = (count, self.size, self.size, self.channels)
            # An empty file cannot be mapped.
            self._array = np.memmap(self._rows_path, np.uint8, "r", shape=shape) if count else np.empty(shape, np.uint8)
        return self._array

    def take(self, sha256s: Sequence[str]) -> npt.NDArray[np.uint8]:
        """(n, size, size, channels): a copy of these images in memory.

        Raises:
            AescError: an image is not in the cache.
        """
        rows = self.rows(sha256s)
        return np.array(self.array()[rows])

    @property
    def _rows_path(self) -> Path:
        return self.folder / "rows.u8"

    @property
    def _row_bytes(self) -> int:
        return self.size * self.size * self.channels

    def _reload(self) -> None:
        try:
            names = (self.folder / "index.txt").read_text(encoding="ascii").split()
        except (FileNotFoundError, NotADirectoryError):
            names = []
        complete = self._rows_path.stat().st_size // self._row_bytes if self._rows_path.exists() else 0
        if complete < len(names):
            raise AescError(
                self._rows_path,
                f"{complete} images where index.txt names {len(names)}",
                todo=f"delete {self.folder}; it is filled again from the image files",
            )
        self._row_of = {name: row for row, name in enumerate(names)}

    def _append(self, missing: dict[str, Path], max_megapixels: float, progress: Progress | None) -> None:
        def decode(item: tuple[str, Path]) -> tuple[str, bytes]:
            sha256, path = item
            if sha256_of(path) != sha256:
                raise AescError(path, "changed since it was hashed", todo="start again")
            image = read_image(path, max_megapixels=max_megapixels)
            return sha256, to_network_input(image, size=self.size, channels=self.channels).tobytes()

        names = list(self._row_of)
        with self._rows_path.open("ab") as stream:
            stream.truncate(len(names) * self._row_bytes)  # a tail that an earlier writer did not live to name
            try:
                for done, (sha256, row) in enumerate(threaded_map(decode, missing.items()), start=1):
                    stream.write(row)
                    names.append(sha256)
                    if done % _ROWS_PER_COMMIT == 0:
                        self._commit(stream, names)
                    if progress is not None:
                        progress(done, len(missing))
            finally:
                self._commit(stream, names)

    def _commit(self, stream: IO[bytes], names: list[str]) -> None:
        stream.flush()
        os.fsync(stream.fileno())

        def write(file: Path) -> None:
            file.write_text("".join(f"{name}\n" for name in names), encoding="ascii")

        write_atomically(self.folder / "index.txt", write)
        self._row_of = {name: row for row, name in enumerate(names)}


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, 64 hexadecimal digits.

    Raises:
        AescError: the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise AescError(path, f"cannot be read: {reason}", todo="check the file and its permissions") from None


def threaded_map(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """`map` on all cores, in order, with few results in flight at a time. Leaving early drops what has not begun."""
    workers = cores()
    pool = ThreadPoolExecutor(workers)
    flying: deque[Future[_Result]] = deque()
    try:
        for item in items:
            flying.append(pool.submit(function, item))
            if len(flying) >= 4 * workers:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    """Turn what the system says about a folder that cannot be written, or a full disk, into an `AescError`."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise AescError(
            folder, f"cannot be written: {reason}", todo="free space, or choose a folder that can be written"
        ) from error
