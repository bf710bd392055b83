"""The court: two registered versions asked about the same test images, and the record of what it decided.

Both are fetched from the registry anew and score the images that the current data version has; no stored number is
compared. Bound by the GPU, or by all CPU cores.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from prefect.artifacts import create_markdown_artifact

from aesc.errors import AescError
from aesc.files import read_json, write_atomically, write_json
from aesc.params import LocalKind, Params
from tasks.data_lock import DATA, hold
from tasks.lineage import learnt_from, readable_errors
from tasks.registry import Registered, download_detector, model_uri, resolve
from tasks.retries import retried_task
from tasks.settings import Settings
from tasks.tracking import client
from tasks.training import slug
from tasks.versioning import DataVersion, pin_data_version

if TYPE_CHECKING:
    from aesc.court import Judgement, Statement
    from aesc.detector import Detector, Prediction

LOGGER = logging.getLogger("aesc")
RECORD, PAGE, SCORES = "decision.json", "index.html", "scores.csv"
SIDES = ("champion", "challenger")
FORMAT = 1
MOST_SHOWN = 6


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


def hear(category: str, champion: str, challenger: str, *, data_root: Path, params: Params, settings: Settings) -> Path:
    """Have two versions judged on the images of the current data version; nothing outside the record is touched.

    Args:
        champion, challenger: version numbers or aliases.
        data_root: the folder of categories.
        params: of the court: rules, seed, corruptions.

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
        table = _tabulate(exhibits, (old, new), detectors)
        decision = _describe(category, versions, detectors, judgement, data_version, params, learnt_test=leaked)
        return _keep(decision, table, court, detectors, settings)


def attach_record(category: str, folder: Path) -> None:
    """Put the record into the challenger's MLflow run and say so in its version's tags; safe to repeat.

    Raises:
        AescError: MLflow or its artifact store cannot be reached.
    """
    decision = read_json(folder / RECORD)
    judged = decision["challenger"]
    with readable_errors():
        tracking = client()
        tracking.log_artifacts(judged["run_id"], str(folder), f"court/{folder.name}")
        tags = {
            "verdict": decision["verdict"],
            "at": decision["at"],
            "against": decision["champion"]["version"],
            "data_version": decision["data_version"],
            "record": decision["record"],
            "synthetic_defects": str(decision["synthetic_defects"]),
        }
        name = resolve(category, judged["version"]).name
        for key, value in tags.items():
            tracking.set_model_version_tag(name, judged["version"], f"court.{key}", value)


def evidence_of(decision: dict[str, Any]) -> dict[str, Any]:
    """What the ledger keeps of a decision: enough to find the rest."""
    return {
        "record": decision["record"],
        "mlflow_run_id": decision["challenger"]["run_id"],
        "verdict": decision["verdict"],
        "champion": decision["champion"]["version"],
        "data_version": decision["data_version"],
        "n_good": decision["n_good"],
        "n_defective": decision["n_defective"],
        "metric_version": decision["metric_version"],
    }


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
        for prediction, mask in _predictions(court.exhibits, detector, court):
            scores.append(prediction.score)
            alarms.append(not prediction.score <= prediction.threshold)  # whether or not it abstains
            masks.append(mask)
            yield prediction.anomaly_map

    def masks_beside() -> Iterator[npt.NDArray[np.bool_] | None]:
        for number in range(len(court.exhibits)):
            yield masks[number]

    pixels = split_images(maps(), masks_beside(), labels=[one.label for one in court.exhibits])
    return Statement(np.array(scores), np.array(alarms), pixels)


def _predictions(
    exhibits: Sequence[Exhibit], detector: Detector, court: Court
) -> Iterator[tuple[Prediction, npt.NDArray[np.bool_] | None]]:
    from aesc.scoring import INFERENCE_BATCH

    rest = iter(exhibits)
    while batch := list(islice(rest, INFERENCE_BATCH)):
        seen = [court.see(one, detector) for one in batch]
        found = detector.predict_batch([pixels for pixels, _ in seen])
        yield from zip(found, (mask for _, mask in seen), strict=True)


def _tabulate(
    exhibits: Sequence[Exhibit], statements: Sequence[Statement], detectors: Sequence[Detector]
) -> pd.DataFrame:
    """One row an image: what both say of it; where the verdicts differ comes first, then where the scores do most."""
    table = pd.DataFrame([{"number": i, "image": one.name} for i, one in enumerate(exhibits)])
    table["sha256"] = [one.sha256 for one in exhibits]
    table["defect"] = [one.defect for one in exhibits]
    table["label"] = [one.label for one in exhibits]
    for side, said, detector in zip(SIDES, statements, detectors, strict=True):
        table[f"{side}_score"] = said.scores
        table[f"{side}_threshold"] = detector.operating_point.promise.threshold
        table[f"{side}_verdict"] = np.where(said.alarms, "reject", "pass")
    table["differ"] = table["champion_verdict"] != table["challenger_verdict"]
    ranks = [table[f"{side}_score"].rank(pct=True) for side in SIDES]
    table["rank_change"] = ranks[1] - ranks[0]
    return table


