"""Inspecting images with a registered or saved detector: what is asked for, the plan, and the small case.

Shards of a large inspection run wherever a task runner sends them, see flows/inspection.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aesc.errors import AescError
from tasks.inspection_folder import SHARD, InspectionFolder, open_folder
from tasks.inspection_source import ImagePlace

if TYPE_CHECKING:
    from aesc.params import Strategy
    from tasks.settings import Settings


def detector_folder(category: str | None, model: str, settings: Settings) -> tuple[Path, str]:
    """A local folder with the detector that `model` names (alias, version number or folder), and its name.

    Raises:
        AescError: there is no such model, or MLflow cannot be reached.
    """
    if Path(model).is_dir():
        return Path(model).resolve(), model

    from tasks.registry import download_detector, model_uri, only_category

    category = category or only_category()
    return download_detector(category, model, settings.state / "detectors"), model_uri(category, model)


def is_small(source: str, settings: Settings) -> bool:
    """Whether the source has so few images that one process does them at once, without a task runner."""
    from itertools import islice

    return sum(1 for _ in islice(ImagePlace(source, settings).listing(), SHARD + 1)) <= SHARD


@contextmanager
def planned(
    source: str,
    *,
    category: str | None,
    model: str,
    out: Path | None,
    settings: Settings,
    strategy: Strategy | None = None,
    all_scores: bool = False,
) -> Iterator[tuple[InspectionFolder, str]]:
    """The planned inspection's folder, kept from other processes inside, and the model's name.

    Args:
        source: an image file, a folder, or s3://bucket/prefix.
        category: whose detector; None for the only registered one.
        model: alias, version number, or folder of a saved detector.
        out: folder for the results; by default one below the state, an unfinished one of the same inspection if there
            is one.
        settings: the project.
        strategy: by default the calibrated choice.
        all_scores: all strategies' scores, also where the verdict does not need them.

    Raises:
        AescError: no images, or no such model, or another process works in the folder.
    """
    from aesc.images import FORMATS
    from aesc.operating_point import OperatingPoint

    place = ImagePlace(source, settings)
    if next(place.listing(), None) is None:
        raise AescError(source, "no images in this place", allowed=FORMATS, todo="name another one", usage=True)
    folder, name = detector_folder(category, model, settings)
    point = OperatingPoint.load(folder)
    asked = {
        "address": place.address,
        "weights_sha256": point.weights_sha256,
        "operating_point": point.model_dump_json(),
        "strategy": strategy,
        "all_scores": all_scores,
    }
    if out is not None:
        inspection = InspectionFolder(out.resolve())
        lock = _held(inspection, out)
    else:
        label = Path(place.address).stem or "images"
        inspection, lock = open_folder(settings.state / "inspections", label=label, asked=asked)
    try:
        inspection.plan(place.listing(), asked, source=source if "://" in source else place.address, detector=folder)
        yield inspection, name
    finally:
        lock.release()


def inspect_source(source: str, *, settings: Settings, **asked: Any) -> dict[str, Any]:
    """Inspect a few images in this process; the report, JSON-ready. Arguments and errors as `planned`."""
    from tqdm import tqdm

    from tasks.inspection_results import finish
    from tasks.inspection_shard import run_shard

    with planned(source, settings=settings, **asked) as (folder, name):
        for number in tqdm(folder.missing(), unit="shard", desc="inspect", disable=None):
            run_shard(folder, number)
        return finish(folder, model=name, settings=settings)


def _held(inspection: InspectionFolder, out: Path) -> Any:
    try:
        return inspection.hold()
    except OSError as error:
        raise AescError(out, f"cannot be made: {error}", todo="name a writable folder with --out") from error
