"""MLflow's tracking: one run a finished training, with all its numbers and files. Bound by the network.

A run is written when its results are complete: what stands in MLflow is never half a run, and a tracking server that is
away costs nothing but this step, which can be repeated.
"""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import tempfile
import time
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from prefect.runtime import flow_run

from aesc.errors import AescError
from aesc.files import read_json
from tasks.detectability import detectability_of
from tasks.run_folder import RunFolder
from tasks.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

RECORDED_VERSIONS = (
    *("torch", "numpy", "pandas", "scikit-learn", "scipy", "pillow"),
    *("mlflow", "prefect", "dvc", "great-expectations", "boto3"),
)
LOGGER = logging.getLogger("aesc")
MOST_BATCH = 900  # metrics in one request; MLflow takes 1,000
FLOW_RUN_TAG = "prefect_flow_run_id"  # which flow run of Prefect made an MLflow run or a model version


def client() -> MlflowClient:
    """A client of the tracking server or sqlite file that the environment names."""
    from mlflow import MlflowClient

    settings = Settings()
    uri = settings.mlflow_uri
    if not uri.startswith("sqlite:"):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    # The first client makes the tables; two at once, in runs of two categories, would make them half each.
    settings.state.mkdir(parents=True, exist_ok=True)
    with FileLock(settings.state / "mlflow.lock"):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment_name(category: str) -> str:
    """One experiment a category."""
    return f"aesc-{category}"


def unreachable(error: Exception, run: RunFolder | None = None) -> AescError:
    """The one error for a tracking server that cannot be used."""
    uri = _without_password(Settings().mlflow_uri)
    first = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
    todo = "start it, or mend MLFLOW_TRACKING_URI"
    if run is not None:
        todo += f"; the trained weights are kept: then type `aesc register {run.path}`"
    return AescError(
        f"MLflow at {uri}",
        f"not reachable: {first}",
        allowed="a running MLflow server or a sqlite file",
        todo=todo,
        transient=True,
    )


def log_run(run: RunFolder) -> str:
    """Write the finished run to MLflow and return its run id; repeating it completes the same MLflow run."""
    from mlflow.entities import Param, RunTag

    tracking = client()
    state, params, metrics = run.state, run.params(), read_json(run.metrics)
    run_id = state.get("mlflow_run_id")
    if run_id is None:
        created = tracking.create_run(
            _experiment(tracking, state["category"]),
            run_name=run.path.name,
            start_time=_milliseconds(state["created"]),
            tags={"mlflow.source.name": "aesc retrain", "mlflow.source.type": "PROJECT"},
        )
        run_id = created.info.run_id
        run.update(mlflow_run_id=run_id)
    tags = {
        "category": state["category"],
        "preset": state["preset"],
        "data_version": state["data_version"]["version"],
        "data_version_kind": state["data_version"]["kind"],
        "seed": metrics["seed"],
        "mlflow.source.git.commit": state["commit"] or "none",
        "git_dirty": str(state["dirty"]),
        "code_digest": state.get("code_digest"),
        "content_digest": state["content_digest"],
        "data_root": state["data_root"],
        "weights_sha256": metrics["weights_sha256"],
        "strategy": metrics["strategy"],
        "residual": run.operating_point["detection"]["residual"],
        "metric_version": metrics["metric_version"],
        "synthetic_defects": str(metrics["synthetic_defects"]),
        "turned_by": ", ".join(map(str, run.turned_by)),
        FLOW_RUN_TAG: flow_run.id,
        **{f"device.{key}": str(value) for key, value in state["device"].items()},
        **{f"version.{key}": value for key, value in library_versions().items()},
    }
    tracking.log_batch(
        run_id,
        params=[Param(key, str(value)[:6000]) for key, value in params.flat().items()],
        tags=[RunTag(key, str(value)) for key, value in tags.items() if value is not None],
    )
    rows = _metric_rows(run, metrics)
    for start in range(0, len(rows), MOST_BATCH):
        tracking.log_batch(run_id, metrics=rows[start : start + MOST_BATCH])
    _log_datasets(tracking, run_id, run)
    tables = (run.history, run.losses, run.metrics, run.score_table, run.calibration_scores, run.detectability)
    for path in (run.params_file, run.manifest_file, *tables):
        if path.is_file():  # runs of earlier versions of this project lack some, few calibration images the last
            tracking.log_artifact(run_id, str(path))
    for folder in (run.validation, run.figures, run.detector):
        tracking.log_artifacts(run_id, str(folder), folder.name)
    return str(run_id)


