"""`aesc retrain` from images to a registered detector, and what happens when something comes in between."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from PIL import Image

from aesc.files import read_json
from tasks.summary import to_markdown
from tests.commands import Project
from tests.flows.conftest import RETRAIN, TINY, Imports
from tests.repositories import git
from tests.servers import Server
from tests.stations import Station

MODEL = "aesc-widget"
SPLITS = ("train", "validation", "calibration", "test")
FIGURES = ("training.png", "roc.png", "pro.png", "scores.png", "panel_1.png")
SCORE_COLUMNS = [
    *("path", "sha256", "split", "defect", "label"),
    *("residual", "uncertainty", "combined", "strategy", "score", "threshold", "verdict"),
]


@pytest.fixture(scope="module")
def scores(run_folder: Path) -> pd.DataFrame:
    return pd.read_csv(run_folder / "scores.csv")


def test_report_says_what_was_trained_on_what_and_how_good_it_is(
    project: Project, trained: dict[str, Any], imported: Imports
) -> None:
    assert trained["category"] == "widget"
    assert trained["data_version"] == imported.archive["data_version"]
    assert trained["data_version_kind"] == "dvc"
    assert trained["git_commit"] == git(project.root, "rev-parse", "HEAD").strip()
    assert (trained["model"], trained["model_version"]) == (MODEL, "1")
    assert trained["aliases"] == ["challenger", "champion"]
    assert trained["strategy"] in ("residual", "uncertainty", "combined")
    assert trained["residual"] in ("pixels", "both")
    assert "mean AUROC" in trained["residual_reason"]
    assert trained["threshold"] == trained["promise"]["threshold"] > 0
    for name in ("image_auroc", "image_average_precision", "image_f1_max", "pixel_auroc", "aupro"):
        low, high = trained["intervals"][name]
        assert 0 <= low <= high <= 1
        assert 0 <= trained[name] <= 1
    assert trained["image_auroc"] == trained["image_auroc_by_strategy"][trained["strategy"]]
    assert len(trained["weights_sha256"]) == 64
    assert trained["seed"] == 1
    assert trained["seconds"] == pytest.approx(sum(trained["seconds_by_stage"].values()), abs=0.02)
    assert trained["synthetic_defects"] is False
    assert trained["n"]["test_good"] == 4
    assert trained["clean_images"] - trained["false_alarms"] >= 0
    assert "calibration images" in trained["promise"]["message"]


def test_a_type_without_masks_has_no_pixel_metrics_and_never_zero(trained: dict[str, Any], run_folder: Path) -> None:
    by_defect = {row["defect"]: row for row in trained["metrics_by_defect"]}
    assert set(by_defect) == {"spot", "dent"}
    assert (by_defect["dent"]["n_defective"], by_defect["dent"]["n_masked"]) == (3, 0)
    assert by_defect["dent"]["image_auroc"] is not None
    for name in ("pixel_auroc", "pixel_average_precision", "aupro"):
        assert by_defect["dent"][name] is None
        assert by_defect["spot"][name] is not None
    assert trained["n"]["test_defective_without_mask"] == 3
    summary = (run_folder / "summary.md").read_text(encoding="utf-8")
    (row,) = (line for line in summary.splitlines() if line.startswith("| dent |"))
    assert row.endswith("| not available | not available |")
    assert "3 defective images have no mask" in summary


def test_the_run_says_in_which_positions_images_were_learnt_from(
    trained: dict[str, Any], run_folder: Path, client: MlflowClient
) -> None:
    assert trained["turned_by"] == [0]
    assert client.get_run(trained["mlflow_run_id"]).data.tags["turned_by"] == "0"
    assert "turned by" not in (run_folder / "summary.md").read_text(encoding="utf-8")
    assert "turned by 0, 180 degrees" in to_markdown({**trained, "turned_by": [0, 180]})


def test_scores_have_one_row_an_image_with_its_verdict(
    project: Project, trained: dict[str, Any], scores: pd.DataFrame
) -> None:
    assert list(scores.columns) == SCORE_COLUMNS
    assert scores["defect"].value_counts().to_dict() == {"good": 4, "spot": 4, "dent": 3}
    for row in scores.to_dict("records"):
        assert row["sha256"] == hashlib.sha256((project.root / "data" / row["path"]).read_bytes()).hexdigest()
        assert row["score"] == row[trained["strategy"]]
        assert row["threshold"] == trained["threshold"]
        assert row["verdict"] in ("abstain", "reject" if row["score"] > row["threshold"] else "pass")
        assert row["label"] == (row["defect"] != "good")
    above = scores[scores["score"] > scores["threshold"]]
    assert (above["label"] == 1).sum() == trained["detected"]
    assert (above["label"] == 0).sum() == trained["false_alarms"]
    abstained = scores[scores["verdict"] == "abstain"]
    assert (abstained["label"] == 1).sum() == trained["abstained_defective"]
    assert (abstained["label"] == 0).sum() == trained["abstained_clean"]


def test_mlflow_has_parameters_curves_data_and_provenance(
    project: Project, trained: dict[str, Any], client: MlflowClient
) -> None:
    run = client.get_run(trained["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    params = project.aesc("params", "--preset", "tiny", "--category", "widget", "--json").report
    assert run.data.params == {key: str(value) for key, value in params.items()}
    epochs = TINY["training"]["epochs"]
    for name in ("loss", "psnr", "learning_rate", "images_seen"):
        history = sorted(client.get_metric_history(run.info.run_id, name), key=lambda metric: metric.step)
        assert [metric.step for metric in history] == list(range(epochs))
    assert run.data.metrics["images_seen"] == epochs * TINY["training"]["images_per_epoch"]
    for name in ("image_auroc", "pixel_auroc", "aupro", "threshold", "defect.spot.pixel_auroc", "abstained.clean"):
        assert np.isfinite(run.data.metrics[name])
    assert run.data.metrics["image_auroc"] == trained["image_auroc"]
    assert run.data.metrics["detectability.n"] == trained["detectability"]["n"]
    assert "defect.dent.pixel_auroc" not in run.data.metrics
    datasets = {inputs.dataset.name: inputs for inputs in run.inputs.dataset_inputs}
    assert set(datasets) == {f"widget-{split}" for split in SPLITS}
    for split in SPLITS:
        inputs = datasets[f"widget-{split}"]
        assert [(tag.key, tag.value) for tag in inputs.tags] == [("mlflow.data.context", split)]
        assert trained["data_version"].startswith(inputs.dataset.digest)
    tags = run.data.tags
    assert tags["mlflow.source.git.commit"] == trained["git_commit"]
    assert tags["git_dirty"] == "False"
    assert tags["data_version"] == trained["data_version"]
    assert tags["weights_sha256"] == trained["weights_sha256"]
    assert tags["seed"] == "1"
    assert tags["device.device"] == "cpu"
    for name in ("python", "torch", "mlflow", "prefect", "dvc", "great-expectations", "boto3", "pandas"):
        assert tags[f"version.{name}"][0].isdigit()


def test_mlflow_has_every_artifact(trained: dict[str, Any], client: MlflowClient, tmp_path: Path) -> None:
    import mlflow.artifacts

    folder = Path(
        mlflow.artifacts.download_artifacts(
            run_id=trained["mlflow_run_id"], dst_path=str(tmp_path), tracking_uri=client.tracking_uri
        )
    )
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found >= {
        *("params.json", "manifest.parquet", "history.csv", "losses.npy", "metrics.json", "scores.csv"),
        *("calibration.csv", "detectability.json", "figures/detectability.png"),
        *("summary.md", "validation/index.html", "validation/result.json"),
        *("detector/weights.safetensors", "detector/network.json", "detector/operating_point.json"),
        *(f"figures/{name}" for name in FIGURES),
    }
    for name in FIGURES:
        with Image.open(folder / "figures" / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 5, f"{name} shows nothing"
    metrics = read_json(folder / "metrics.json")
    for key in ("category", "data_version", "seed", "weights_sha256", "strategy", "metric_version", "n"):
        assert metrics[key] == trained[key]
    page = (folder / "validation" / "index.html").read_text(encoding="utf-8")
    assert "widget" in page


def test_model_version_carries_its_operating_point(trained: dict[str, Any], client: MlflowClient) -> None:
    version = client.get_model_version_by_alias(MODEL, "champion")
    assert (str(version.version), version.run_id) == ("1", trained["mlflow_run_id"])
    tags = version.tags
    assert tags["data_version"] == trained["data_version"]
    assert tags["git_commit"] == trained["git_commit"]
    assert tags["weights_sha256"] == trained["weights_sha256"]
    assert (tags["strategy"], tags["residual"]) == (trained["strategy"], trained["residual"])
    assert float(tags["threshold"]) == pytest.approx(trained["threshold"], rel=1e-8)
    assert float(tags["promised_false_alarm_rate"]) == pytest.approx(trained["promise"]["attained"], rel=1e-5)
    assert tags["calibration_images"] == str(trained["promise"]["n"])
    assert float(tags["image_auroc"]) == pytest.approx(trained["image_auroc"], rel=1e-5)
    assert tags["synthetic_defects"] == "False"


def test_registered_model_scores_paths_and_content_as_the_run_did(
    project: Project, scores: pd.DataFrame, tmp_path: Path
) -> None:
    script = """
