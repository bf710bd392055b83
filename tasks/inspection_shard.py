"""One shard of an inspection: its images are read, judged and drawn, a few at a time. Bound by the GPU or a CPU core.

All that it needs is in the inspection's folder, which every worker must be able to reach.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from aesc.errors import AescError
from aesc.files import write_atomically
from tasks.arrival import Arrival
from tasks.heatmaps import write_heatmap
from tasks.inspection_folder import InspectionFolder
from tasks.inspection_source import ImagePlace
from tasks.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

    from aesc.detector import Detector

BATCH = 16  # images in memory at a time
_LOADED: dict[tuple[str, str], Detector] = {}  # in this process: a worker does many shards
_LOADING = threading.Lock()


@dataclass(frozen=True)
class Inspected:
    """One image's row.

    Attributes:
        path: where it is.
        verdict: "pass", "reject", "abstain" or, where it cannot be read, "error" with the reason.
        residual, uncertainty, combined: None where the verdict did not need them and nobody asked.
        heatmap: below the inspection's folder; empty if none was drawn.
    """

    path: str
    verdict: str
    score: float | None = None
    threshold: float | None = None
    strategy: str = ""
    residual: float | None = None
    uncertainty: float | None = None
    combined: float | None = None
    flagged_share: float | None = None
    heatmap: str = ""
    error: str = ""
    sha256: str = ""


def schema() -> pa.Schema:
    """The columns of results."""
    import pyarrow as pa

    text = ("path", "verdict", "strategy", "heatmap", "error", "sha256")
    return pa.schema([(field.name, pa.string() if field.name in text else pa.float64()) for field in fields(Inspected)])


def run_shard(folder: InspectionFolder, number: int) -> Path:
    """Do one shard; the file of its rows, which is there at once if the shard was done before."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    state = folder.state
    target = folder.result(number)
    if target.is_file():
        return target
    place = ImagePlace(state["source"], Settings())
    detector = _detector(state["detector"], state["weights_sha256"])
    rows: list[Inspected] = []
    with tempfile.TemporaryDirectory() as scratch:
        for batch in _batches(folder.listing(number)):
            rows += _inspect(batch, place, detector, folder, state, Path(scratch))
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=schema())
    write_atomically(target, lambda path: pq.write_table(table, path))
    return target


def _inspect(
    batch: Sequence[Arrival],
    place: ImagePlace,
    detector: Detector,
    folder: InspectionFolder,
    state: dict[str, Any],
    scratch: Path,
) -> list[Inspected]:
    rows: dict[str, Inspected] = {}
    pixels: dict[str, Any] = {}
    contents: dict[str, str] = {}
    for image in batch:
        name = place.name(image.key)
        try:
            with place.opened(image, scratch) as (path, sha256):
                pixels[image.key] = detector.preprocess(path)
                contents[image.key] = sha256
        except AescError as error:
            if error.transient:  # the source is away: that is no property of the image
                raise
            rows[image.key] = Inspected(path=name, verdict="error", error=_reason(error, name))
    found = detector.predict_batch(list(pixels.values()), strategy=state["strategy"], lazy=not state["all_scores"])
    for key, prediction in zip(pixels, found, strict=True):
        heatmap = ""
        if state["heatmaps"] == "all" or prediction.verdict != "pass":
            heatmap = f"{folder.heatmaps.name}/{heatmap_name(key)}"
            write_heatmap(prediction, detector, folder.path / heatmap)
        rows[key] = Inspected(
            path=place.name(key),
            verdict=prediction.verdict,
            score=prediction.score,
            threshold=prediction.threshold,
            strategy=prediction.strategy,
            residual=prediction.scores.get("residual"),
            uncertainty=prediction.scores.get("uncertainty"),
            combined=prediction.scores.get("combined"),
            flagged_share=float(prediction.mask.mean()),
            heatmap=heatmap,
            sha256=contents[key],
        )
    return [rows[image.key] for image in batch]


def heatmap_name(key: str) -> str:
    """The file of an image's heatmap below the folder of heatmaps: its own path, where that is harmless.

    The folders and the whole name stay: a/001.png, b/001.png and b/001.jpg are three images.
    """
    path = PurePosixPath(key)
    if path.is_absolute() or {"..", "."} & set(key.split("/")) or "\0" in key or len(key) > 200:
        return f"{hashlib.sha256(key.encode()).hexdigest()}.png"  # a key in S3 may be anything
    return str(path) if path.suffix == ".png" else f"{path}.png"


def _reason(error: AescError, name: str) -> str:
    """The fault by the image's own name: that of a copy is nobody's business."""
    return f"{name}: {error.found}"


def _detector(folder: str, weights_sha256: str) -> Detector:
    from aesc.detector import Detector

    with _LOADING:
        if (folder, weights_sha256) not in _LOADED:
            _LOADED.clear()
            _LOADED[folder, weights_sha256] = Detector.load(Path(folder))
        return _LOADED[folder, weights_sha256]


def _batches(images: Sequence[Arrival]) -> Iterator[list[Arrival]]:
    rest = iter(images)
    while batch := list(islice(rest, BATCH)):
        yield batch
