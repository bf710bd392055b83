"""What is inspected: an image, a folder, or a place in S3; listed a page at a time, read an image at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from aesc.errors import AescError
from tasks.arrival import Arrival, MovedError
from tasks.settings import Settings

if TYPE_CHECKING:
    from tasks.arrivals import Source


class ImagePlace:
    """The images at an address: s3://bucket/prefix, or the path of a file or folder.

    Raises:
        AescError: nothing there (local), or no bucket in the address.
    """

    def __init__(self, source: str, settings: Settings) -> None:
        self.source = source
        self._s3: Source | None = None
        if "://" in source:
            from tasks.arrivals import open_source

            self._s3 = open_source(source, settings=settings, settle_seconds=0.0)
        self._path = Path(source)
        if self._s3 is None and not self._path.exists():
            from aesc.images import FORMATS

            allowed = f"an image, a folder of images, or s3://bucket/prefix: {FORMATS}"
            raise AescError(source, "no such file or folder", allowed=allowed, usage=True)

    @property
    def address(self) -> str:
        """What the place is called in records."""
        return self._s3.address if self._s3 else str(self._path.resolve())

    @property
    def is_one_image(self) -> bool:
        """Whether it is a single file."""
        return self._s3 is None and self._path.is_file()

    def listing(self) -> Iterator[Arrival]:
        """All images, in the same order each time; raises AescError if the place cannot be read."""
        from aesc.images import IMAGE_SUFFIXES

        if self._s3 is None:
            yield from self._local(IMAGE_SUFFIXES)
        else:
            yield from (one for one in self._s3.listing() if PurePosixPath(one.key).suffix.lower() in IMAGE_SUFFIXES)

    def name(self, key: str) -> str:
        """What an image is called in results: where it can be found again."""
        if self._s3 is not None:
            return f"{self._s3.address}/{key}"
        return str(self._path) if self.is_one_image else str(self._path / key)

    @contextmanager
    def opened(self, image: Arrival, scratch: Path) -> Iterator[tuple[Path, str]]:
        """A local file with the image's content, and its sha256; one from S3 is a copy that is gone afterwards.

        Raises:
            AescError: the image is gone or was changed since it was listed, or cannot be read.
        """
        if self._s3 is None:
            from aesc.cache import sha256_of

            path = Path(self.name(image.key))
            try:
                found = sha256_of(path)
            except OSError as error:
                raise AescError(path, f"cannot be read: {error.strerror or error}") from None
            yield path, found
            return
        copy = scratch / f"image{PurePosixPath(image.key).suffix.lower()}"
        try:
            yield copy, self._s3.fetch(image, copy)
        except MovedError:
            raise AescError(self.name(image.key), "gone, or written anew, since it was listed") from None
        finally:
            copy.unlink(missing_ok=True)

    def _local(self, suffixes: Any) -> Iterator[Arrival]:
        if self.is_one_image:
            yield self._found(self._path, self._path.name)
            return

        def refuse(error: OSError) -> None:
            raise AescError(error.filename, f"cannot be read: {error.strerror}", todo="mend the permissions") from None

        for parent, folders, names in os.walk(self._path, onerror=refuse):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = Path(parent) / name
                if path.suffix.lower() in suffixes and not name.startswith(".") and path.is_file():
                    yield self._found(path, path.relative_to(self._path).as_posix())

    @staticmethod
    def _found(path: Path, key: str) -> Arrival:
        status = path.stat()
        return Arrival(key, f"{status.st_size}-{status.st_mtime_ns}", status.st_size, "")
