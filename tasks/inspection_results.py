"""The results of an inspection: one table of all shards, never in memory as a whole, and a page of what matters."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from aesc.files import write_atomically
from tasks.inspection_folder import ALL_HEATMAPS, InspectionFolder
from tasks.inspection_shard import schema
from tasks.pages import render_template
from tasks.recent_scores import MOST_IMAGES, record_scores
from tasks.settings import Settings

if TYPE_CHECKING:
    from aesc.operating_point import OperatingPoint

SHOWN = ALL_HEATMAPS  # images on the page and in the report; the tables have all
VERDICTS = ("pass", "reject", "abstain", "error")


def finish(folder: InspectionFolder, *, model: str, settings: Settings) -> dict[str, Any]:
    """Join the shards into tables, make the page, and keep the scores for `monitor`; the report, JSON-ready.

    The report names all images of a small inspection; of a large one those that did not pass, the most suspicious first
    and `SHOWN` at most.
    """
    from aesc.operating_point import OperatingPoint

    state = folder.state
    point = OperatingPoint.load(Path(state["detector"]))
    counts = _join(folder)
    rows = _shown(folder, everything=state["images"] <= SHOWN)
    page = render_template(
        "gallery.html.j2",
        title=state["source"],
        rows=rows,
        counts=counts,
        total=state["images"],
        operating_point=point,
    )
    write_atomically(folder.gallery, lambda path: path.write_text(page, encoding="utf-8"))
    _keep_scores(folder, point, settings)
    folder.update(finished=True)
    folder.discard_shards()
    return {
        "category": point.category,
        "model": model,
        "data_version": point.data_version,
        "weights_sha256": point.weights_sha256,
        "promise": point.promise.model_dump(),
        "abstention": point.abstention.model_dump(),
        "counts": counts,
        "gallery": str(folder.gallery),
        "table": str(folder.table),
        "images": rows,
    }


def _join(folder: InspectionFolder) -> dict[str, int]:
    """Write verdicts.parquet and verdicts.csv shard by shard; how many images have which verdict."""
    import pyarrow.parquet as pq

    counts = dict.fromkeys(VERDICTS, 0)

    def write(path: Path) -> None:
        with pq.ParquetWriter(path, schema()) as writer:
            for rows in _tables(folder):
                writer.write_table(rows)

    def write_csv(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            for number, rows in enumerate(_tables(folder)):
                frame = rows.to_pandas()
                frame.to_csv(file, index=False, header=number == 0)
                for verdict, count in frame["verdict"].value_counts().items():
                    counts[str(verdict)] += int(count)

    write_atomically(folder.table, write)
    write_atomically(folder.csv, write_csv)
    return counts


def _shown(folder: InspectionFolder, *, everything: bool) -> list[dict[str, Any]]:
    if everything:
        return [row for table in _tables(folder) for row in table.to_pylist()]
    # Unreadable images last: their reasons are in the table too.
    found = (row for table in _tables(folder) for row in table.to_pylist() if row["verdict"] != "pass")
    return heapq.nlargest(SHOWN, found, key=lambda row: (row["score"] is not None, row["score"] or 0.0))


def _keep_scores(folder: InspectionFolder, point: OperatingPoint, settings: Settings) -> None:
    """The scores of the last images, with addresses that are good from anywhere."""
    kept: list[pd.DataFrame] = []
    for table in _tables(folder):
        kept.append(table.select(["sha256", "path", "score", "verdict", "strategy"]).to_pandas())
        while len(kept) > 1 and sum(map(len, kept[1:])) >= MOST_IMAGES:
            kept.pop(0)
    rows = pd.concat(kept, ignore_index=True)
    rows["path"] = [path if "://" in path else str(Path(path).resolve()) for path in rows["path"]]
    record_scores(settings, point.category, rows, weights_sha256=point.weights_sha256)


def _tables(folder: InspectionFolder) -> Iterator[Any]:
    import pyarrow.parquet as pq

    for path in folder.results():
        yield pq.read_table(path, schema=schema())
