"""Where clean images arrive, S3 or an inbox folder: what is there, and a verified copy of it. Bound by the network.

Nothing at a source is ever changed or deleted. A listing costs one request for a thousand objects, none for each: what
was seen before is told by its ETag (S3) or by size and time of change (folder).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from aesc.errors import AescError
from aesc.layout import is_ignored
from tasks.arrival import Arrival, MovedError
from tasks.settings import Settings
from tasks.storage import S3, S3Location, connect, explain, parse_s3, redact

PAGE = 1000  # objects in one answer; S3 gives no more
CHUNK = 1 << 20
UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".filepart")  # what programs call a file until it is whole
_SINGLE_PART = re.compile(r"[0-9a-f]{32}")
_MULTI_PART = re.compile(r"([0-9a-f]{32})-(\d+)")


class Source(Protocol):
    """A place where images arrive; `address` is what it is called in records, without secrets."""

    address: str

    def listing(self) -> Iterator[Arrival]:
        """What is there now and whole; raises AescError (transient) if the source does not answer."""

    def fetch(self, arrival: Arrival, target: Path) -> str:
        """Copy an arrival to the file `target`, check it, and return its sha256.

        Raises:
            MovedError: it is gone, or was written anew since it was listed.
            AescError: the source does not answer (transient), or the copy is not what the source says it holds.
        """


def open_source(address: str, *, settings: Settings, settle_seconds: float) -> Source:
    """The source at `s3://bucket/prefix` or at a folder's path.

    Args:
        settings: the S3 endpoint.
        settle_seconds: a file of a folder that changed more recently is still being written.

    Raises:
        AescError: no such folder, or no bucket in the address.
    """
    if address.startswith(S3):
        return _S3Source(parse_s3(address), settings)
    folder = Path(address).expanduser()
    if "://" in address or not folder.is_dir():
        raise AescError(
            redact(address),
            "no such folder" if "://" not in address else "not an address that images can arrive at",
            allowed="s3://bucket/prefix, or the path of a folder",
            todo="correct --source, or AESC_ARRIVALS",
            usage=True,
        )
    return _FolderSource(folder.resolve(), settle_seconds)


def arrival_place(source: str | None, settings: Settings) -> str:
    """`source`, or the place that the environment names; raises AescError if neither does."""
    place = source or settings.arrivals
    if place is None:
        raise AescError(
            "source",
            "not given, and AESC_ARRIVALS is not set",
            allowed="s3://bucket/prefix, or a folder",
            todo="name one with --source, or set AESC_ARRIVALS to the place that has a folder for each category",
            usage=True,
        )
    return place


def arriving_categories(address: str, *, settings: Settings) -> list[str]:
    """The folders directly below a source, one a category; raises AescError like `open_source` and `listing`."""
    if address.startswith(S3):
        return _S3Source(parse_s3(address), settings).folders()
    source = open_source(address, settings=settings, settle_seconds=0)
    return sorted(
        entry.name for entry in os.scandir(source.address) if entry.is_dir() and not entry.name.startswith(".")
    )


class _S3Source:
    def __init__(self, location: S3Location, settings: Settings) -> None:
        self.address = location.url
        self._location = location
        self._client, self._key_id = connect(settings)

    def listing(self) -> Iterator[Arrival]:
        start = f"{self._location.prefix}/" if self._location.prefix else ""
        for page in self._pages(Prefix=start):
            for found in page.get("Contents", []):
                key = found["Key"][len(start) :]
                if key.endswith("/") or _is_unfinished(key):
                    continue
                yield Arrival(key, found["ETag"].strip('"'), int(found["Size"]), found["LastModified"].isoformat())

    def folders(self) -> list[str]:
        start = f"{self._location.prefix}/" if self._location.prefix else ""
        found = [
            prefix["Prefix"][len(start) :].strip("/")
            for page in self._pages(Prefix=start, Delimiter="/")
            for prefix in page.get("CommonPrefixes", [])
        ]
        return sorted(name for name in found if name and not name.startswith("."))

    def fetch(self, arrival: Arrival, target: Path) -> str:
        from botocore.exceptions import BotoCoreError, ClientError

        key = f"{self._location.prefix}/{arrival.key}".lstrip("/")
        place = {"Bucket": self._location.bucket, "Key": key}
        try:
            # With ChecksumMode botocore compares the content with the checksum that was stored with it, if any.
            answer = self._client.get_object(**place, IfMatch=f'"{arrival.tag}"', ChecksumMode="ENABLED")
            copy = _Copy(self._part_size(place, arrival))
            copy.write(iter(lambda: answer["Body"].read(CHUNK), b""), target)
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (404, 412):
                raise MovedError(arrival.key) from None
            raise self._explained(error) from None
        except BotoCoreError as error:
            raise self._explained(error) from None
        encrypted = answer.get("ServerSideEncryption", "").startswith("aws:kms")  # then an ETag is no MD5
        self._verify(arrival, copy, encrypted=encrypted)
        return copy.sha256

    def _verify(self, arrival: Arrival, copy: _Copy, *, encrypted: bool) -> None:
        whole = _SINGLE_PART.fullmatch(arrival.tag)
        parts = _MULTI_PART.fullmatch(arrival.tag)
        wrong = copy.size != arrival.size
        if not encrypted and not wrong:
            if whole:
                wrong = copy.md5 != arrival.tag
            elif parts and copy.part_count == int(parts[2]):
                wrong = copy.md5_of_parts != parts[1]
        if wrong:
            raise AescError(
                f"{self.address}/{arrival.key}",
                f"{copy.size} bytes with MD5 {copy.md5} arrived here; "
                f"the server holds {arrival.size} bytes with ETag {arrival.tag}",
                todo="run the same command again; if it stays so, the object or the connection is damaged",
                transient=True,
            )

    def _part_size(self, place: dict[str, str], arrival: Arrival) -> int:
        """The size of an object's first part; 0 if it has one part only, or the server does not say."""
        if not _MULTI_PART.fullmatch(arrival.tag):
            return 0
        first = int(self._client.head_object(**place, PartNumber=1)["ContentLength"])
        return first if first < arrival.size else 0

    def _pages(self, **wanted: str) -> Iterator[dict[str, Any]]:
        from botocore.exceptions import BotoCoreError, ClientError

        paginator = self._client.get_paginator("list_objects_v2")
        try:
            yield from paginator.paginate(Bucket=self._location.bucket, PaginationConfig={"PageSize": PAGE}, **wanted)
        except (BotoCoreError, ClientError) as error:
            raise self._explained(error) from None

    def _explained(self, error: Exception) -> AescError:
        endpoint = redact(self._client.meta.endpoint_url)
        return explain(error, self._location, endpoint=endpoint, key_id=self._key_id, doing="read")


