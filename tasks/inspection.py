"""Verdicts, heatmaps and a gallery for a few images or a folder: bound by the GPU, or by all CPU cores."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aesc.errors import AescError
from aesc.files import write_atomically
from tasks.heatmaps import write_heatmap
from tasks.pages import render_template

if TYPE_CHECKING:
    from aesc.detector import Detector
    from aesc.params import Strategy
    from tasks.settings import Settings

BATCH = 16


@dataclass(frozen=True)
class Inspected:
    """One image's row: verdict "pass", "reject", "abstain" or, where it cannot be read, "error" with the reason."""

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


def detector_folder(category: str | None, model: str, settings: Settings) -> tuple[Path, str]:
    """A local folder with the detector that `model` names (alias, version number or folder), and its name.

    Raises:
        AescError: there is no such model, or MLflow cannot be reached.
    """
    if Path(model).is_dir():
        return Path(model), model

    from tasks.registry import download_detector, model_uri, only_category

    category = category or only_category()
    return download_detector(category, model, settings.state / "detectors"), model_uri(category, model)


def inspect_source(
    source: Path,
    *,
    category: str | None,
    model: str,
    out: Path | None,
    settings: Settings,
    strategy: Strategy | None = None,
) -> dict[str, Any]:
    """Inspect an image or a folder with a registered or saved detector; the report, JSON-ready.

    Args:
        source: an image file, or a folder of them.
        category: whose detector; None for the only registered one.
        model: alias, version number, or folder of a saved detector.
        out: folder for heatmaps, CSV and gallery; by default one below the state.
        settings: the project.
        strategy: by default the calibrated choice.

    Raises:
        AescError: no images, or no such model.
    """
    find_images(source)
    folder, name = detector_folder(category, model, settings)

    from aesc.detector import Detector

    detector = Detector.load(folder)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    target = (out or settings.state / "inspections" / f"{stamp}-{source.resolve().stem}").resolve()
    rows = inspect_images(source, detector, target, strategy=strategy, title=str(source))
    return as_json(rows, detector, model=name, out=target)


def find_images(source: Path) -> list[Path]:
    """The image file `source`, or all image files below the folder `source`, sorted.

    Raises:
        AescError: nothing there.
    """
    from aesc.images import FORMATS, IMAGE_SUFFIXES

    if source.is_dir():
        found = sorted(
            path
            for path in source.rglob("*")
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not path.name.startswith(".")
        )
        if not found:
            raise AescError(source, "no images in this folder", allowed=FORMATS, todo="name another one", usage=True)
        return found
    if not source.exists():
        raise AescError(
            source, "no such file or folder", allowed=f"an image or a folder of images: {FORMATS}", usage=True
        )
    return [source]


def inspect_images(
    source: Path, detector: Detector, out: Path, *, strategy: Strategy | None = None, title: str = ""
) -> list[Inspected]:
    """Inspect `source`, and write heatmaps, `verdicts.csv` and `index.html` into `out`; one row an image.

    An unreadable image becomes a row with its reason; the others are inspected all the same.
    """
    from tqdm import tqdm

    paths = find_images(source)
    base = source if source.is_dir() else source.parent
    heatmaps = out / "heatmaps"
    try:
        heatmaps.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AescError(out, f"cannot be made: {error}", todo="name a writable folder with --out") from error
    rows: list[Inspected] = []
    with tqdm(total=len(paths), unit="img", desc="inspect", disable=None) as bar:
        for batch in _batches(paths):
            rows += _inspect_batch(batch, base, detector, heatmaps, strategy)
            bar.update(len(batch))
    _write_csv(rows, out / "verdicts.csv")
    page = render_template(
        "gallery.html.j2", title=title or str(source), rows=rows, operating_point=detector.operating_point
    )
    write_atomically(out / "index.html", lambda path: path.write_text(page, encoding="utf-8"))
    return rows


def _batches(paths: Sequence[Path]) -> Iterator[list[Path]]:
    rest = iter(paths)
    while batch := list(islice(rest, BATCH)):
        yield batch


def _inspect_batch(
    paths: list[Path], base: Path, detector: Detector, heatmaps: Path, strategy: Strategy | None
) -> list[Inspected]:
    rows: dict[Path, Inspected] = {}
    pixels = {}
    for path in paths:
        try:
            pixels[path] = detector.preprocess(path)
        except AescError as error:
            rows[path] = Inspected(path=str(path), verdict="error", error=str(error).splitlines()[0])
    found = detector.predict_batch(list(pixels.values()), strategy=strategy) if pixels else []
    for path, prediction in zip(pixels, found, strict=True):
        # The folders and the whole name stay: a/001.png, b/001.png and b/001.jpg are three images.
        name = path.relative_to(base).as_posix()
        if path.suffix != ".png":
            name += ".png"
        write_heatmap(prediction, detector, heatmaps / name)
        rows[path] = Inspected(
            path=str(path),
            verdict=prediction.verdict,
            score=prediction.score,
            threshold=prediction.threshold,
            strategy=prediction.strategy,
            flagged_share=float(prediction.mask.mean()),
            heatmap=f"{heatmaps.name}/{name}",
            residual=prediction.scores["residual"],
            uncertainty=prediction.scores["uncertainty"],
            combined=prediction.scores["combined"],
        )
    return [rows[path] for path in paths]


def _write_csv(rows: Sequence[Inspected], path: Path) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(asdict(rows[0])))
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)

    write_atomically(path, write)


def as_json(rows: Sequence[Inspected], detector: Detector, *, model: str, out: Path) -> dict[str, Any]:
    """The report of an inspection, JSON-ready."""
    from aesc.detector import VERDICTS

    point = detector.operating_point
    counts = {name: sum(row.verdict == name for row in rows) for name in (*VERDICTS, "error")}
    return {
        "category": point.category,
        "model": model,
        "data_version": point.data_version,
        "weights_sha256": point.weights_sha256,
        "promise": point.promise.model_dump(),
        "abstention": point.abstention.model_dump(),
        "counts": counts,
        "gallery": str(out / "index.html"),
        "images": [asdict(row) for row in rows],
    }
