"""The poison drill: defective images named as clean ones arrive in a scratch copy, and are counted as they are held.

The arrivals go through the very checks of an ingest. Nothing of the project is touched: the scratch copy has the
category's training images, and no test images, since those are what arrives.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aesc.errors import AescError
from aesc.files import write_atomically, write_json
from aesc.params import Params
from tasks.arrival_batch import ACCEPTED
from tasks.settings import Settings

SYNTHETIC_ONLY = ("rgb", "grey")  # modes in which a synthetic defect can be written as it was read


@dataclass(frozen=True)
class Sent:
    """An image on its way into the drill: `defect` is "good" for a clean one; `synthetic` names a drawn defect."""

    path: Path
    defect: str
    synthetic: Any = None


def run_drill(
    category: str,
    *,
    data_root: Path,
    params: Params,
    settings: Settings,
    share: float | None = None,
    model: str = "champion",
) -> dict[str, Any]:
    """Send a category's defective and clean test images in as if all were clean, and count.

    Args:
        data_root: the folder of categories.
        share: of defective images among the arrivals; by default all that there are.
        model: alias or version whose gate is tested.

    Returns:
        The report, JSON-ready: `caught`, `missed` and `clean_held` with their totals, intervals and reasons, `table` by
        defect type, the model, the folder and the MLflow run.

    Raises:
        AescError: no such model, too few images, or MLflow cannot be reached.
    """
    from aesc.detector import Detector
    from aesc.manifest import scan_category
    from tasks.judging import judge, load_reference
    from tasks.registry import download_detector, model_uri, resolve

    began = time.monotonic()
    version = resolve(category, model)
    detector = Detector.load(download_detector(category, version.version, settings.state / "detectors"))
    manifest = scan_category(data_root, category, data=params.data, cache_folder=settings.cache)
    sent, clean_are = _choose(manifest, data_root, params=params, share=share)
    with tempfile.TemporaryDirectory(dir=_made(settings.state / "drills")) as scratch:
        kept = manifest[(manifest["split"] != "test") & (manifest["error"] == "")]
        arriving = {item.path for item in sent if item.synthetic is None}
        _copy_clean(
            [data_root / path for path in kept["path"] if data_root / path not in arriving], data_root, Path(scratch)
        )
        inbox = Path(scratch) / "inbox"
        staged = _send(sent, inbox, params)
        verdicts = judge(
            staged,
            inbox,
            category=category,
            params=params,
            reference=load_reference(Path(scratch) / "data", category, params=params, settings=settings),
            detector=detector,
            taken_in=set(),
        )
    verdicts["defect"] = [item.defect for item in sent]
    report = {
        "category": category,
        "model": model_uri(category, version.version),
        "data_version": detector.operating_point.data_version,
        "seed": params.training.seed,
        "clean_images_are": clean_are,
        "synthetic_defects": any(item.synthetic for item in sent),
        **_counts(verdicts),
        "gate_promise": {
            name: detector.operating_point.image_promises[name].attained for name in ("residual", "uncertainty")
        },
        "seconds": round(time.monotonic() - began, 1),
    }
    report["mlflow_run_id"] = _log(report, verdicts, version.run_id, settings)
    return report


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _choose(manifest: pd.DataFrame, data_root: Path, *, params: Params, share: float | None) -> tuple[list[Sent], str]:
    """What is sent, in random order, and what the clean ones among it are."""
    from aesc.evaluation import held_out_kinds
    from aesc.seeding import Stream, derive_seed

    usable = manifest[(manifest["error"] == "") & (manifest["mode"] != "")]
    clean, clean_are = usable[(usable["split"] == "test") & (usable["label"] == 0)], "clean test images"
    if clean.empty:
        clean, clean_are = usable[usable["split"] == "calibration"], "calibration images, which set the thresholds"
    defective = usable[(usable["split"] == "test") & (usable["label"] == 1)]
    good = [Sent(data_root / path, "good") for path in clean["path"]]
    if defective.empty:
        kinds = held_out_kinds(params)
        pairs = [(path, kinds[number % len(kinds)]) for number, path in enumerate(clean["path"])]
        bad = [Sent(data_root / path, f"synthetic {kind}", kind) for path, kind in pairs]
    else:
        bad = [
            Sent(data_root / path, str(defect))
            for path, defect in zip(defective["path"], defective["defect"], strict=True)
        ]
    if not good:
        raise AescError(
            data_root, "no clean images to send", allowed="clean test or calibration images", todo="add some"
        )
    stream = np.random.default_rng(derive_seed(params.training.seed, Stream.DRILL))
    if share is not None:
        wanted = round(share / (1.0 - share) * len(good))
        if not 1 <= wanted <= len(bad):
            raise AescError(
                f"--share {share:g}",
                f"asks for {wanted} defective images among {len(good)} clean ones; there are {len(bad)}",
                allowed=f"about {1 / (1 + len(good)):.2g} to {len(bad) / (len(bad) + len(good)):.2g}",
                usage=True,
            )
        bad = [bad[at] for at in sorted(stream.choice(len(bad), wanted, replace=False))]
    sent = good + bad
    return [sent[at] for at in stream.permutation(len(sent))], clean_are


def _copy_clean(paths: Sequence[Path], data_root: Path, scratch: Path) -> None:
    for path in paths:
        target = scratch / "data" / path.relative_to(data_root)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path.resolve(), target)
        except OSError:  # another file system
            shutil.copyfile(path, target)


def _send(sent: Sequence[Sent], inbox: Path, params: Params) -> pd.DataFrame:
    """Put the images into the inbox under names that tell nothing; one row an arrival."""
    from PIL import Image as PillowImage

    from aesc.cache import sha256_of
    from aesc.images import read_image
    from aesc.poison import poisoned
    from aesc.seeding import Stream, generator

    inbox.mkdir()
    stream = generator(params.training.seed, Stream.DRILL)
    rows = []
    for number, item in enumerate(sent):
        target = inbox / f"{number:05d}{'.png' if item.synthetic else item.path.suffix.lower()}"
        if item.synthetic:
            image = read_image(item.path, max_megapixels=params.data.max_megapixels)
            if image.mode not in SYNTHETIC_ONLY or image.full_scale != 2**image.bit_depth - 1:
                raise AescError(
                    item.path,
                    f"a {image.bit_depth}-bit {image.mode} image: a synthetic defect cannot be written like it",
                    allowed="8-bit grey or RGB, 16-bit grey",
                    todo="add defective test images: with them nothing has to be drawn",
                )
            pixels = poisoned(image, kind=item.synthetic, corruption=params.corruption, generator=stream)
            PillowImage.fromarray(pixels).save(target)
        else:
            shutil.copyfile(item.path, target)
        rows.append(
            {
                "key": target.name,
                "tag": "drill",
                "size": target.stat().st_size,
                "modified": "",
                "sha256": sha256_of(target),
                "file": target.name,
            }
        )
    return pd.DataFrame(rows)


def _counts(verdicts: pd.DataFrame) -> dict[str, Any]:
    held = verdicts["verdict"] != ACCEPTED
    clean = verdicts["defect"] == "good"
    table = []
    for defect, rows in [("good", verdicts[clean]), *verdicts[~clean].groupby("defect")]:
        stopped = rows["verdict"] != ACCEPTED
        reasons = rows.loc[stopped, "reason"].value_counts()
        table.append(
            {
                "defect": str(defect),
                "images": len(rows),
                "held": int(stopped.sum()),
                "taken_in": int((~stopped).sum()),
                "reasons": {str(name): int(count) for name, count in reasons.items()},
            }
        )
    caught, poison = int((held & ~clean).sum()), int((~clean).sum())
    clean_held, n_clean = int((held & clean).sum()), int(clean.sum())
    return {
        "poison": poison,
        "clean": n_clean,
        "share": round(poison / len(verdicts), 4),
        "caught": caught,
        "missed": poison - caught,
        "clean_held": clean_held,
        "caught_rate": _rate(caught, poison),
        "clean_held_rate": _rate(clean_held, n_clean),
        "table": table,
    }


def _rate(count: int, n: int) -> dict[str, float]:
    """A share with its 95 % Wilson interval."""
    from scipy.stats import binomtest

    bounds = binomtest(count, n).proportion_ci(0.95, "wilson")
    return {"rate": count / n, "low": float(bounds.low), "high": float(bounds.high)}


def _log(report: dict[str, Any], verdicts: pd.DataFrame, model_run_id: str, settings: Settings) -> str:
    """A run of its own beside the training runs of the category, with the counts and every verdict."""
    from tasks.tracking import log_report

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_json(folder / "drill.json", report)
        write_atomically(folder / "drill.csv", lambda path: verdicts.to_csv(path, index=False))
        return log_report(
            report["category"],
            kind="drill",
            metrics={
                name: float(report[name]) for name in ("poison", "clean", "share", "caught", "missed", "clean_held")
            }
            | {
                f"{name}.{edge}": report[name][edge]
                for name in ("caught_rate", "clean_held_rate")
                for edge in report[name]
            },
            tags={
                "model": report["model"],
                "model_run_id": model_run_id,
                "data_version": report["data_version"],
                "seed": str(report["seed"]),
                "synthetic_defects": str(report["synthetic_defects"]),
            },
            files=sorted(folder.iterdir()),
        )