class _FolderSource:
    def __init__(self, folder: Path, settle_seconds: float) -> None:
        self.address = str(folder)
        self._folder = folder
        self._settle = settle_seconds

    def listing(self) -> Iterator[Arrival]:
        now = time.time()
        for parent, folders, names in os.walk(self._folder, onerror=self._refuse):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = Path(parent) / name
                key = self._named(path)
                if _is_unfinished(key):
                    continue
                try:
                    status = path.lstat()
                except FileNotFoundError:  # somebody took it away just now
                    continue
                if stat.S_ISREG(status.st_mode) and _last_change(status, now) <= now - self._settle:
                    yield Arrival(key, _tag(status), status.st_size, _moment(status.st_mtime))

    def fetch(self, arrival: Arrival, target: Path) -> str:
        path = self._folder / arrival.key
        copy = _Copy(0)
        copy.write(self._chunks(path, arrival), target)
        try:
            unchanged = _tag(path.lstat()) == arrival.tag and copy.size == arrival.size
        except (FileNotFoundError, NotADirectoryError):
            unchanged = False
        if not unchanged:
            raise MovedError(arrival.key)
        return copy.sha256

    def _chunks(self, path: Path, arrival: Arrival) -> Iterator[bytes]:
        """Its faults are those of reading: whoever writes the chunks has other ones."""
        try:
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise MovedError(arrival.key) from None
        except OSError as error:
            todo = "let the user that ingests read it, or take it out of the inbox"
            raise AescError(path, f"cannot be read: {error.strerror}", todo=todo) from None

    def _named(self, path: Path) -> str:
        key = path.relative_to(self._folder).as_posix()
        try:
            key.encode()
        except UnicodeEncodeError:
            raise AescError(self._folder, f"a file name that is not UTF-8: {key!r}", todo="rename the file") from None
        return key

    def _refuse(self, error: OSError) -> None:
        raise AescError(error.filename, f"cannot be read: {error.strerror}", todo="mend the folder's permissions")


class _Copy:
    """Writes chunks to a file and digests them on the way; `part_size` 0 means that parts do not matter."""

    def __init__(self, part_size: int) -> None:
        self.size = 0
        self._part_size = part_size
        self._sha256, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self._part, self._parts = hashlib.md5(usedforsecurity=False), []  # type: tuple[Any, list[bytes]]

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()

    @property
    def part_count(self) -> int:
        return len(self._parts)

    @property
    def md5_of_parts(self) -> str:
        return hashlib.md5(b"".join(self._parts), usedforsecurity=False).hexdigest()

    def write(self, chunks: Iterator[bytes], target: Path) -> None:
        """Fill `target`, flushed to the disk."""
        with target.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
                self._digest(chunk)
            file.flush()
            os.fsync(file.fileno())
        if self._part_size and self.size % self._part_size:
            self._parts.append(self._part.digest())

    def _digest(self, chunk: bytes) -> None:
        self._sha256.update(chunk)
        self._md5.update(chunk)
        while self._part_size and chunk:
            room = self._part_size - self.size % self._part_size
            self._part.update(chunk[:room])
            self.size += len(chunk[:room])
            chunk = chunk[room:]
            if self.size % self._part_size == 0:
                self._parts.append(self._part.digest())
                self._part = hashlib.md5(usedforsecurity=False)
        self.size += len(chunk)


def _is_unfinished(key: str) -> bool:
    name = key.rpartition("/")[2]
    return is_ignored(name) or name.lower().endswith(UNFINISHED)


def _tag(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def _last_change(status: os.stat_result, now: float) -> float:
    """When a file was last written; a sender's clock that runs ahead must not keep its files waiting for ever."""
    return status.st_mtime if status.st_mtime <= now else status.st_ctime


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
