"""The images that a look is about: newly inspected, newly accepted, or in a named place; with the champion's scores.

Images that the champion has learnt from, or was calibrated with, are left out: their scores are no news.
"""

from __future__ import annotations

import heapq
import logging
import tempfile
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from aesc.errors import AescError
from tasks.acceptance import accepted_name
from tasks.recent_scores import recent_scores
from tasks.settings import Settings
from tasks.staging import ledger_of
from tasks.storage import S3, connect, explain, parse_s3, redact

if TYPE_CHECKING:
    from aesc.detector import Detector

LOGGER = logging.getLogger("aesc")
INSPECTED, ARRIVED = "inspected", "arrived"
COLUMNS = ("sha256", "path", "origin", "at", "score")
_BATCH = 16


def recent_images(
    category: str, detector: Detector, *, source: str | None, most: int, known: Collection[str], settings: Settings
) -> pd.DataFrame:
    """The newest images and their scores, newest first.

    Args:
        category: whose inspections and arrivals.
        detector: the champion.
        source: s3://bucket/prefix or a folder whose newest images are looked at instead; None for what is kept.
        most: so many of each origin.
        known: sha256 of images that do not count.
        settings: the project.

    Returns:
        Columns sha256, path, origin ("inspected" or "arrived"), at, score.

    Raises:
        AescError: the source cannot be read.
    """
    point = detector.operating_point
    if source is not None:
        return _scored(_newest_of(source, most, settings), detector, INSPECTED, known)
    inspected = recent_scores(
        settings, category, weights_sha256=point.weights_sha256, strategy=point.strategy, most=most
    ).assign(origin=INSPECTED)
    inspected = inspected[~inspected["sha256"].isin(known)]
    taken = {*known, *inspected["sha256"]}
    arrived = _scored(_accepted(category, most, taken, settings), detector, ARRIVED, taken)
    found = pd.concat([inspected[list(COLUMNS)], arrived], ignore_index=True)
    return found.sort_values("at", ascending=False, kind="stable").reset_index(drop=True)


def clean_pixels(
    recent: pd.DataFrame, detector: Detector, *, most: int, settings: Settings
) -> list[npt.NDArray[np.uint8]]:
    """Preprocessed images of `recent` (newest first) that pass and can still be read as they were, at most `most`."""
    threshold = detector.operating_point.promise.threshold
    passing = recent[recent["score"] <= threshold]
    found: list[npt.NDArray[np.uint8]] = []
    rows: Iterator[Any] = passing.itertuples(index=False)
    while len(found) < most and (row := next(rows, None)) is not None:
        with tempfile.TemporaryDirectory() as scratch:
            path = _local(str(row.path), Path(scratch), settings)
            try:
                if path is not None and _sha256(path) == row.sha256:
                    found.append(detector.preprocess(path))
            except AescError as error:
                LOGGER.info("%s", str(error).splitlines()[0])
    return found


def _accepted(
    category: str, most: int, known: Collection[str], settings: Settings
) -> Iterator[tuple[Path, str, str, str]]:
    """Newest accepted arrivals that the data folder holds: file, address, sha256, when."""
    for sha256, key, at in ledger_of(settings).newest_accepted(category, most + len(known)):
        path = settings.data / category / accepted_name(sha256, key)
        if sha256 not in known and path.is_file():
            yield path, str(path), sha256, at


def _newest_of(source: str, most: int, settings: Settings) -> Iterator[tuple[Path, str, str, str]]:
    """The images of a place that changed last, newest first, each as a copy that is gone at the next."""
    from aesc.images import FORMATS, IMAGE_SUFFIXES
    from tasks.arrival import MovedError
    from tasks.arrivals import open_source

    place = open_source(source, settings=settings, settle_seconds=0.0)
    images = (one for one in place.listing() if Path(one.key).suffix.lower() in IMAGE_SUFFIXES)
    newest = heapq.nlargest(most, images, key=lambda one: (one.modified, one.key))
    if not newest:
        raise AescError(place.address, "no images there", allowed=FORMATS, todo="name another place", usage=True)
    with tempfile.TemporaryDirectory() as scratch:
        for number, one in enumerate(newest):
            copy = Path(scratch) / f"{number}{Path(one.key).suffix.lower()}"
            try:
                sha256 = place.fetch(one, copy)
            except MovedError:
                continue
            yield copy, f"{place.address}/{one.key}", sha256, one.modified
            # A batch behind is no longer needed: it was read when it was asked for.
            (Path(scratch) / f"{number - _BATCH}{copy.suffix}").unlink(missing_ok=True)


def _scored(
    images: Iterable[tuple[Path, str, str, str]], detector: Detector, origin: str, known: Collection[str]
) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    seen = set(known)
    rest = iter(images)
    while batch := list(islice(_readable(rest, detector, seen), _BATCH)):
        predictions = detector.predict_batch([pixels for pixels, *_ in batch], lazy=True)
        for (_, address, sha256, at), prediction in zip(batch, predictions, strict=True):
            row = {"sha256": sha256, "path": address, "origin": origin, "at": at, "score": prediction.score}
            rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"score": "float64"})


def _readable(
    images: Iterator[tuple[Path, str, str, str]], detector: Detector, seen: set[str]
) -> Iterator[tuple[npt.NDArray[np.uint8], str, str, str]]:
    for path, address, sha256, at in images:
        if sha256 in seen:
            continue
        seen.add(sha256)
        try:
            yield detector.preprocess(path), address, sha256, at
        except AescError as error:
            LOGGER.info("%s: left out: %s", address, error.found)


def _local(address: str, scratch: Path, settings: Settings) -> Path | None:
    if not address.startswith(S3):
        return Path(address) if Path(address).is_file() else None
    from botocore.exceptions import BotoCoreError, ClientError

    location = parse_s3(address)
    client, key_id = connect(settings)
    target = scratch / f"image{Path(address).suffix}"
    try:
        client.download_file(location.bucket, location.prefix, str(target))
    except ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
            return None
        endpoint = redact(client.meta.endpoint_url)
        raise explain(error, location, endpoint=endpoint, key_id=key_id, doing="read") from None
    except BotoCoreError as error:
        endpoint = redact(client.meta.endpoint_url)
        raise explain(error, location, endpoint=endpoint, key_id=key_id, doing="read") from None
    return target


def _sha256(path: Path) -> str:
    from aesc.cache import sha256_of

    return sha256_of(path)
