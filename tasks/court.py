"""The court: two registered versions asked about the same test images.

Both are fetched from the registry anew and score the images that the current data version has; no stored number is
compared. What comes of it is in tasks/court_record.py. Bound by the GPU, or by all CPU cores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from prefect.artifacts import create_markdown_artifact

from aesc.errors import AescError
from aesc.files import read_json
from aesc.params import LocalKind, Params
from tasks.court_record import RECORD, attach_record, describe_decision, keep_record, tabulate, to_markdown
from tasks.data_lock import DATA, hold
from tasks.lineage import learnt_from, readable_errors
from tasks.registry import Registered, download_detector, resolve
from tasks.retries import retried_task
from tasks.settings import Settings
from tasks.tracking import client
from tasks.training import slug
from tasks.versioning import DataVersion, pin_data_version

if TYPE_CHECKING:
    from aesc.court import Statement
    from aesc.detector import Detector, Prediction


@dataclass(frozen=True)
class Exhibit:
    """One image that both are asked about: a file, or a clean file with a defect drawn on it.

    Attributes:
        number: seeds what is drawn; unlike for all exhibits.
        kind: of the corruption, None for an image as it is.
    """

    number: int
    path: Path
    name: str
    sha256: str
    defect: str
    label: int
    mask: Path | None
    kind: LocalKind | None = None


@dataclass(frozen=True)
class Court:
    """What both are asked about, and how defects are drawn where there are none: at one size for both."""

    exhibits: Sequence[Exhibit]
    params: Params
    side: int
    channels: int

    def see(self, exhibit: Exhibit, detector: Detector) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_] | None]:
        """The image as the detector wants it, and the mask of its defect: None where there is none for a defect."""
        from aesc.images import Image, read_mask, to_network_input

        size, channels = detector.operating_point.image_size, detector.operating_point.channels
        limit = self.params.data.max_megapixels
        if exhibit.kind is None:
            pixels = detector.preprocess(exhibit.path)
            if exhibit.mask is not None:
                return pixels, read_mask(exhibit.mask, size=size, max_megapixels=limit)
            return pixels, np.zeros((size, size), dtype=np.bool_) if exhibit.label == 0 else None
        drawn, mask = self._draw(exhibit)
        image = Image(drawn.squeeze(), "grey" if drawn.shape[2] == 1 else "rgb", 8, self.side, self.side)
        step = self.side // size  # sizes are powers of two, and `side` is the largest
        return to_network_input(image, size=size, channels=channels), mask[::step, ::step]

    def predict(
        self, detector: Detector, exhibits: Sequence[Exhibit]
    ) -> Iterator[tuple[Prediction, npt.NDArray[np.bool_] | None]]:
        """What a detector says of exhibits, each with the mask from `see`; in batches, as they are asked for."""
        from aesc.scoring import INFERENCE_BATCH

        rest = iter(exhibits)
        while batch := list(islice(rest, INFERENCE_BATCH)):
            seen = [self.see(one, detector) for one in batch]
            found = detector.predict_batch([pixels for pixels, _ in seen])
            yield from zip(found, (mask for _, mask in seen), strict=True)

    def _draw(self, exhibit: Exhibit) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        import torch

        from aesc.corruption import corrupt
        from aesc.images import read_image, to_network_input
        from aesc.seeding import Stream, generator

        limit = self.params.data.max_megapixels
        image = read_image(exhibit.path, max_megapixels=limit)
        clean = to_network_input(image, size=self.side, channels=self.channels)
        changed, mask = corrupt(
            torch.from_numpy(clean.copy()).permute(2, 0, 1)[None].float() / 255.0,
            params=self.params.corruption.model_copy(update={"kind": exhibit.kind}),
            generator=generator(self.params.training.seed, Stream.COURT, exhibit.number),
        )
        pixels = (changed[0] * 255.0).round().to(torch.uint8).permute(1, 2, 0).numpy()
        return pixels, mask[0, 0].numpy().astype(np.bool_)


@retried_task(task_run_name="hear version {challenger} of {category}")
def hear_versions(
    category: str, champion: str, challenger: str, *, preset: str, data_root: str, params_file: str
) -> str:
    """Have two versions judged, attach the record to the challenger and to its MLflow run; the record's folder."""
    from aesc.params_file import load_params

    params = load_params(Path(params_file), preset=preset, category=category)
    folder = hear(category, champion, challenger, data_root=Path(data_root), params=params, settings=Settings())
    attach_record(category, folder)
    decision = read_json(folder / RECORD)
    create_markdown_artifact(
        markdown=to_markdown(decision), key=f"promote-{slug(category)}", description=f"the court on {category}"
    )
    return str(folder)


