"""A scratch folder with a run's data, for a replay: nothing of the project is changed. Bound by disk and network."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aesc.cache import sha256_of, threaded_map
from aesc.errors import AescError
from aesc.layout import list_files
from aesc.manifest import require_category
from tasks.dvc_repo import open_repo, readable_transfer, remote_address
from tasks.replay_record import Record
from tasks.settings import Settings

_LOCK = ".lock"
_TRANSFERS = 16  # files fetched at once


@contextmanager
def scratch_folder(settings: Settings) -> Iterator[Path]:
    """An empty folder that is gone afterwards; those of replays that were killed go too."""
    parent = settings.state / "replays"
    parent.mkdir(parents=True, exist_ok=True)
    with FileLock(settings.state / "replays.lock"):  # or another replay would take this folder for one that was left
        _remove_left(parent)
        folder = Path(tempfile.mkdtemp(dir=parent))
        lock = FileLock(folder / _LOCK)
        lock.acquire()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _remove_left(parent: Path) -> None:
    for left in parent.iterdir():
        try:
            with FileLock(left / _LOCK, timeout=0):
                shutil.rmtree(left, ignore_errors=True)
        except (Timeout, OSError):
            continue  # a replay is at work in it


def place_data(record: Record, folder: Path, *, settings: Settings, data: Path | None = None) -> Path:
    """The folder of categories to train on: `data` if given, the recorded one for data outside DVC, else `folder`.

    `folder` is filled with files of DVC's cache, linked where the file system can, and those that it lacks of the DVC
    remote.

    Raises:
        AescError: neither holds the data version, or the recorded or given folder has no such category.
    """
    if data is not None:
        require_category(data, record.category)
        return data
    if record.data_version_kind != "dvc":
        root = Path(record.data_root or "")
        if not record.data_root or not (root / record.category).is_dir():
            raise AescError(
                f"data version {record.data_version}",
                f"its files were in {record.data_root or 'a folder that the run did not record'}, and are not there "
                "now; DVC does not version them",
                allowed="the images that the run was trained on, where they were",
                todo="put them back, or name the folder of categories that has them now: --data FOLDER",
            )
        return root
    with open_repo(settings) as repo:
        _place(repo, record, folder, settings)
    return folder


def recorded_files(record: Record) -> dict[str, str]:
    """Path below the data folder to sha256, of images and masks."""
    rows = record.manifest
    files = dict(zip(rows["path"], rows["sha256"], strict=True))
    masks = rows[rows["mask_path"].notna()]
    return files | dict(zip(masks["mask_path"], masks["mask_sha256"], strict=True))


def present_files(root: Path, category: str) -> dict[str, str]:
    """The same of what is in the category's folder now."""
    paths = [f"{category}/{path}" for path in list_files(root / category)]
    return dict(zip(paths, threaded_map(lambda path: sha256_of(root / path), paths), strict=True))


def _place(repo: Any, record: Record, folder: Path, settings: Settings) -> None:
    address = remote_address(repo)
    local = repo.cache.local
    if not local.exists(record.data_version) and address is None:
        raise _missing(record, "DVC's cache does not hold it, and no DVC remote is configured")
    with readable_transfer(address or "DVC", "pulled from", settings):
        remote = repo.cloud.get_remote().odb if address else None
        held = next((odb for odb in (local, remote) if odb is not None and odb.exists(record.data_version)), None)
        if held is None:
            raise _missing(record, f"neither DVC's cache here nor the remote {address} holds it")
        with held.fs.open(held.oid_to_path(record.data_version), "rb") as stream:
            listing = {entry["relpath"]: entry["md5"] for entry in json.loads(stream.read())}
        wanted = _of_category(listing, record)
        lacking = {path: md5 for path, md5 in wanted.items() if not local.exists(md5)}
        there = set(remote.oids_exist(list(lacking.values()))) if remote is not None and lacking else set()
        absent = [path for path, md5 in lacking.items() if md5 not in there]
        if absent:
            where = f"nor the remote {address}" if address else "nor any remote"
            raise _missing(
                record, f"neither DVC's cache here {where} holds {len(absent)} of its files, the first {absent[0]}"
            )
        for path in wanted:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if remote is not None and lacking:
            remote.fs.get(
                [remote.oid_to_path(md5) for md5 in lacking.values()],
                [str(folder / path) for path in lacking],
                batch_size=_TRANSFERS,
            )
    for path, md5 in wanted.items():
        if path not in lacking:
            _link(Path(local.oid_to_path(md5)), folder / path)


def _of_category(listing: Mapping[str, str], record: Record) -> dict[str, str]:
    """The category's files by path below the folder of categories, which may lie deeper than `data` itself."""
    first = str(record.manifest["path"].iloc[0])
    at = min((path for path in listing if f"/{path}".endswith(f"/{first}")), key=len, default=None)
    if at is None:
        raise _missing(record, f"it has no {first}, which the run was trained on")
    above = at.removesuffix(first)
    start = f"{above}{record.category}/"
    return {path.removeprefix(above): md5 for path, md5 in listing.items() if path.startswith(start)}


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _missing(record: Record, found: str) -> AescError:
    return AescError(
        f"data version {record.data_version}",
        f"{found}; nothing was trained",
        allowed="a data version that the cache or the remote holds",
        todo="dvc push where it is, or name the remote that has it (AESC_DVC_REMOTE) or a folder (--data)",
    )
