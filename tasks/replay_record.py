"""What MLflow recorded of a run: everything that making its model again needs. Bound by the network."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from aesc.errors import AescError
from aesc.files import read_json
from tasks.registry import only_category, resolve
from tasks.run_folder import RunFolder
from tasks.tracking import client, unreachable

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_QUALITY = (
    *("image_auroc", "image_average_precision", "image_f1_max"),
    *("pixel_auroc", "pixel_average_precision", "aupro"),
)


@dataclass(frozen=True)
class Record:
    """A finished run as MLflow knows it; `losses` is None if it was made before runs had a trace.

    `params` are the effective parameters, not yet checked: only the code of `commit` knows which are allowed.
    `logged_params` are the same as MLflow shows them. `manifest` has path, sha256, mask_path and mask_sha256.
    """

    run_id: str
    version: str | None
    category: str
    commit: str | None
    dirty: bool
    code_digest: str | None
    data_version: str
    data_version_kind: str
    data_root: str | None
    params: Mapping[str, Any]
    logged_params: Mapping[str, str]
    seed: str
    manifest: pd.DataFrame
    losses: npt.NDArray[np.float32] | None
    metrics: Mapping[str, Any]
    weights_sha256: str
    device: Mapping[str, str]
    versions: Mapping[str, str]

    @property
    def flat_params(self) -> dict[str, Any]:
        """Dotted key to value."""
        return dict(_leaves(self.params))


def find_record(model: str, *, category: str | None) -> Record:
    """The record of a version number, an alias, an MLflow run id or a run folder.

    Raises:
        AescError: there is no such run, it lacks what a replay needs, or MLflow cannot be reached.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    version = None
    if (Path(model) / RunFolder.STATE).is_file() or "/" in model:
        run_id = RunFolder(model).state.get("mlflow_run_id")
        if run_id is None:
            raise AescError(model, "this run is not in MLflow", todo=f"aesc register {model}", usage=True)
    elif _RUN_ID.fullmatch(model):
        run_id = model
    else:
        found = resolve(category or only_category(), model)
        run_id, version = found.run_id, found.version
    try:
        return _read(run_id, version)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            todo = "name a version, an alias or a run of a training"
            raise AescError(f"run {run_id}", "not in MLflow, or not all of it", todo=todo, usage=True) from error
        raise unreachable(error) from error
    except (SQLAlchemyError, OSError) as error:
        raise unreachable(error) from error


def _read(run_id: str, version: str | None) -> Record:
    tracking = client()
    run = tracking.get_run(run_id)
    data, tags = run.data, run.data.tags
    missing = [name for name in ("category", "data_version", "weights_sha256", "seed") if name not in tags]
    names = {item.path for item in tracking.list_artifacts(run_id)}
    missing += [name for name in ("params.json", "manifest.parquet", "metrics.json") if name not in names]
    if missing:
        todo = "name a version, an alias or a run of `aesc retrain`"
        raise AescError(f"run {run_id}", f"not a finished training: no {', '.join(missing)}", todo=todo, usage=True)
    commit = tags.get("mlflow.source.git.commit")
    with tempfile.TemporaryDirectory() as scratch:

        def fetched(name: str) -> Path:
            return Path(tracking.download_artifacts(run_id, name, scratch))

        return Record(
            run_id=run_id,
            version=version,
            category=tags["category"],
            commit=None if commit in (None, "none") else commit,
            dirty=tags.get("git_dirty") == "True",
            code_digest=tags.get("code_digest"),
            data_version=tags["data_version"],
            data_version_kind=tags.get("data_version_kind", "dvc"),
            data_root=tags.get("data_root") or _dataset_folder(run),
            params=read_json(fetched("params.json")),
            logged_params=dict(data.params),
            seed=tags["seed"],
            manifest=pd.read_parquet(fetched("manifest.parquet"))[["path", "sha256", "mask_path", "mask_sha256"]],
            losses=np.load(fetched("losses.npy"), allow_pickle=False) if "losses.npy" in names else None,
            metrics=read_json(fetched("metrics.json")),
            weights_sha256=tags["weights_sha256"],
            device=_section(tags, "device."),
            versions=_section(tags, "version."),
        )


def _dataset_folder(run: Any) -> str | None:
    """Where the run's dataset inputs say that the images were: earlier runs have no tag for it."""
    for inputs in run.inputs.dataset_inputs:
        with suppress(ValueError, TypeError, AttributeError):
            if uri := json.loads(inputs.dataset.source).get("uri"):
                return str(uri).removeprefix("file://")
    return None


def _section(tags: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): value for key, value in tags.items() if key.startswith(prefix)}


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def quality(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The metrics of a run between 0 and 1, by name; None is "not available"."""
    overall = metrics["metrics"][0]
    return {
        name: None if overall.get(name) is None or math.isnan(overall[name]) else float(overall[name])
        for name in _QUALITY
    }
