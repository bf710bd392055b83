"""Which looks at a champion there were, and at which images: in MLflow, where the loss of this disk cannot touch it.

The number of a look is a tag of the model version, written before anything is compared: a look whose process dies has
spent its share of the error all the same, so no crash and no repetition can make more of alpha than there is. Its
images are a file of the MLflow run that it was logged as.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from aesc.files import write_atomically
from tasks.lineage import readable_errors
from tasks.registry import Registered
from tasks.settings import Settings
from tasks.tracking import client

LOOKS, LOOK, STATUS = "monitor.looks", "monitor.look.", "monitor.status"
IMAGES = "look.csv"


def version_tags(version: Registered) -> dict[str, str]:
    """The tags of a version now; raises AescError if MLflow cannot be reached."""
    with readable_errors():
        return dict(client().get_model_version(version.name, version.version).tags)


def set_version_tags(version: Registered, tags: dict[str, str]) -> None:
    """Set tags of a version; raises AescError if MLflow cannot be reached."""
    with readable_errors():
        for key, value in tags.items():
            client().set_model_version_tag(version.name, version.version, key, value)


def begin_look(version: Registered) -> int:
    """The number of the look that begins now, from 1; the version has it already when this returns."""
    number = int(version_tags(version).get(LOOKS, "0")) + 1
    set_version_tags(version, {LOOKS: str(number)})
    return number


def end_look(version: Registered, number: int, *, run_id: str, status: str) -> None:
    """Say which MLflow run has the look's images, and what was found."""
    set_version_tags(version, {f"{LOOK}{number}": run_id, STATUS: status})


def looked_at(version: Registered, settings: Settings) -> set[str]:
    """The sha256 of all images that an ended look at this version was about; fetched from MLflow once each.

    Raises:
        AescError: MLflow or its artifact store cannot be reached.
    """
    found: set[str] = set()
    for key, run_id in version_tags(version).items():
        if key.startswith(LOOK):
            cached = settings.state / "monitoring" / "looks" / f"{run_id}.csv"
            if not cached.is_file():
                _fetch(run_id, cached)
            found |= set(pd.read_csv(cached, usecols=["sha256"])["sha256"])
    return found


def _fetch(run_id: str, target: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch, readable_errors():
        content = Path(client().download_artifacts(run_id, IMAGES, scratch)).read_bytes()
    write_atomically(target, lambda path: path.write_bytes(content))


def download_of(version: Registered, name: str) -> bytes | None:
    """A file of the run that a version came from, None if the run has none of this name.

    Raises:
        AescError: MLflow or its artifact store cannot be reached.
    """
    with tempfile.TemporaryDirectory() as scratch, readable_errors():
        listed: list[Any] = client().list_artifacts(version.run_id)
        if name not in {one.path for one in listed}:
            return None
        return Path(client().download_artifacts(version.run_id, name, scratch)).read_bytes()
