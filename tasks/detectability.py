"""The smallest stain that a new detector finds, measured before it is registered: bound by the GPU, or by all cores."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import task

from aesc.files import read_json, write_json
from tasks.run_folder import RunFolder
from tasks.training import decoded

LOGGER = logging.getLogger("aesc")
FIGURE = "detectability.png"


@task(task_run_name="measure the detectability of {category}")
def measure_detectability(category: str, data_root: str, run_folder: str) -> str:
    """Paint stains on calibration images that pass, and see which are found; the file, "" with too few images.

    The network has not learnt from these images. What is measured later, on recent images, is compared with this.
    """
    from aesc.detectability import LEAST_IMAGES, describe, measure
    from aesc.detectability_figure import detectability_figure
    from aesc.detector import Detector

    run = RunFolder(run_folder)
    params, manifest = run.params(), run.manifest()
    detector = Detector.load(run.detector, device=params.training.device)
    point = detector.operating_point
    scores = pd.read_parquet(run.scores)
    clean = scores[(scores["split"] == "calibration") & (scores["corruption"] == "")]
    passing = set(
        clean.loc[clean[f"{point.strategy}_{params.detection.image_score}"] <= point.promise.threshold, "sha256"]
    )
    if len(passing) < LEAST_IMAGES:
        LOGGER.warning(
            "detectability is not measured: %d calibration images pass, at least %d are needed",
            len(passing),
            LEAST_IMAGES,
        )
        run.detectability.unlink(missing_ok=True)
        return ""
    store, rows, _ = decoded(manifest, data_root=Path(data_root), params=params)
    used = sorted(passing)[: params.monitoring.images]
    at = dict(zip(manifest["sha256"], rows, strict=True))
    found = measure(
        detector,
        [store[at[sha256]] for sha256 in used],
        settings=params.monitoring,
        corruption=params.corruption,
        seed=params.training.seed,
        said="calibration images that pass",
    )
    write_json(run.detectability, found.model_dump(mode="json"))
    caption = (
        f"{category}: stains painted on {found.n} calibration images; diamonds and intervals by isotonic fits and "
        f"bootstraps over images; seed {found.seed}, data {point.data_version[:12]}"
    )
    detectability_figure(found, run.figures / FIGURE, caption=caption)
    LOGGER.info("detectability: %s", describe(found))
    return str(run.detectability)


def detectability_of(run: RunFolder) -> dict[str, Any] | None:
    """The headline of what was measured in a run, None if nothing was."""
    from aesc.detectability import Detectability

    if not run.detectability.is_file():
        return None
    return Detectability.model_validate(read_json(run.detectability)).headline()
