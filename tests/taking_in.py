"""Taking arrivals in: what arrives, the project that takes it in, and what must hold afterwards."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from aesc.errors import AescError
from tasks.acceptance import accept_arrivals, accepted_name
from tasks.arrival_batch import Batch
from tasks.settings import Settings
from tests.arrivals import own_environment, sha256
from tests.repositories import git

CATEGORY = "bottle"
ARRIVALS = {"line/1.png": b"first", "line/2.PNG": b"second", "3.jpg": b"third"}
NAMES = {f"data/bottle/{accepted_name(sha256(content), key)}": content for key, content in ARRIVALS.items()}
OLD = 3  # images that were there before


def copied(project: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A copy of `project` at `root`, and its settings."""
    shutil.copytree(project, root)
    own_environment(monkeypatch, root)
    return Settings()


def accept(batch: Batch) -> str | None:
    """Take the batch in, without a flow around it; the new data version."""
    return accept_arrivals.fn(CATEGORY, str(batch.path))


def refusal(batch: Batch) -> AescError:
    """Why the batch is not taken in."""
    with pytest.raises(AescError) as caught:
        accept(batch)
    return caught.value


def log(settings: Settings) -> list[str]:
    """Subjects of all commits, the newest first."""
    return git(settings.root, "log", "--format=%s").splitlines()


def images(settings: Settings) -> dict[str, bytes]:
    """Content of the category's clean images by path from the project's root."""
    folder = settings.data / CATEGORY / "train" / "good"
    return {str(path.relative_to(settings.root)): path.read_bytes() for path in folder.iterdir()}


def assert_taken_in(settings: Settings, version: str | None, *, old: int = OLD) -> None:
    """The last commit is of data.dvc alone, and the remote holds all that it names."""
    assert {name: content for name, content in images(settings).items() if name in NAMES} == NAMES
    assert len(images(settings)) == old + len(NAMES)
    assert git(settings.root, "show", "--name-only", "--format=", "HEAD").split() == ["data.dvc"]
    assert f"md5: {version}\n" in git(settings.root, "show", "HEAD:data.dvc")
    digests = [hashlib.md5(content, usedforsecurity=False).hexdigest() for content in images(settings).values()]
    for digest in (*digests, str(version)):
        assert (settings.state / "dvc-remote" / "files" / "md5" / digest[:2] / digest[2:]).is_file()
