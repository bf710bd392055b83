"""`aesc register`: a run whose training ended well but whose tracking server was away."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient

from aesc.files import read_json
from aesc.report_figures import describe
from flows.commands.training import _headline
from tests.categories import draw_category
from tests.commands import Project
from tests.servers import Server


def test_without_tracking_server_the_weights_are_kept_and_can_be_registered(
    project: Project, prefect_server: Server, tmp_path: Path
) -> None:
    """The same product has no defective test images, which every report must say."""
    draw_category(tmp_path / "line 3", "plain", train=24, test_good=3, defects={})
    arguments = ("retrain", "--category", "plain", "--data", tmp_path / "line 3", "--preset", "tiny", "--json")
    away = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    error = project.on(prefect_server).aesc(*arguments, code=1, **away).error
    assert error["where"] == "MLflow at http://127.0.0.1:9"
    assert error["found"].startswith("not reachable: ")
    (folder,) = (project.state / "runs" / "plain").iterdir()
    assert f"aesc register {folder}" in error["todo"]
    assert (folder / "detector" / "weights.safetensors").is_file()

    here = f"sqlite:///{tmp_path / 'mlflow.db'}"
    report = project.aesc("register", folder, "--json", MLFLOW_TRACKING_URI=here).report
    assert (report["model"], report["model_version"]) == ("aesc-plain", "1")
    assert report["aliases"] == ["challenger", "champion"]
    assert report["data_version_kind"] == "content"
    tracking = MlflowClient(tracking_uri=here, registry_uri=here)
    run = tracking.get_run(report["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    version = tracking.get_model_version_by_alias("aesc-plain", "champion")
    assert version.tags["weights_sha256"] == report["weights_sha256"]

    assert report["synthetic_defects"] is True
    assert {row["defect"] for row in report["metrics_by_defect"]} == {"synthetic scratch", "synthetic drops"}
    assert "no defective test images" in (folder / "summary.md").read_text(encoding="utf-8")
    assert "held-out corruptions: there are no defective test images" in _headline(report)
    assert "defects are held-out corruptions" in describe(read_json(folder / "metrics.json"))
    assert (run.data.tags["synthetic_defects"], version.tags["synthetic_defects"]) == ("True", "True")
