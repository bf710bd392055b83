"""Arrivals that were not taken in: image, heatmap and reason, kept until a person decides, and what was decided."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from aesc.errors import AescError
from aesc.files import not_written, read_json, write_atomically, write_json
from tasks.arrival_batch import ACCEPTED, QUARANTINED, Batch, new_batch, write_table
from tasks.arrival_suite import OTHER_FORMAT, OTHER_SIZE, UNREADABLE
from tasks.judging import SAME_CONTENT, open_gate
from tasks.pages import render_template
from tasks.retries import retried_task
from tasks.settings import Settings

if TYPE_CHECKING:
    from aesc.detector import Detector, Prediction
    from aesc.images import Image

RECORD = "reason.json"
HEATMAP, PREVIEW = "heatmap.png", "preview.png"
HELD, REJECTED = "held", "rejected"
SHOWN = 500  # on the page; the folder and `aesc quarantine list` have all
CHUNK = 16  # images that the champion looks at together
_PREVIEW_SIDE = 256
_MAX_MEGAPIXELS = 100.0  # of a preview


def quarantine_folder(settings: Settings, category: str) -> Path:
    """Where the quarantined arrivals of a category are."""
    return settings.state / "quarantine" / category


@retried_task(task_run_name="quarantine arrivals of {category}")
def quarantine_arrivals(category: str, batch_folder: str) -> int:
    """Keep what a batch does not take in, and draw the page; how many. Safe to repeat."""
    settings, batch = Settings(), Batch(batch_folder)
    verdicts = batch.verdicts()
    held = verdicts[verdicts["verdict"] == QUARANTINED]
    folder = quarantine_folder(settings, category)
    missing = [row for row in held.to_dict("records") if not (folder / entry_id(row, batch.state["source"])).is_dir()]
    if missing:
        detector, _ = open_gate(category, settings)
        for start in range(0, len(missing), CHUNK):
            rows = [{str(key): value for key, value in row.items()} for row in missing[start : start + CHUNK]]
            images = _readable(rows, batch, detector)
            predictions = (
                detector.predict_batch([detector.preprocess(one) for one in images.values()]) if detector else []
            )
            found = dict(zip(images, predictions, strict=False))
            for row in rows:
                _keep(row, batch, folder, images.get(row["file"]), detector, found.get(row["file"]))
    if missing or not (folder / "index.html").is_file():
        write_page(settings, category)
    return len(held)


def entry_id(row: Any, source: str) -> str:
    """What an entry is called: the same arrival has the same name in every run."""
    content = f"{row['sha256']} {source} {row['key']}"
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _readable(rows: list[dict[str, Any]], batch: Batch, detector: Detector | None) -> dict[str, Image]:
    """The decoded images among these arrivals, by file."""
    from aesc.images import read_image

    limit = detector.operating_point.max_megapixels if detector else _MAX_MEGAPIXELS
    found = {}
    for row in rows:
        with suppress(AescError):
            found[str(row["file"])] = read_image(batch.files / row["file"], max_megapixels=limit)
    return found


def _keep(
    row: dict[str, Any],
    batch: Batch,
    folder: Path,
    image: Image | None,
    detector: Detector | None,
    prediction: Prediction | None,
) -> None:
    """Make an entry in one step: it is whole or it is not there."""
    state = batch.state
    name = entry_id(row, state["source"])
    unfinished = folder / f".{name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        kept = unfinished / f"image{Path(row['file']).suffix}"
        shutil.copyfile(batch.files / row["file"], kept)
        with kept.open("rb") as file:
            os.fsync(file.fileno())  # the batch's copy goes when the batch has ended
        picture = _picture(unfinished, row, image, detector, prediction)
        record = {
            "id": name,
            "status": HELD,
            "category": state["category"],
            "source": state["source"],
            "key": row["key"],
            "modified": row["modified"],
            "batch": batch.name,
            "held_at": _now(),
            "sha256": row["sha256"],
            "reason": row["reason"],
            "detail": row["detail"],
            "twin": row["twin"] or None,
            "residual": _number(row["residual"]),
            "uncertainty": _number(row["uncertainty"]),
            "gate": state.get("gate", ""),
            "image": kept.name,
            "picture": picture,
            "decisions": [],
        }
        write_json(unfinished / RECORD, record)
        unfinished.replace(folder / name)
    except OSError as error:
        raise not_written(folder / name, error) from error


def _picture(
    folder: Path, row: dict[str, Any], image: Image | None, detector: Detector | None, prediction: Prediction | None
) -> str | None:
    """Draw the heatmap, or a preview where there is no champion; the file's name, None for an unreadable image."""
    from PIL import Image as PillowImage

    from aesc.images import to_network_input
    from tasks.heatmaps import write_heatmap

    if image is None:
        return None
    if detector and prediction:
        shown = "uncertainty" if row["detail"].startswith("uncertainty") else None
        write_heatmap(prediction, detector, folder / HEATMAP, strategy=shown)  # type: ignore[arg-type]
        return HEATMAP
    pixels = to_network_input(image, size=_PREVIEW_SIDE, channels=3)
    write_atomically(folder / PREVIEW, lambda path: PillowImage.fromarray(pixels).save(path, format="PNG"))
    return PREVIEW


