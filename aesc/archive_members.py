"""The files in a zip, a tar or a folder, one by one, each with a path that is safe to follow."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from aesc.errors import AescError

ARCHIVES = ".zip, .tar, .tar.gz, .tgz, .tar.bz2, .tar.xz, or a folder"
ARCHIVE_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError)

_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_UNPACK = "unpack it and import the folder"


@dataclass(frozen=True)
class Member:
    """A plain file: a relative path that stays inside, and how to open it (before the next member is asked for)."""

    path: PurePosixPath
    open: Callable[[], IO[bytes]]


@dataclass(frozen=True)
class Limits:
    """What a source may unpack to."""

    max_bytes: int
    max_files: int

    def too_large(self, source: Path) -> AescError:
        return AescError(
            source,
            "unpacks to more bytes than are allowed",
            allowed=f"{self.max_bytes:,} bytes",
            todo="raise the limit if the source is genuine",
        )


def members(source: Path, limits: Limits) -> Generator[Member, None, None]:
    """The plain files of a source; folders are passed over.

    Raises:
        AescError: a path leads outside, something is a link, a device or encrypted, or tar unpacks far past the limits.
        One of ARCHIVE_DAMAGE: the source is damaged or no archive.
    """
    if source.is_dir():
        return _folder_members(source)
    return _zip_members(source) if zipfile.is_zipfile(source) else _tar_members(source, limits)


def _folder_members(source: Path) -> Generator[Member, None, None]:
    def refuse(error: OSError) -> None:
        raise AescError(error.filename, f"cannot be read: {error.strerror}", todo="check its permissions") from None

    for parent, folders, names in os.walk(source, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for entry in (*folders, *sorted(names)):
            path = Path(parent) / entry
            mode = path.lstat().st_mode
            safe = _safe(source, path.relative_to(source).as_posix(), mode)
            if not stat.S_ISDIR(mode):
                yield Member(safe, lambda path=path: path.open("rb"))  # type: ignore[misc]


def _zip_members(source: Path) -> Generator[Member, None, None]:
    with zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            path = _safe(source, info.filename, info.external_attr >> 16)
            if info.flag_bits & 0x1:
                raise AescError(f"{source}: {info.filename}", "encrypted", todo=_UNPACK)
            if info.compress_type not in _ZIP_METHODS:
                raise AescError(f"{source}: {info.filename}", "an unknown compression", todo=_UNPACK)
            if not info.is_dir():
                yield Member(path, lambda info=info: archive.open(info))  # type: ignore[misc]


def _tar_members(source: Path, limits: Limits) -> Generator[Member, None, None]:
    with source.open("rb") as file:
        start = file.read(6)
    packers: tuple[tuple[bytes, Any], ...] = ((b"\x1f\x8b", gzip), (b"\xfd7zXZ\0", lzma), (b"BZh", bz2))
    unpack = next((module.open for magic, module in packers if start.startswith(magic)), open)
    with unpack(source, "rb") as stream:
        # Read in order through the counter, so that neither skipped members nor long headers get past the limit.
        counted = _Counted(stream, source, limits)
        with tarfile.open(fileobj=cast(IO[bytes], counted), mode="r|") as archive:
            for info in archive:
                kind = stat.S_IFDIR if info.isdir() else stat.S_IFREG if info.isreg() else stat.S_IFLNK
                path = _safe(source, info.name, kind)
                if not info.isdir():
                    yield Member(path, lambda info=info: cast(IO[bytes], archive.extractfile(info)))  # type: ignore[misc]
        if any(counted.tail):  # cut between two members, which tarfile lets pass
            raise tarfile.ReadError("no end-of-archive mark")


class _Counted:
    """A stream that ends the unpacking of a tar that grows past the limits and tar's own headers and padding."""

    def __init__(self, stream: IO[bytes], source: Path, limits: Limits) -> None:
        self._stream = stream
        self._source = source
        self._limits = limits
        self._left = limits.max_bytes + 4096 * limits.max_files + 2**20
        self.tail = b""

    def read(self, size: int) -> bytes:
        block = self._stream.read(size)
        self._left -= len(block)
        self.tail = block[-512:] or self.tail
        if self._left < 0:
            raise self._limits.too_large(self._source)
        return block


def _safe(source: Path, name: str, mode: int) -> PurePosixPath:
    """The path of a member that may be taken: relative, inside, and a plain file or folder."""
    path = PurePosixPath(name)
    where = f"{source}: {name!r}"
    if path.is_absolute() or ".." in path.parts or "\\" in name or re.match("[A-Za-z]:", name):
        raise AescError(where, "a path that leads outside", allowed="paths below the source", todo="do not trust it")
    if not name.isprintable():
        raise AescError(where, "a name with unprintable characters", todo="rename the file")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise AescError(where, "a link or a device", allowed="plain files", todo="put the file itself in its place")
    return path
