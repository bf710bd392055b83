"""Each arrival innocent until proven otherwise: form, statistics, copies, contamination. Bound by GPU or all cores.

The order is by price, and an arrival is told its first fault only:

1. readable, of the category's size and pixel format; brightness, contrast, sharpness and saturation within the bands of
   the accepted clean images (Great Expectations);
2. not the content of an image of train or test, nor one that a person has rejected; no copy by perceptual hash;
3. no alarm of the champion.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from aesc.errors import AescError
from aesc.params import Params
from tasks.arrival_batch import ACCEPTED, KNOWN, QUARANTINED, Batch, write_table
from tasks.retries import retried_task
from tasks.settings import Settings
from tasks.staging import ledger_of

if TYPE_CHECKING:
    from aesc.bands import Band
    from aesc.copies import CopyFinder, Hash
    from aesc.detector import Detector

LOGGER = logging.getLogger("aesc")
DUPLICATE, NEAR_DUPLICATE, LEAK, CONTAMINATED = "duplicate", "near_duplicate", "leak", "contaminated"
REJECTED_BEFORE = "rejected_before"
SAME_CONTENT = "the same content as"
CHUNK = 64
LEAST_ALIKE = 20  # images that tell how alike different pictures of a product are


@dataclass(frozen=True)
class Decision:
    """What was decided on one arrival.

    Attributes:
        verdict: "accepted", "quarantined", or "known" (taken in by an earlier run that was not recorded).
        reason: of a quarantine, as "leak"; empty otherwise.
        detail: what was found, and what is allowed, in words.
        twin: the image that it is a copy of; empty if none.
        residual, uncertainty: the champion's scores; None if it was not asked.
    """

    verdict: str
    reason: str = ""
    detail: str = ""
    twin: str = ""
    residual: float | None = None
    uncertainty: float | None = None


@dataclass(frozen=True)
class Reference:
    """The accepted images that arrivals are compared with.

    Attributes:
        size, kind: most common among them, or among the test images if there are no others; empty if there are none.
        bands: none where there are too few of them.
        by_content: path below the category by sha256, of train and test.
        copies: perceptual hashes of the same images.
        n: accepted clean images.
    """

    size: str
    kind: str
    bands: Mapping[str, Band]
    by_content: Mapping[str, str]
    copies: CopyFinder
    n: int


@retried_task(task_run_name="judge the arrivals of {category}")
def judge_arrivals(category: str, data_root: str, batch_folder: str, params_file: str) -> int:
    """Decide on each staged arrival; how many are accepted. A batch that was decided on is not judged again."""
    batch = Batch(batch_folder)
    if batch.verdicts_file.is_file():
        return int((batch.verdicts()["verdict"] == ACCEPTED).sum())
    from aesc.bands import BANDED
    from aesc.params_file import load_params
    from tasks.quarantine import rejected_contents
    from tasks.suite_worker import start_suite_worker

    start_suite_worker()
    settings = Settings()
    params = load_params(Path(params_file), preset=batch.state["preset"], category=category)
    detector, gate = open_gate(category, settings)
    batch.update(gate=gate)
    LOGGER.info("contamination gate: %s", gate)
    reference = load_reference(Path(data_root), category, params=params, settings=settings)
    if not reference.bands:
        needed = f"{params.arrivals.band_images} (arrivals.band_images) are needed"
        LOGGER.info("no bands for %s: %d clean images accepted, %s", ", ".join(BANDED.values()), reference.n, needed)
    table = judge(
        batch.staged(),
        batch.files,
        category=category,
        params=params,
        reference=reference,
        detector=detector,
        taken_in=ledger_of(settings).accepted(category),
        rejected=rejected_contents(settings, category),
    )
    write_table(batch.verdicts_file, table)
    return int((table["verdict"] == ACCEPTED).sum())


def open_gate(category: str, settings: Settings) -> tuple[Detector | None, str]:
    """The champion and what the gate is, in words; without a champion the gate is open."""
    from aesc.detector import Detector
    from aesc.gate import most_held_clean
    from tasks.registry import CHAMPION, download_detector, find_version, model_uri

    champion = find_version(category, CHAMPION)
    if champion is None:
        return None, f"open: {category} has no champion yet, so nothing tells a defect from a clean image"
    detector = Detector.load(download_detector(category, champion.version, settings.state / "detectors"))
    held = most_held_clean(detector.operating_point)
    return detector, (
        f"{model_uri(category, champion.version)}, the champion; "
        f"it holds back at most {100 * held:.3g} % of clean images, on average over calibration sets"
    )


def load_reference(data_root: Path, category: str, *, params: Params, settings: Settings) -> Reference:
    """What is known of a category's images; of a new category nothing."""
    from aesc.bands import bands_of
    from aesc.copies import CopyFinder
    from aesc.layout import CLEAN_FOLDER, MASK_FOLDER, list_files
    from aesc.manifest import scan_category
    from tasks.copy_index import hashes_of
    from tasks.validation_table import profile_clean, tabulate

    if not (data_root / category).is_dir() or not list_files(data_root / category):
        return Reference("", "", {}, {}, CopyFinder([], hashes_of({}, settings=settings, max_megapixels=1)[1]), 0)
    manifest = scan_category(data_root, category, data=params.data, cache_folder=settings.cache, need_clean=False)
    profile = profile_clean(tabulate(manifest, min_std=params.validation.min_std))
    clean = manifest[(manifest["error"] == "") & (manifest["folder"] == CLEAN_FOLDER)]
    # A test image stays one if its mask is damaged. The test images last: content that is in both is a leak.
    images = manifest[~manifest["folder"].str.startswith(f"{MASK_FOLDER}/") & manifest["sha256"].ne("")].iloc[::-1]
    by_content = {
        str(sha256): str(path).partition("/")[2] for sha256, path in zip(images["sha256"], images["path"], strict=True)
    }
    names, hashes = hashes_of(
        {sha256: data_root / category / path for sha256, path in by_content.items()},
        settings=settings,
        max_megapixels=params.data.max_megapixels,
    )
    return Reference(
        size=profile.size,
        kind=profile.kind,
        bands=bands_of(clean, width=params.arrivals.band_width, least_images=params.arrivals.band_images),
        by_content=by_content,
        copies=CopyFinder([by_content[sha256] for sha256 in names], hashes),
        n=len(clean),
    )


