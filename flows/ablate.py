"""The comparison of the paper as a flow: one training a network, corruption and seed, all strategies from each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run
from tqdm import tqdm

from aesc.ablation import CORRUPTIONS, NETWORKS, plan
from flows.task_runner import run_all, task_runner, workers
from tasks.ablation import finished_cells, run_cell, write_report
from tasks.settings import Settings, prepare_environment
from tasks.training import slug


def _run_name() -> str:
    return f"ablate {flow_run.parameters.get('category')}"


@flow(name="ablate", flow_run_name=_run_name, log_prints=False)
def ablate(
    category: str,
    preset: str = "ablation",
    data: str | None = None,
    params_file: str | None = None,
    overrides: Sequence[str] = (),
    networks: Sequence[str] = tuple(NETWORKS),
    corruptions: Sequence[str] = CORRUPTIONS,
    seeds: Sequence[int] = (1,),
    out: str | None = None,
) -> dict[str, Any]:
    """Compare networks and corruptions on one category.

    A cell that is finished, with the same data, parameters and code, is not trained again; one that was killed goes on
    from its checkpoint. On one machine one cell is trained at a time, for each takes all cores or the GPU; on a Ray
    cluster (AESC_TASK_RUNNER=ray) as many as it has room for.

    Args:
        category: a folder below the data folder, in MVTec layout.
        preset, params_file, overrides: parameters that all cells share.
        data: the folder of categories; by default the DVC-tracked `data`.
        networks: of AE, AESc, U-Net.
        corruptions: kinds.
        seeds: of the trainings.
        out: folder of the report; by default one below .aesc/ablations.

    Returns:
        The table, and where report and figures are.
    """
    cells = plan(networks, corruptions, seeds)
    settings = Settings()
    prepare_environment(settings)
    shared = {
        "category": category,
        "preset": preset,
        "data_root": str(Path(data).resolve() if data else settings.data),
        "params_file": str(params_file or settings.root / "params.yaml"),
        "overrides": list(overrides),
    }
    pieces = [{**shared, **asdict(cell)} for cell in cells]
    with tqdm(total=len(cells), unit="cell", desc="ablate", disable=None) as bar:
        folders = _run(pieces, settings, on_done=bar.update)
    target = Path(out) if out else settings.state / "ablations" / category
    report = write_report(finished_cells(folders), target.resolve(), category=category, preset=preset)
    create_markdown_artifact(
        markdown=Path(report["report"]).read_text(encoding="utf-8"),
        key=f"ablate-{slug(category)}",
        description=f"networks and corruptions on {category}",
    )
    return report


def _run(pieces: Sequence[dict[str, Any]], settings: Settings, *, on_done: Callable[[], object]) -> list[str]:
    if settings.task_runner == "threads":
        folders = []
        for piece in pieces:  # in the main thread, where Ctrl-C is heard
            folders.append(run_cell(**piece))
            on_done()
        return folders
    with task_runner(settings) as runner:
        return run_all(runner, run_cell, pieces, at_a_time=workers(settings), on_done=on_done)