def entries(settings: Settings, *, category: str | None = None) -> list[dict[str, Any]]:
    """The records of all entries, the newest first."""
    pattern = f"{category or '*'}/*/{RECORD}"
    found = [
        read_json(path)
        for path in (settings.state / "quarantine").glob(pattern)
        if not path.parent.name.startswith(".")
    ]
    return sorted(found, key=lambda record: (record["held_at"], record["id"]), reverse=True)


def rejected_contents(settings: Settings, category: str) -> dict[str, str]:
    """The sha256 of every rejected image of a category, and who rejected it and why."""
    return {
        record["sha256"]: "rejected by {by}: {why}".format_map(record["decisions"][-1])
        for record in entries(settings, category=category)
        if record["status"] == REJECTED
    }


def find_entry(settings: Settings, name: str) -> dict[str, Any]:
    """The record of the entry whose id is, or begins with, `name`.

    Raises:
        AescError: none, or several.
    """
    found = []
    if re.fullmatch(r"[0-9a-f]{4,12}", name):
        found = [read_json(path) for path in (settings.state / "quarantine").glob(f"*/{name}*/{RECORD}")]
    if len(found) != 1:
        raise AescError(
            f"quarantine entry {name}",
            "no such entry" if not found else f"{len(found)} entries begin like this",
            allowed="the id of an entry, or its first digits (at least 4)",
            todo="aesc quarantine list",
            usage=True,
        )
    record: dict[str, Any] = found[0]
    return record


def entry_folder(settings: Settings, record: dict[str, Any]) -> Path:
    """Where an entry's files are."""
    return quarantine_folder(settings, record["category"]) / str(record["id"])


def require_acceptable(record: dict[str, Any]) -> None:
    """Stop if the data could not be trained on with this entry among it, whoever accepts it."""
    same_content = str(record["detail"]).startswith(SAME_CONTENT)
    if record["reason"] in (UNREADABLE, OTHER_SIZE, OTHER_FORMAT) or same_content:
        raise AescError(
            f"quarantine entry {record['id']}",
            f"{record['reason'].replace('_', ' ')}: {record['detail']}",
            allowed="an image of the category's size and pixel format whose content is not in the data yet",
            todo="export the image again and let it arrive anew; reject this entry",
            usage=True,
        )


def require_undecided(record: dict[str, Any]) -> None:
    """Stop if a person has accepted or rejected the entry before."""
    if record["status"] != HELD:
        last = record["decisions"][-1]
        raise AescError(
            f"quarantine entry {record['id']}",
            f"already {record['status']} by {last['by']} at {last['at']}: {last['why']}",
            allowed="an entry that is held",
            todo="aesc quarantine list",
            usage=True,
        )


def decide(settings: Settings, record: dict[str, Any], status: str, *, by: str, why: str) -> dict[str, Any]:
    """Record what a person decided, and draw the page anew; the new record."""
    if record["status"] == status:  # a repetition after a crash
        return record
    decision = {"decision": status, "by": by, "why": why, "at": _now()}
    changed = {**record, "status": status, "decisions": [*record["decisions"], decision]}
    write_json(entry_folder(settings, record) / RECORD, changed)
    write_page(settings, record["category"])
    return changed


