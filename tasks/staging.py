"""Listing what arrived and copying it into a batch, checked: bound by the network."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from aesc.cache import sha256_of
from aesc.errors import AescError
from aesc.files import not_written
from tasks.arrival import Arrival, MovedError
from tasks.arrival_batch import Batch, new_batch, unfinished_batch, write_table
from tasks.arrival_ledger import Ledger
from tasks.arrivals import Source, open_source
from tasks.retries import retried_task
from tasks.settings import Settings

LOGGER = logging.getLogger("aesc")
DOWNLOADS = 16  # at a time
_OBJECT_COLUMNS = ("key", "tag", "size", "modified")


def ledger_of(settings: Settings) -> Ledger:
    """The ledger of this project's arrivals."""
    return Ledger(settings.state / "arrivals" / "ledger.db")


@retried_task(task_run_name="list the arrivals of {category}")
def list_arrivals(category: str, source: str, preset: str, settle_seconds: float) -> str | None:
    """Open a batch with what is new at a source, or take up an interrupted one; its folder, or None."""
    settings = Settings()
    if batch := unfinished_batch(settings, category):
        LOGGER.info("an interrupted batch of %s is taken up: %s", category, batch.name)
        return str(batch.path)
    origin = open_source(source, settings=settings, settle_seconds=settle_seconds)
    seen = ledger_of(settings).seen(category, origin.address)
    listed = 0
    new = []
    for arrival in origin.listing():
        listed += 1
        if (arrival.key, arrival.tag) not in seen:
            new.append((arrival.key, arrival.tag, arrival.size, arrival.modified))
    LOGGER.info("%s: %d objects, %d of them new", origin.address, listed, len(new))
    if not new:
        return None
    objects = pd.DataFrame(new, columns=list(_OBJECT_COLUMNS))
    state = {"source": origin.address, "preset": preset, "listed": listed, "new": len(new)}
    return str(new_batch(settings, category, objects=objects, state=state).path)


@retried_task(task_run_name="copy the arrivals of {category}")
def stage_arrivals(category: str, batch_folder: str) -> int:
    """Copy a batch's objects into its folder; how many. What a killed copy left whole is not fetched again.

    Objects that are gone or were written anew since they were listed are left to the next run.
    """
    batch = Batch(batch_folder)
    if batch.staged_file.is_file():
        return len(batch.staged())
    from tqdm import tqdm

    objects = pd.read_parquet(batch.objects_file)
    try:
        source = open_source(batch.state["source"], settings=Settings(), settle_seconds=0)
    except AescError as error:
        if error.transient:
            raise
        raise AescError(
            error.where,
            f"{error.found}; arrivals that were listed there are being copied",
            allowed=error.allowed,
            todo=f"make it available again; or give these arrivals up: delete {batch.path} "
            "(the copies that were made are in it)",
        ) from error
    batch.files.mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = []
    moved = 0
    with tqdm(total=len(objects), unit="img", desc="copy", disable=None) as bar:
        for found in _fetch_all(source, objects, batch.files):
            moved += found is None
            if found is not None:
                rows.append(found)
            bar.update()
    if moved:
        LOGGER.info("%d arrivals of %s changed while they were read: left to the next run", moved, category)
    staged = pd.DataFrame(rows, columns=[*_OBJECT_COLUMNS, "sha256", "file"])
    batch.update(moved=moved)
    write_table(batch.staged_file, staged)
    return len(staged)


def _fetch_all(source: Source, objects: pd.DataFrame, folder: Path) -> Iterator[dict[str, Any] | None]:
    """Rows in the order of `objects`; a failed copy ends it, the ones that were made stay."""
    flying: deque[Future[dict[str, Any] | None]] = deque()
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        try:
            for number, row in enumerate(objects.itertuples(index=False)):
                arrival = Arrival(str(row.key), str(row.tag), int(row.size), str(row.modified))  # type: ignore[arg-type]
                flying.append(pool.submit(_fetch, source, arrival, folder, number))
                if len(flying) >= 4 * DOWNLOADS:
                    yield flying.popleft().result()
            while flying:
                yield flying.popleft().result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _fetch(source: Source, arrival: Arrival, folder: Path, number: int) -> dict[str, Any] | None:
    # The key's own name stays out of the path: it may be anything.
    target = folder / f"{number:07d}{_safe_suffix(arrival.key)}"
    row = {name: getattr(arrival, name) for name in _OBJECT_COLUMNS} | {"file": target.name}
    if target.is_file():
        return row | {"sha256": sha256_of(target)}
    unfinished = target.with_name(f"{target.name}.part")
    try:
        digest = source.fetch(arrival, unfinished)
        unfinished.replace(target)
    except MovedError:
        unfinished.unlink(missing_ok=True)
        return None
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise not_written(target, error, kept="what was copied is kept") from error
    return row | {"sha256": digest}


def _safe_suffix(key: str) -> str:
    suffix = PurePosixPath(key).suffix.lower()
    return suffix if suffix[1:].isalnum() and len(suffix) <= 8 else ""