def log_report(
    category: str, *, kind: str, metrics: dict[str, float], tags: dict[str, str], files: Sequence[Path]
) -> str:
    """Write a finished measurement of a registered model as an MLflow run of its own; its run id.

    Raises:
        AescError: MLflow cannot be reached.
    """
    from mlflow.entities import Metric, RunTag
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        tracking = client()
        name = f"{datetime.now(UTC).strftime('%Y%m%dT%H%M%S')}-{kind}"
        run_id = str(tracking.create_run(_experiment(tracking, category), run_name=name).info.run_id)
        now = int(time.time() * 1000)
        tracking.log_batch(
            run_id,
            metrics=[Metric(f"{kind}.{key}", value, now, 0) for key, value in metrics.items()],
            tags=[RunTag(key, value) for key, value in {"category": category, "kind": kind, **tags}.items()],
        )
        for path in files:
            tracking.log_artifact(run_id, str(path))
        tracking.set_terminated(run_id, "FINISHED")
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise unreachable(error) from error
    return run_id


def tag_run(run_id: str, tags: dict[str, str]) -> None:
    """Set tags of an MLflow run; raises AescError if MLflow cannot be reached."""
    from mlflow.entities import RunTag
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        client().log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise unreachable(error) from error


def add_files(run_id: str, files: Sequence[Path], *, folder: str | None = None) -> None:
    """Add files to an MLflow run, finished or not; raises AescError if MLflow cannot be reached."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        tracking = client()
        for path in files:
            tracking.log_artifact(run_id, str(path), folder)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise unreachable(error) from error


def read_artifact(run_id: str, name: str) -> str | None:
    """The text of an artifact of an MLflow run, None if it has none of that name; raises AescError if out of reach."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        tracking = client()
        if name not in {file.path for file in tracking.list_artifacts(run_id)}:
            return None
        with tempfile.TemporaryDirectory() as scratch:
            return Path(tracking.download_artifacts(run_id, name, scratch)).read_text(encoding="utf-8")
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise unreachable(error) from error


def finish_run(run: RunFolder) -> None:
    """Add summary and card, mark the MLflow run as finished; the last step, so an unfinished one is seen as such."""
    tracking, run_id = client(), run.state["mlflow_run_id"]
    for page in (run.summary, run.card):
        tracking.log_artifact(run_id, str(page))
    tracking.set_terminated(run_id, "FINISHED")
    run.update(finished=True)


def headline(metrics: dict[str, Any]) -> dict[str, float]:
    """The numbers that stand for a run, by MLflow metric name; what is not available is left out."""
    overall = metrics["metrics"][0]
    alarms = metrics["alarms"][metrics["strategy"]]
    found = {key: value for key, value in overall.items() if key != "defect"}
    found["image_auroc_residual_l2"] = metrics["image_auroc_by_score"]["residual"]["l2"]
    found |= {key: alarms[key] for key in ("threshold", "false_alarms", "detected")}
    for kind, images in (("clean", "clean_images"), ("defective", "defective_images")):
        found[f"abstained.{kind}.n"] = alarms[images]
        found[f"abstained.{kind}"] = alarms[f"abstained_{kind}"] / alarms[images] if alarms[images] else None
    for strategy, table in metrics["strategies"].items():
        for name in ("image_auroc", "pixel_auroc", "aupro"):
            found[f"{strategy}.{name}"] = table[0][name]
    for row in metrics["metrics"][1:]:
        for name in ("image_auroc", "pixel_auroc", "aupro"):
            found[f"defect.{_metric_safe(row['defect'])}.{name}"] = row[name]
    return {key: float(value) for key, value in found.items() if value is not None}