def judge(
    staged: pd.DataFrame,
    files: Path,
    *,
    category: str,
    params: Params,
    reference: Reference,
    detector: Detector | None,
    taken_in: set[str],
    rejected: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Decide on arrivals.

    Args:
        staged: one row an arrival, with key, sha256 and file.
        files: the folder of the copies.
        reference: from `load_reference`.
        detector: the champion, or None: then the gate is open.
        taken_in: sha256 of all arrivals that the ledger has as accepted.
        rejected: by sha256 of what a person rejected, who and why: it does not come in by arriving once more.

    Returns:
        The rows with statistics and the fields of `Decision`.
    """
    from aesc.copies import CopyFinder
    from aesc.layout import TEST_FOLDER
    from tasks.acceptance import accepted_name
    from tasks.arrival_suite import build_arrival_suite, tabulate_arrivals, usual_form

    rows = _measured(staged, files, params)
    size, kind = (reference.size, reference.kind) if reference.size else usual_form(rows)
    table = tabulate_arrivals(rows, size=size, kind=kind)
    build = partial(
        build_arrival_suite,
        category=category,
        size=size,
        kind=kind,
        bands=reference.bands,
        max_megapixels=params.data.max_megapixels,
    )
    decided = _expected(table, build, category)
    alike = reference.copies
    if len(alike) < LEAST_ALIKE:  # how alike different pictures of a new product are, its first arrivals tell
        first = table[~table["file"].isin(decided)]
        alike = CopyFinder(first["file"].tolist(), np.array(list(_hashes(first["file"], files, params))))
    limit = alike.limit(params.arrivals.near_duplicate_bits)
    by_content = dict(reference.by_content)
    fresh: set[str] = set()  # taken in from these very arrivals

    def same_content(row: Any) -> Decision | None:
        twin = by_content.get(row.sha256)
        if twin is None:
            words = (rejected or {}).get(row.sha256)
            return Decision(QUARANTINED, REJECTED_BEFORE, f"the same content was {words}") if words else None
        if row.sha256 not in taken_in and row.sha256 not in fresh and twin == accepted_name(row.sha256, row.file):
            return Decision(KNOWN, detail="taken in by an earlier run", twin=twin)
        return _copy(twin, SAME_CONTENT, DUPLICATE, leak=twin.startswith(f"{TEST_FOLDER}/"))

    def same_picture(found: Hash) -> Decision | None:
        nearest = reference.copies.nearest(found)
        if nearest is None or nearest[1] > limit:
            return None
        twin, bits = nearest
        words = f"{bits} of 256 bits of the perceptual hash (a copy: at most {limit}) from"
        return _copy(twin, words, NEAR_DUPLICATE, leak=twin.startswith(f"{TEST_FOLDER}/"))

    for chunk in _chunks(table[~table["file"].isin(decided)], CHUNK):
        decided |= {row.file: decision for row in chunk if (decision := same_content(row))}
        undecided = [row for row in chunk if row.file not in decided]
        for row, found, decision in _gated(undecided, files, params, detector):
            final = same_content(row) or same_picture(found) or decision  # the first may have come with this chunk
            if final.verdict == ACCEPTED:
                fresh.add(row.sha256)
                by_content[row.sha256] = accepted_name(row.sha256, row.file)
                reference.copies.add(by_content[row.sha256], found)
            decided[row.file] = final
    for field in fields(Decision):
        values = [getattr(decided[file], field.name) for file in table["file"]]
        numeric = field.name in ("residual", "uncertainty")
        table[field.name] = pd.Series(values, index=table.index, dtype="float64" if numeric else object)
    return table[[*rows.columns, *(field.name for field in fields(Decision))]]


def _copy(twin: str, words: str, reason: str, *, leak: bool) -> Decision:
    if leak:
        detail = f"{words} {twin}, a test image: what is learnt from cannot also be tested on"
        return Decision(QUARANTINED, LEAK, detail, twin)
    return Decision(QUARANTINED, reason, f"{words} {twin}", twin)


def _measured(staged: pd.DataFrame, files: Path, params: Params) -> pd.DataFrame:
    """The staged rows with their statistics, or the fault that keeps them from being read."""
    from aesc.cache import threaded_map
    from aesc.image_statistics import Statistics, measure
    from aesc.images import IMAGE_SUFFIXES, read_image

    def one(file: str) -> dict[str, Any]:
        path = files / file
        try:
            if path.suffix not in IMAGE_SUFFIXES:
                raise AescError(path, f"not an image: suffix {path.suffix or 'missing'}")
            return asdict(measure(read_image(path, max_megapixels=params.data.max_megapixels)))
        except AescError as error:
            return {"fault": error.found}

    columns = [field.name for field in fields(Statistics)]
    found = pd.DataFrame(list(threaded_map(one, staged["file"])), columns=["fault", *columns])
    found["fault"] = found["fault"].astype(object).where(found["fault"].notna(), None)
    found["mode"] = found["mode"].astype(object)
    return pd.concat([staged.reset_index(drop=True), found], axis=1)


def _expected(table: pd.DataFrame, build: Callable[[], Any], category: str) -> dict[str, Decision]:
    """A decision by file for every arrival that fails an expectation: the first one in the suite's order."""
    from tasks.expectations import meta_of, run_suite

    by_file = {str(row["file"]): row for row in table.to_dict("records")}
    decided: dict[str, Decision] = {}
    if table.empty:
        return decided
    for result in run_suite(table, build, name=category, index="file")["results"]:
        meta = meta_of(result)
        for index in result["result"].get("unexpected_index_list") or []:
            file = str(index["file"])
            found = meta["found"].format_map(by_file[file])
            decided.setdefault(file, Decision(QUARANTINED, meta["name"], f"{found}; allowed: {meta['allowed']}"))
    return decided


def _gated(
    chunk: Sequence[Any], files: Path, params: Params, detector: Detector | None
) -> Iterator[tuple[Any, Hash, Decision]]:
    """Each row with its perceptual hash and what the champion says of it."""
    from aesc.cache import threaded_map
    from aesc.copies import perceptual_hash
    from aesc.gate import alarms
    from aesc.images import read_image

    def prepare(row: Any) -> tuple[Hash, Any]:
        image = read_image(files / row.file, max_megapixels=params.data.max_megapixels)
        return perceptual_hash(image), detector.preprocess(image) if detector else None

    prepared = list(threaded_map(prepare, chunk))
    if detector is None:
        yield from ((row, found, Decision(ACCEPTED)) for row, (found, _) in zip(chunk, prepared, strict=True))
        return
    predictions = detector.predict_batch([pixels for _, pixels in prepared])
    for row, (found, _), prediction in zip(chunk, prepared, predictions, strict=True):
        raised = alarms(prediction, detector.operating_point)
        scores = {name: prediction.scores[name] for name in ("residual", "uncertainty")}
        if raised:
            detail = "; ".join(map(str, raised))
            yield row, found, Decision(QUARANTINED, CONTAMINATED, detail, **scores)  # type: ignore[arg-type]
        else:
            yield row, found, Decision(ACCEPTED, **scores)  # type: ignore[arg-type]


def _hashes(names: Iterable[str], files: Path, params: Params) -> Iterator[Hash]:
    from aesc.cache import threaded_map
    from aesc.copies import perceptual_hash
    from aesc.images import read_image

    limit = params.data.max_megapixels
    return threaded_map(lambda name: perceptual_hash(read_image(files / name, max_megapixels=limit)), names)


def _chunks(table: pd.DataFrame, size: int) -> Iterator[list[Any]]:
    rows = table.itertuples(index=False)
    while chunk := list(islice(rows, size)):
        yield chunk
