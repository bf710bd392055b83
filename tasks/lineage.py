"""What a registered version was made from, and when: read from its MLflow run. Bound by the network."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aesc.errors import AescError
from aesc.layout import CLEAN_FOLDER
from aesc.manifest import load_manifest
from aesc.splits import TEST
from tasks.registry import Registered
from tasks.tracking import client, unreachable

_MANIFEST = "manifest.parquet"
_DAY_SECONDS = 86400.0


def clean_images_of(version: Registered) -> set[str]:
    """The sha256 of the clean images of a version's data, whatever split they were in.

    Raises:
        AescError: MLflow or its artifact store cannot be reached (transient), or the run has no manifest.
    """
    with tempfile.TemporaryDirectory() as scratch, readable_errors():
        manifest = load_manifest(Path(client().download_artifacts(version.run_id, _MANIFEST, scratch)))
    return set(manifest.loc[(manifest["folder"] == CLEAN_FOLDER) & (manifest["error"] == ""), "sha256"])


def age_in_days(version: Registered) -> float:
    """Days since the version was registered; raises AescError like `clean_images_of`."""
    with readable_errors():
        created: int = client().get_model_version(version.name, version.version).creation_timestamp
    return max(0.0, time.time() - created / 1000.0) / _DAY_SECONDS


def learnt_from(version: Registered) -> set[str]:
    """The sha256 of the images that a version was made from: trained on, chosen by, or calibrated with.

    Raises:
        AescError: as `clean_images_of`.
    """
    with tempfile.TemporaryDirectory() as scratch, readable_errors():
        manifest = load_manifest(Path(client().download_artifacts(version.run_id, _MANIFEST, scratch)))
    return set(manifest.loc[manifest["split"] != TEST, "sha256"])


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn what MLflow and its stores raise into the one error for a tracking server that cannot be used."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except AescError:
        raise
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise unreachable(error) from error