def _describe(
    category: str,
    versions: Sequence[Registered],
    detectors: Sequence[Detector],
    judgement: Judgement,
    data_version: DataVersion,
    params: Params,
    *,
    learnt_test: Sequence[int],
) -> dict[str, Any]:
    from aesc.court import describe
    from aesc.evaluation import SYNTHETIC
    from aesc.metrics import METRIC_VERSION

    sides = {}
    for side, version, detector, leaked in zip(SIDES, versions, detectors, learnt_test, strict=True):
        point = detector.operating_point
        sides[side] = {
            "version": version.version,
            "uri": model_uri(category, version.version),
            "run_id": version.run_id,
            "weights_sha256": point.weights_sha256,
            "data_version": point.data_version,
            "strategy": point.strategy,
            "threshold": point.promise.threshold,
            "promise": point.promise.model_dump(),
            "image_size": point.image_size,
            "test_images_learnt_from": leaked,
        }
    return {
        "format": FORMAT,
        "category": category,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": judgement.verdict,
        "reasons": list(judgement.reasons),
        "notes": list(judgement.notes),
        "synthetic_defects": any(one.defect.startswith(SYNTHETIC) for one in judgement.differences),
        "data_version": data_version.version,
        "data_version_kind": data_version.kind,
        "metric_version": METRIC_VERSION,
        "n_good": judgement.n_good,
        "n_defective": judgement.n_defective,
        "bootstrap": judgement.bootstrap,
        "confidence": judgement.confidence,
        "seed": judgement.seed,
        "rules": params.promotion.model_dump(mode="json"),
        **sides,
        "differences": [
            {**asdict(one), "difference": one.difference, "text": describe(one)} for one in judgement.differences
        ],
    }


def _keep(
    decision: dict[str, Any], table: pd.DataFrame, court: Court, detectors: Sequence[Detector], settings: Settings
) -> Path:
    """Write the record; decision.json last, so that a folder that has one is whole."""
    from tasks.pages import render_template

    folder: Path = _new_folder(settings, decision)
    decision["record"] = f"runs:/{decision['challenger']['run_id']}/court/{folder.name}"
    order = table.assign(change=table["rank_change"].abs()).sort_values(
        ["differ", "change", "number"], ascending=[False, False, True]
    )
    shown = [int(number) for number in order["number"].head(MOST_SHOWN)]
    figures = {
        side: _draw_panels(folder, side, decision, table, shown, court, one)
        for side, one in zip(SIDES, detectors, strict=True)
    }
    ordered = order.drop(columns=["number", "change"])
    write_atomically(folder / SCORES, lambda path: ordered.to_csv(path, index=False))
    page = render_template(
        "decision.html.j2",
        decision=decision,
        figures=figures,
        shown=len(shown),
        differing=int(table["differ"].sum()),
        total=len(table),
        rows=[row for row in ordered.to_dict("records") if row["differ"]],
    )
    write_atomically(folder / PAGE, lambda path: path.write_text(page, encoding="utf-8"))
    decision["images"] = len(table)
    decision["verdicts_differ"] = int(table["differ"].sum())
    write_json(folder / RECORD, decision)
    return folder


def _new_folder(settings: Settings, decision: dict[str, Any]) -> Path:
    stamp = decision["at"][:19].replace("-", "").replace(":", "")
    name = f"{stamp}-{decision['champion']['version']}-against-{decision['challenger']['version']}"
    for number in range(1000):
        folder: Path = settings.state / "court" / decision["category"] / f"{name}{f'-{number}' if number else ''}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise AescError(folder, f"cannot be made: {error}", todo="set AESC_HOME to a writable folder") from error
        return folder
    raise AescError(settings.state / "court", "too many decisions in one second", todo="wait a second")


def _draw_panels(
    folder: Path,
    side: str,
    decision: dict[str, Any],
    table: pd.DataFrame,
    shown: Sequence[int],
    court: Court,
    detector: Detector,
) -> str:
    from aesc.panels import PanelRow, panel_figure

    chosen = [court.exhibits[number] for number in shown]
    rows = [
        PanelRow(
            title=f"{exhibit.defect}/{Path(exhibit.name).stem}" + (" - differ" if table["differ"][number] else ""),
            image=prediction.image,
            mask=mask,
            reconstruction=prediction.reconstruction,
            residual=prediction.maps["residual"],
            uncertainty=prediction.maps["uncertainty"],
            score=prediction.score,
            verdict=table[f"{side}_verdict"][number],
            pixel_mask=prediction.mask,
        )
        for number, exhibit, (prediction, mask) in zip(
            shown, chosen, _predictions(chosen, detector, court), strict=True
        )
    ]
    caption = (
        f"{side}, {decision[side]['uri']}: {decision['n_good']} clean + {decision['n_defective']} defective images, "
        f"seed {decision['seed']}, data {decision['data_version'][:12]}, metric version {decision['metric_version']}"
    )
    panel_figure(rows, folder / f"{side}.png", caption=caption, threshold=decision[side]["threshold"])
    return f"{side}.png"


def to_markdown(decision: dict[str, Any]) -> str:
    """The decision as a page for Prefect's UI."""
    rows = [
        f"| {one['metric']} | {one['defect']} | {_number(one['champion'])} | {_number(one['challenger'])} | "
        f"{_number(one['difference'], '+.4f')} | {_number(one['low'], '+.4f')} to {_number(one['high'], '+.4f')} |"
        for one in decision["differences"]
    ]
    return "\n".join(
        [
            f"# {decision['verdict']}: {decision['challenger']['uri']} against version "
            f"{decision['champion']['version']}",
            "",
            *(f"- {reason}" for reason in decision["reasons"]),
            *(f"- **{note}**" for note in decision["notes"]),
            "",
            f"| metric | images | champion | challenger | difference | {100 * decision['confidence']:g} % interval |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"{decision['n_good']} clean and {decision['n_defective']} defective images, data version "
            f"`{decision['data_version']}`, seed {decision['seed']}, {decision['bootstrap']} paired resamples, metric "
            f"version {decision['metric_version']}.",
            "",
            f"Record: `{decision['record']}`",
            "",
        ]
    )


def _number(value: float | None, form: str = ".4f") -> str:
    return "not available" if value is None else format(value, form)