def release(settings: Settings, records: list[dict[str, Any]], *, by: str, why: str, preset: str) -> Batch:
    """A batch that takes entries in, the same way as any arrival that was accepted.

    The entries' status changes when the batch has ended, so an interrupted one leaves them held.

    Raises:
        AescError: an entry is not acceptable, its content is in the data already or in another entry of these, or its
            image is no longer what arrived.
    """
    (category,) = {record["category"] for record in records}
    _require_new(settings, category, records)
    rows = [
        {
            "key": record["key"],
            "tag": f"quarantine {record['id']}",
            "size": (entry_folder(settings, record) / record["image"]).stat().st_size,
            "modified": record["modified"],
            "sha256": record["sha256"],
            "file": f"{record['id']}{Path(record['image']).suffix}",
            "verdict": ACCEPTED,
            "reason": "",
            "detail": f"accepted by {by}: {why}",
            "twin": "",
        }
        for record in records
    ]
    table = pd.DataFrame(rows)
    gate = f"overruled by {by}: {why}"
    state = {"source": "quarantine", "listed": len(rows), "new": len(rows), "gate": gate, "by": by, "why": why}
    objects = table[["key", "tag", "size", "modified"]]

    def fill(batch: Batch) -> None:
        for record, row in zip(records, rows, strict=True):
            shutil.copyfile(entry_folder(settings, record) / record["image"], batch.files / str(row["file"]))
        write_table(batch.staged_file, table[[*objects.columns, "sha256", "file"]])
        write_table(batch.verdicts_file, table)

    return new_batch(
        settings, category, objects=objects, state={**state, "preset": preset, "released": True}, fill=fill
    )


def _require_new(settings: Settings, category: str, records: list[dict[str, Any]]) -> None:
    """An arrival is told its first fault only, and the data has grown since: compare content with what is there now."""
    from aesc.cache import sha256_of, threaded_map
    from aesc.layout import is_mask, list_files

    folder = settings.data / category
    paths = [path for path in list_files(folder) if not is_mask(path)] if folder.is_dir() else []
    there = dict(zip(threaded_map(lambda path: sha256_of(folder / path), paths), paths, strict=True))
    for record in records:
        require_acceptable(record)
        entry = f"quarantine entry {record['id']}"
        if sha256_of(entry_folder(settings, record) / record["image"]) != record["sha256"]:
            todo = "let it arrive anew; reject this entry"
            raise AescError(entry, f"{record['image']} is no longer what arrived", todo=todo, usage=True)
        if twin := there.get(record["sha256"]):
            raise AescError(
                entry,
                f"{SAME_CONTENT} {twin}",
                allowed="content that is not in the data yet",
                todo="reject this entry",
                usage=True,
            )
        there[record["sha256"]] = entry


def finish_release(settings: Settings, batch: Batch) -> None:
    """Mark the entries of a batch from `release` as accepted. Safe to repeat."""
    state = batch.state
    for file in batch.verdicts()["file"]:
        decide(settings, find_entry(settings, Path(file).stem), ACCEPTED, by=state["by"], why=state["why"])


def write_page(settings: Settings, category: str) -> Path:
    """Draw the page that lists a category's quarantine; its path."""
    found = sorted(entries(settings, category=category), key=lambda record: record["status"] != HELD)
    path = quarantine_folder(settings, category) / "index.html"
    page = render_template(
        "quarantine.html.j2", category=category, entries=found[:SHOWN], total=len(found), counts=dict(_counts(found))
    )
    write_atomically(path, lambda file: file.write_text(page, encoding="utf-8"))
    return path


def _counts(found: list[dict[str, Any]]) -> Iterator[tuple[str, int]]:
    for status in (HELD, ACCEPTED, REJECTED):
        yield status, sum(record["status"] == status for record in found)


def _number(value: float) -> float | None:
    return None if pd.isna(value) else float(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
