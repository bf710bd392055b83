"""`aesc export`: the file, and its copy beside the version."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from mlflow import MlflowClient
from PIL import Image

from tests.commands import Project


def test_a_version_becomes_a_file_that_scores_as_the_run_did(
    project: Project, trained: dict[str, Any], run_folder: Path, client: MlflowClient, tmp_path: Path
) -> None:
    file = tmp_path / "widget.onnx"
    report = project.aesc("export", "champion", "--category", "widget", "--out", file, "--json").report
    assert report["file"] == str(file)
    assert report["parity"]["score"] <= report["parity"]["allowed"]
    assert report["mlflow_run_id"] == trained["mlflow_run_id"]
    kept = client.download_artifacts(trained["mlflow_run_id"], "onnx/model.onnx", str(tmp_path))
    assert hashlib.sha256(Path(kept).read_bytes()).digest() == hashlib.sha256(file.read_bytes()).digest()
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for row in pd.read_csv(run_folder / "scores.csv").to_dict("records"):
        with Image.open(project.root / "data" / row["path"]) as picture:
            (score,) = session.run(["score"], {"images": np.asarray(picture)[None]})
        assert score[0] == pytest.approx(row["residual"], rel=1e-4)


def test_a_saved_detector_is_exported_without_a_registry(project: Project, run_folder: Path, tmp_path: Path) -> None:
    done = project.aesc(
        *("export", run_folder / "detector", "--out", tmp_path / "widget.onnx"),
        MLFLOW_TRACKING_URI="http://127.0.0.1:9",
    )
    assert "it differs from PyTorch by" in done.stdout
    assert "kept in MLflow" not in done.stdout
