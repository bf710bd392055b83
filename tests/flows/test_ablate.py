"""`aesc ablate`: what was finished is not trained again, and nothing of it becomes a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient

from tests.commands import Project
from tests.flows.conftest import Imports

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


def test_a_wrong_cell_is_said_before_anything_starts(project: Project, imported: Imports) -> None:
    command = ("ablate", "--category", "widget", "--preset", "tiny", "--network", "ResNet")
    done = project.aesc(*command, code=2)
    assert "--network: unknown: ResNet" in done.stderr
    assert "AE, AESc, U-Net" in done.stderr
