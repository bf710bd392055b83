"""`aesc ablate`: what was finished is not trained again, and nothing of it becomes a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient

from tests.categories import draw_category
from tests.commands import Project
from tests.flows.conftest import Imports
from tests.rays import needs_ray, ray_cluster

CELLS = ("--network", "AE", "--network", "AESc", "--corruption", "stain")


def ablate(project: Project, out: Path, *more: str) -> dict[str, Any]:
    command = ("ablate", "--category", "widget", "--preset", "tiny", "--out", str(out), "--json")
    return project.aesc(*command, *more).report


def weights(project: Project) -> dict[str, int]:
    """Weights of every cell's run, and when they were written."""
    found = (project.state / "ablations" / "runs").glob("*/*/network/*.safetensors")
    return {str(path): path.stat().st_mtime_ns for path in found}


@pytest.mark.slow
def test_a_comparison_goes_on_with_the_cells_that_are_missing(
    project: Project, imported: Imports, client: MlflowClient, tmp_path: Path
) -> None:
    models = len(client.search_model_versions())
    first = ablate(project, tmp_path / "first", "--network", "AESc", "--corruption", "stain")
    assert [row["network"] for row in first["table"]] == ["AESc"] * 3
    trained = weights(project)
    assert len(trained) == 1
    whole = ablate(project, tmp_path / "whole", *CELLS)
    assert weights(project).items() > trained.items()
    assert len(weights(project)) == 2
    assert [row for row in whole["table"] if row["network"] == "AESc"] == first["table"]
    for name in ("table.md", "table.csv", "rows.csv", "reconstructions.png", "panels.png"):
        assert (tmp_path / "whole" / name).stat().st_size > 100
    rows = pd.read_csv(tmp_path / "whole" / "rows.csv")
    assert rows["chosen"].sum() == 2
    assert rows["image_auroc"].between(0.0, 1.0).all()
    assert len(client.search_model_versions()) == models


@pytest.mark.slow
def test_a_killed_comparison_goes_on_to_the_same_table(project: Project, imported: Imports, tmp_path: Path) -> None:
    command = ("ablate", "--category", "widget", "--preset", "tiny", "--json")
    cells = (*CELLS, "--corruption", "none", "--set", "training.epochs=1")
    calm = replace(project, state=tmp_path / "calm")
    whole = calm.aesc(*command, *cells, "--out", tmp_path / "whole").report
    killed = replace(project, state=tmp_path / "killed")
    out = tmp_path / "resumed"
    killed.killed("tasks.training:train_run", 2, *command, *cells, "--out", out)
    assert not out.exists()
    trained = weights(killed)
    assert len(trained) == 2
    resumed = killed.aesc(*command, *cells, "--out", out).report
    assert weights(killed).items() > trained.items()
    assert len(weights(killed)) == len(weights(calm)) == 4
    assert resumed["table"] == whole["table"]
    for name in ("table.csv", "rows.csv", "reconstructions.png", "panels.png"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
@needs_ray
def test_cells_on_a_ray_cluster_come_to_the_same_table(project: Project, imported: Imports, tmp_path: Path) -> None:
    command = ("ablate", "--category", "widget", "--preset", "tiny", *CELLS, "--json")
    one_thread = {"OMP_NUM_THREADS": "1"}
    threads = replace(project, state=tmp_path / "threads")
    expected = threads.aesc(*command, "--out", tmp_path / "by_threads", **one_thread).report
    ray = replace(project, state=tmp_path / "ray")
    with ray_cluster() as cluster:
        env = {"AESC_TASK_RUNNER": "ray", "AESC_RAY_ADDRESS": cluster.address, **one_thread}
        found = ray.aesc(*command, "--out", tmp_path / "by_ray", **env).report
    assert found["table"] == expected["table"]
    assert len(weights(ray)) == len(weights(threads)) == 2
    assert (tmp_path / "by_ray" / "rows.csv").read_bytes() == (tmp_path / "by_threads" / "rows.csv").read_bytes()


def test_defects_to_measure_are_needed(project: Project, imported: Imports, tmp_path: Path) -> None:
    draw_category(tmp_path, "sound", train=24, defects={})
    done = project.aesc("ablate", "--category", "sound", "--data", tmp_path, "--preset", "tiny", "--json", code=2)
    assert "no defective test images" in done.error["found"]


def test_a_wrong_cell_is_said_before_anything_starts(project: Project, imported: Imports) -> None:
    command = ("ablate", "--category", "widget", "--preset", "tiny", "--network", "ResNet")
    done = project.aesc(*command, code=2)
    assert "--network: unknown: ResNet" in done.stderr
    assert "AE, AESc, U-Net" in done.stderr