def hear(
    category: str,
    champion: str,
    challenger: str,
    *,
    data_root: Path,
    params: Params,
    settings: Settings,
    attached: bool = True,
) -> Path:
    """Have two versions judged on the images of the current data version; nothing outside the record is touched.

    Args:
        champion, challenger: version numbers or aliases.
        data_root: the folder of categories.
        params: of the court: rules, seed, corruptions.
        attached: the record names the place in the challenger's run to which `attach_record` will copy it.

    Returns:
        The folder of the record: decision.json, index.html, scores.csv, a figure of panels for each model.

    Raises:
        AescError: a version cannot be loaded, the test images are not as they should be, or a metric is missing.
    """
    from aesc.court import judge, measure_difference
    from aesc.detector import Detector
    from aesc.seeding import Stream, derive_seed

    versions = [resolve(category, champion), resolve(category, challenger)]
    with tempfile.TemporaryDirectory() as scratch, hold(DATA, settings):  # the images must not change meanwhile
        # Not from the cache of fetched detectors: it may hold what the registry has lost.
        detectors = [
            Detector.load(download_detector(category, one.version, Path(scratch)), device=params.training.device)
            for one in versions
        ]
        learnt = [learnt_from(one) for one in versions]
        manifest, data_version = _frozen(category, data_root, params, settings)
        exhibits, notes = _summon(manifest, data_root, kinds=_unlearnt_kinds(versions, params))
        points = [one.operating_point for one in detectors]
        court = Court(
            exhibits,
            params,
            side=max(point.image_size for point in points),
            channels=max(point.channels for point in points),
        )
        test = set(manifest.loc[manifest["split"] == "test", "sha256"])
        leaked = [len(test & one) for one in learnt]
        if leaked[0]:
            notes.append(f"the champion was made from {leaked[0]} of the test images, which flatters it")
        kinds = {one.defect for one in exhibits}
        if unknown := [name for name, _ in params.promotion.margins if name not in kinds]:
            notes.append(f"promotion.margins names what the test images do not have: {', '.join(unknown)}")
        seed = derive_seed(params.training.seed, Stream.COURT)
        labels, defects = [one.label for one in exhibits], [one.defect for one in exhibits]
        old, new = (_ask(one, court) for one in detectors)
        differences = measure_difference(
            old,
            new,
            labels,
            defects,
            n=params.promotion.bootstrap,
            confidence=params.promotion.confidence,
            seed=seed,
            limit=params.evaluation.aupro_limit,
        )
        judgement = judge(differences, params.promotion, seed=params.training.seed, leaked=leaked[1], notes=notes)
        table = tabulate(court, (old, new), detectors)
        decision = describe_decision(category, versions, detectors, judgement, data_version, params, learnt_test=leaked)
        return keep_record(decision, table, court, detectors, settings, attached=attached)


def _frozen(category: str, data_root: Path, params: Params, settings: Settings) -> tuple[pd.DataFrame, DataVersion]:
    """The manifest of the data as it is, and the version that it is."""
    from aesc.manifest import content_digest, scan_category

    manifest = scan_category(data_root, category, data=params.data, cache_folder=settings.cache, need_clean=False)
    version = pin_data_version(data_root, category, content_digest(manifest), settings=settings)
    faulty = manifest[(manifest["split"] == "test") & (manifest["error"] != "")]
    if len(faulty):
        first = faulty.iloc[0]
        raise AescError(
            data_root / first["path"],
            f"{first['error']} ({len(faulty)} test images have a fault)",
            allowed="test images that can be read, with masks that fit",
            todo=f"aesc validate --category {category}",
        )
    return manifest, version


def _unlearnt_kinds(versions: Sequence[Registered], params: Params) -> list[LocalKind]:
    """The held-out corruptions that neither version was trained on."""
    with readable_errors():
        learnt = {client().get_run(one.run_id).data.params.get("corruption.kind") for one in versions}
    return [kind for kind in params.calibration.held_out if kind not in learnt]


def _summon(manifest: pd.DataFrame, data_root: Path, *, kinds: Sequence[LocalKind]) -> tuple[list[Exhibit], list[str]]:
    """What the court looks at, and what a reader must know of it."""
    from aesc.evaluation import SYNTHETIC

    def exhibits(rows: pd.DataFrame, kind: LocalKind | None = None, *, start: int) -> list[Exhibit]:
        return [
            Exhibit(
                number=number,
                path=data_root / row["path"],
                name=str(row["path"]).partition("/")[2],
                sha256=row["sha256"],
                defect=f"{SYNTHETIC}{kind}" if kind else row["defect"],
                label=1 if kind else int(row["label"]),
                mask=data_root / row["mask_path"] if isinstance(row["mask_path"], str) else None,
                kind=kind,
            )
            for number, row in enumerate(rows.to_dict("records"), start)
        ]

    test = manifest[manifest["split"] == "test"]
    found = exhibits(test, start=0)
    if (test["label"] == 1).any():
        return found, []
    notes = ["there are no defective test images: the court worked on held-out corruptions of clean ones"]
    clean = test
    if test.empty:
        clean = manifest[(manifest["split"] == "validation") & (manifest["error"] == "")]
        found = exhibits(clean, start=0)
        notes.append("there are no test images at all: the clean ones are validation images, which both may have seen")
    if not kinds:
        raise AescError(
            data_root,
            "no defective test images, and every held-out corruption was trained on by one of the two",
            todo="add defective test images, or name another corruption in calibration.held_out",
        )
    for kind in kinds:
        found += exhibits(clean, kind, start=len(found))
    return found, notes


def _ask(detector: Detector, court: Court) -> Statement:
    """What a detector says of every exhibit, at its own size, strategy and threshold."""
    from aesc.court import Statement
    from aesc.pixel_metrics import split_images

    scores: list[float] = []
    alarms: list[bool] = []
    masks: list[npt.NDArray[np.bool_] | None] = []

    def maps() -> Iterator[npt.NDArray[np.float32]]:
        for prediction, mask in court.predict(detector, court.exhibits):
            scores.append(prediction.score)
            alarms.append(not prediction.score <= prediction.threshold)  # whether or not it abstains
            masks.append(mask)
            yield prediction.anomaly_map

    def masks_beside() -> Iterator[npt.NDArray[np.bool_] | None]:
        for number in range(len(court.exhibits)):
            yield masks[number]

    pixels = split_images(maps(), masks_beside(), labels=[one.label for one in court.exhibits])
    return Statement(np.array(scores), np.array(alarms), pixels)