def library_versions() -> dict[str, str]:
    """Versions that a result may depend on."""
    found = {name: importlib.metadata.version(name) for name in RECORDED_VERSIONS}
    return {"python": platform.python_version(), **found}


def _experiment(tracking: MlflowClient, category: str) -> str:
    from mlflow.exceptions import MlflowException

    settings, name = Settings(), experiment_name(category)
    if existing := tracking.get_experiment_by_name(name):
        wished = settings.artifacts or ""
        if "://" in wished and not existing.artifact_location.startswith(wished.rstrip("/")):
            LOGGER.warning(
                "experiment %s keeps its artifacts at %s, where it was made: AESC_ARTIFACTS=%s is for new experiments "
                "only (name another MLFLOW_TRACKING_URI to begin anew)",
                name,
                existing.artifact_location,
                wished,
            )
        return str(existing.experiment_id)
    # A server decides by itself where artifacts live; a sqlite file must be told.
    location = settings.mlflow_artifacts if settings.mlflow_uri.startswith("sqlite") or settings.artifacts else None
    try:
        return str(tracking.create_experiment(name, artifact_location=location))
    except MlflowException:
        if existing := tracking.get_experiment_by_name(name):  # another process was faster
            return str(existing.experiment_id)
        raise


def _metric_rows(run: RunFolder, metrics: dict[str, Any]) -> list[Any]:
    import pandas as pd
    from mlflow.entities import Metric

    began = _milliseconds(run.state["created"])
    rows = [
        Metric(name, float(epoch[name]), began + int(1000 * epoch["seconds"]), int(epoch["epoch"]))
        for epoch in pd.read_csv(run.history).to_dict("records")
        for name in ("loss", "psnr", "learning_rate", "images_seen")
    ]
    now = int(time.time() * 1000)
    rows += [Metric(name, value, now, 0) for name, value in headline(metrics).items()]
    if found := detectability_of(run):
        rows += [
            Metric(f"detectability.{key}", float(found[key]), now, 0)
            for key in ("size", "low", "high", "contrast", "n")
            if found[key] is not None
        ]
    seconds = run.state.get("seconds", {})
    return rows + [Metric(f"seconds.{name}", float(value), now, 0) for name, value in seconds.items()]


def _log_datasets(tracking: MlflowClient, run_id: str, run: RunFolder) -> None:
    """The manifest's splits as MLflow dataset inputs; their digest says which content."""
    import mlflow.data
    from mlflow.entities import DatasetInput, InputTag

    state, manifest = run.state, run.manifest()
    version = str(state["data_version"]["version"])
    inputs = []
    with warnings.catch_warnings():
        # MLflow wonders aloud what kind of source a folder is, and about integer columns.
        warnings.simplefilter("ignore", UserWarning)
        for split, rows in manifest.groupby("split"):
            columns = ["path", "sha256", "split", "defect", "label"]
            dataset = mlflow.data.from_pandas(
                rows[columns].reset_index(drop=True),
                source=state["data_root"],
                name=f"{state['category']}-{split}",
                digest=version.removesuffix(".dir")[:36],
            )
            inputs.append(DatasetInput(dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", str(split))]))
    tracking.log_inputs(run_id, inputs)


def _milliseconds(stamp: str) -> int:
    return int(datetime.strptime(stamp, "%Y%m%dT%H%M%S").replace(tzinfo=UTC).timestamp() * 1000)


def _metric_safe(text: str) -> str:
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in text)


def _without_password(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if "@" in rest else uri


def pyfunc_file() -> Path:
    """The code that MLflow loads a version with."""
    return Path(__file__).with_name("served_model.py")