import base64, json, sys
from pathlib import Path
import pandas as pd
from mlflow.pyfunc import load_model

model = load_model("models:/aesc-widget@champion")
paths = json.loads(sys.stdin.read())
by_path = model.predict(pd.DataFrame({"image": paths}), params={"all_scores": True})
content = [base64.b64encode(Path(path).read_bytes()).decode() for path in paths]
by_content = model.predict(content, params={"all_scores": True})
import aesc
print(json.dumps([aesc.__file__, by_path.to_dict("list"), by_content.to_dict("list")]))
"""
    env = project.environment(MLFLOW_TRACKING_URI=project.tracking_uri)
    del env["PYTHONPATH"]
    paths = [str(project.root / "data" / path) for path in scores["path"]]
    found = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(paths),
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    code, by_path, by_content = json.loads(found.stdout.splitlines()[-1])
    assert Path(code).is_relative_to(project.state / "mlartifacts"), "the version does not bring its own code"
    for answer in (by_path, by_content):
        for name in ("score", "threshold", "residual", "uncertainty", "combined"):
            np.testing.assert_allclose(answer[name], scores[name], rtol=1e-6, atol=0)
        assert answer["verdict"] == scores["verdict"].tolist()
        assert answer["strategy"] == scores["strategy"].tolist()


def test_ctrl_c_in_training_is_resumed_by_the_same_command_to_the_same_weights(
    project: Project, trained: dict[str, Any], client: MlflowClient
) -> None:
    runs = project.state / "runs" / "widget"
    done = project.interrupted(*RETRAIN, at=lambda: list(runs.glob("*/checkpoint.pt")))
    assert done.error["found"] == "interrupted"
    assert "goes on from there" in done.stderr
    assert "Traceback" not in done.stderr
    (checkpoint,) = runs.glob("*/checkpoint.pt")
    again = project.aesc(*RETRAIN)
    assert "resumed after epoch" in again.stderr
    assert Path(again.report["run_folder"]) == checkpoint.parent
    assert not checkpoint.exists()
    assert again.report["weights_sha256"] == trained["weights_sha256"]
    whole = np.load(Path(trained["run_folder"]) / "losses.npy")
    assert np.array_equal(np.load(checkpoint.parent / "losses.npy"), whole)
    for name in ("threshold", "image_auroc", "pixel_auroc", "aupro", "strategy", "data_version"):
        assert again.report[name] == trained[name]
    assert (again.report["model_version"], again.report["aliases"]) == ("2", ["challenger"])
    aliases = client.get_registered_model(MODEL).aliases
    assert {alias: str(version) for alias, version in aliases.items()} == {"champion": "1", "challenger": "2"}


def test_data_that_differs_from_its_version_stops_the_run_and_is_named(
    project: Project, prefect_server: Server, imported: Imports, tmp_path: Path
) -> None:
    copy = Station(project, tmp_path / "none").copy(tmp_path).project.on(prefect_server)
    folder = copy.root / "data/widget/test"
    changed, removed = folder / "good/003.png", folder / "dent/002.png"
    with Image.open(changed) as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(changed)
    removed.unlink()
    error = copy.aesc(*RETRAIN, code=1).error
    assert error["where"] == str(copy.root / "data")
    assert error["found"].startswith("differs from data.dvc in 2 files")
    assert "modified (1): data/widget/test/good/003.png" in error["found"]
    assert "deleted (1): data/widget/test/dent/002.png" in error["found"]
    assert "dvc add data" in error["todo"]
    assert "dvc checkout data" in error["todo"]
