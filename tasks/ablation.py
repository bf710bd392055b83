"""One cell of the comparison, from parameters to metrics, and the report over all: bound by GPU or all CPU cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task

from aesc.ablation import Cell, rows_of, summarise, to_markdown
from aesc.errors import AescError
from aesc.files import read_json, write_atomically, write_json
from tasks.calibration import calibrate_threshold
from tasks.evaluation import evaluate_detector
from tasks.preparation import prepare_run, release_run
from tasks.run_folder import RunFolder
from tasks.settings import Settings
from tasks.training import train_run
from tasks.validation import validate_data
from tasks.versioning import pin_version

if TYPE_CHECKING:
    import pandas as pd

    from aesc.panels import Floats

CELL = "cell.json"
CLEAN_EXAMPLES, DEFECTIVE_EXAMPLES = 1, 3


def runs_folder(settings: Settings) -> Path:
    """Where the runs of comparisons are: apart from those that become models."""
    return settings.state / "ablations" / "runs"


@task(name="ablate-cell", task_run_name="{network}, {corruption}, seed {seed}")
def run_cell(
    category: str,
    *,
    preset: str,
    data_root: str,
    params_file: str,
    overrides: Sequence[str],
    network: str,
    corruption: str,
    seed: int,
) -> str:
    """Train, evaluate and measure one cell, or take up what is there of it; its run folder.

    Nothing of it goes into MLflow: no cell is to be served, and what it came to is in its folder with key, parameters
    and data version.

    Raises:
        AescError: there are no defective test images. Held-out corruptions would stand in, and they differ by cell.
    """
    cell = Cell(network, corruption, seed)
    settings = Settings()
    run_folder = prepare_run.fn(
        category,
        preset=preset,
        data_root=data_root,
        params_file=params_file,
        overrides=[*overrides, *cell.overrides],
        resume="auto",
        runs=str(runs_folder(settings)),
    )
    try:
        run = RunFolder(run_folder)
        write_json(run.path / CELL, asdict(cell))
        if not run.metrics.is_file():
            _require_defects(run, category)
            validate_data.fn(category, data_root, run_folder)
            pin_version.fn(category, data_root, run_folder)
            train_run(run, data_root=Path(data_root))
            evaluate_detector.fn(category, data_root, run_folder)
            calibrate_threshold.fn(category, run_folder)
    finally:
        release_run(run_folder)
    return run_folder


def _require_defects(run: RunFolder, category: str) -> None:
    manifest = run.manifest()
    if not (manifest["label"] == 1).any():
        raise AescError(
            f"category {category}",
            "no defective test images: each cell would be measured on other corruptions",
            allowed="a category with defective images in test/<defect type>",
            todo="add some, or compare on another category",
            usage=True,
        )


def finished_cells(folders: Sequence[str]) -> list[tuple[Cell, RunFolder]]:
    """The cells of these run folders."""
    return [(Cell(**read_json(Path(folder) / CELL)), RunFolder(folder)) for folder in folders]


def write_report(cells: Sequence[tuple[Cell, RunFolder]], out: Path, *, category: str, preset: str) -> dict[str, Any]:
    """Write rows.csv, table.csv, table.md, reconstructions.png and panels.png into `out`; the report, JSON-ready."""
    import pandas as pd

    rows = pd.DataFrame([row for cell, run in cells for row in rows_of(cell, read_json(run.metrics))])
    table = summarise(rows)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "rows.csv", lambda path: rows.to_csv(path, index=False))
    write_atomically(out / "table.csv", lambda path: table.to_csv(path, index=False))
    first = rows.iloc[0]
    seeds = ", ".join(map(str, rows["seed"].unique()))
    said = (
        f"{category}, preset {preset}, images by {first['image_score']}, seed {seeds}, "
        f"{first['n_good']} clean and {first['n_defective']} defective test images, "
        f"data version {first['data_version'][:12]}, metric version {first['metric_version']}"
    )
    text = f"# Networks and corruptions\n\n{said}. In brackets: over images and seeds.\n\n{to_markdown(table)}"
    write_atomically(out / "table.md", lambda path: path.write_text(text, encoding="utf-8"))
    shown = [(cell, run) for cell, run in cells if cell.seed == cells[0][0].seed]
    _draw(shown, out, caption=f"{said}; shown: seed {cells[0][0].seed}")
    return {
        "category": category,
        "preset": preset,
        "data_version": first["data_version"],
        "metric_version": first["metric_version"],
        "table": table.astype(object).where(table.notna(), None).to_dict("records"),
        "report": str(out / "table.md"),
        "figures": [str(out / "reconstructions.png"), str(out / "panels.png")],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _draw(cells: Sequence[tuple[Cell, RunFolder]], out: Path, *, caption: str) -> None:
    import pandas as pd

    from aesc.ablation_figure import reconstructions_figure
    from aesc.evaluation import TestMaps
    from aesc.operating_point import OperatingPoint
    from aesc.panels import panel_figure
    from aesc.report_figures import panel_rows

    scores = pd.read_parquet(cells[0][1].scores)
    examples = _examples(scores[scores["split"] == "test"])
    at = examples["map_index"].tolist()
    reconstructions = {
        f"{cell.network}, {cell.corruption}": [TestMaps.read(run.evaluation, "reconstruction")[i] for i in at]
        for cell, run in cells
    }
    inputs = [TestMaps.read(cells[0][1].evaluation, "input")[i] for i in at]
    titles = [f"{row['defect']}/{Path(row['path']).stem}" for row in examples.to_dict("records")]
    reconstructions_figure(inputs, titles, reconstructions, out / "reconstructions.png", caption=caption)
    panels = []
    for cell, run in cells:
        found = pd.read_parquet(run.scores)
        test = found[found["split"] == "test"]
        last = test.index[test["map_index"] == at[-1]][0]
        point = OperatingPoint.load(run.detector)
        column = f"{point.strategy}_{point.detection.image_score}"
        role = f"{cell.network}, {cell.corruption}"
        panels += list(panel_rows(test, [(last, role)], run.evaluation, point, column))
    panels = [replace(row, residual=_levelled(row.residual), uncertainty=_levelled(row.uncertainty)) for row in panels]
    panel_figure(panels, out / "panels.png", caption=f"{caption}; each map in units of its own 99.9th percentile")


def _levelled(values: Floats) -> Floats:
    """A map in units of its own brightest pixels: those of several networks differ by orders of magnitude."""
    import numpy as np

    highest = float(np.percentile(values, 99.9))
    return values / highest if highest > 0.0 else values


def _examples(test: pd.DataFrame) -> pd.DataFrame:
    """A clean image and one of each of the first defect types, the same for all cells."""
    import pandas as pd

    clean = test[test["label"] == 0].head(CLEAN_EXAMPLES)
    defective = test[test["label"] == 1].groupby("defect", sort=True).head(1).head(DEFECTIVE_EXAMPLES)
    return pd.concat([clean, defective])
