"""The model card: in the run folder, in MLflow as artifact and description, and by `aesc card`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient

from tasks.model_card import description
from tests.commands import Project


def test_the_card_is_one_text_in_all_places(
    project: Project, trained: dict[str, Any], run_folder: Path, client: MlflowClient, tmp_path: Path
) -> None:
    card = (run_folder / "model_card.md").read_text(encoding="utf-8")
    kept = client.download_artifacts(trained["mlflow_run_id"], "model_card.md", str(tmp_path))
    assert Path(kept).read_text(encoding="utf-8") == card
    assert client.get_model_version("aesc-widget", "1").description == description(card)
    assert project.aesc("card", "champion", "--category", "widget").stdout.strip() == card.strip()
    report = project.aesc("card", run_folder, "--json").report
    assert (report["category"], report["version"], report["card"]) == ("widget", "1", card)


def test_the_card_says_what_one_must_know(trained: dict[str, Any], run_folder: Path) -> None:
    card = (run_folder / "model_card.md").read_text(encoding="utf-8")
    assert f"`{trained['data_version']}`" in card
    splits = pd.read_parquet(run_folder / "manifest.parquet")["split"].value_counts()
    assert f"| {splits['train']}, {splits['validation']}, {splits['calibration']} |" in card
    assert "| 4 clean, 7 defective |" in card
    assert "| licence of the images | unknown: no licence or readme lies beside the images" in card
    low, high = trained["intervals"]["image_auroc"]
    assert f"| image AUROC | {trained['image_auroc']:.4f} | {low:.4f} to {high:.4f} |" in card
    for message in (trained["promise"]["message"], trained["abstention"]["message"]):
        assert message[1:] in card
    scores = pd.read_csv(run_folder / "scores.csv")
    defects = scores[scores["label"] == 1]
    found = (defects["score"] > defects["threshold"]).groupby(defects["defect"]).agg(["sum", "count"])
    shares = found["sum"] / found["count"]
    rows = [line for line in card.splitlines() if line.startswith(("| spot |", "| dent |"))]
    assert len(rows) == 2
    assert shares[rows[0].split(" | ")[0].removeprefix("| ")] == shares.min(), "the weakest comes first"
    for row in rows:
        name, n, hits, *_ = row.removeprefix("| ").split(" | ")
        assert (int(hits), int(n)) == tuple(found.loc[name])
    assert "aesc replay 1 --category widget" in card
    assert 'load_model("models:/aesc-widget/1")' in card
    assert f"`{trained['weights_sha256']}`" in card


def test_a_version_without_a_card_is_told_apart(
    project: Project, client: MlflowClient, trained: dict[str, Any]
) -> None:
    run = client.create_run(client.get_run(trained["mlflow_run_id"]).info.experiment_id)
    client.create_registered_model("aesc-cardless")
    client.create_model_version("aesc-cardless", f"runs:/{run.info.run_id}/model", run.info.run_id)
    try:
        error = project.aesc("card", "1", "--category", "cardless", "--json", code=1).error
    finally:
        client.delete_registered_model("aesc-cardless")  # others count the models
    assert error["where"] == "models:/aesc-cardless/1"
    assert "no model_card.md" in error["found"]
