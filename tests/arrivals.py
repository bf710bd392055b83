"""Arrivals at any step of an ingest, without the steps before it."""

from __future__ import annotations

import hashlib
import os
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import pytest

from tasks.arrival_batch import ACCEPTED, Batch, new_batch, write_table
from tasks.settings import Settings

MODIFIED = "2024-05-01T10:00:00+00:00"
_OUTSIDE = ("GIT_", "DVC_", "AWS_", "AESC_", "MLFLOW_")


def own_environment(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Nobody's settings; tasks find the project at `root`, and git knows who commits."""
    for key in os.environ:
        if key.startswith(_OUTSIDE):
            monkeypatch.delenv(key)
    monkeypatch.setenv("AESC_ROOT", str(root))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Test")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "test@example.org")


def sha256(content: bytes) -> str:
    """Hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def staged_table(arrivals: Mapping[str, bytes], folder: Path) -> pd.DataFrame:
    """Copies of `arrivals` (content by key) in `folder`, and the table that staging makes of them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (key, content) in enumerate(arrivals.items()):
        file = f"{number:07d}{PurePosixPath(key).suffix}"
        (folder / file).write_bytes(content)
        found = {"key": key, "tag": f"tag {key}", "size": len(content), "modified": MODIFIED}
        rows.append({**found, "sha256": sha256(content), "file": file})
    return pd.DataFrame(rows)


def judged_batch(
    settings: Settings,
    category: str,
    arrivals: Mapping[str, bytes],
    *,
    source: str = "s3://station/clean",
    decisions: Mapping[str, Mapping[str, Any]] | None = None,
) -> Batch:
    """A batch whose arrivals were judged: accepted, or as `decisions` by key say."""
    keys = pd.DataFrame({"key": list(arrivals)})
    batch = new_batch(settings, category, objects=keys, state={"source": source, "preset": "quick", "gate": "open"})
    staged = staged_table(arrivals, batch.files)
    write_table(batch.staged_file, staged)
    usual: dict[str, Any] = {"verdict": ACCEPTED, "reason": "", "detail": "", "twin": ""}
    usual |= {"residual": None, "uncertainty": None}
    decided = pd.DataFrame([usual | dict((decisions or {}).get(key, {})) for key in staged["key"]])
    scores = {name: decided[name].astype("float64") for name in ("residual", "uncertainty")}
    write_table(batch.verdicts_file, pd.concat([staged, decided.assign(**scores)], axis=1))
    return batch


@contextmanager
def killed_in(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, instead: Callable[..., Any]
) -> Iterator[None]:
    """Within, `module.name` is `instead`, which must end the process at some time by a KeyboardInterrupt."""
    with monkeypatch.context() as patch:
        patch.setattr(module, name, instead)
        with pytest.raises(KeyboardInterrupt):
            yield


def die(*_: Any, **__: Any) -> None:
    """End before anything is done."""
    raise KeyboardInterrupt


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the system refuse to write files beyond `size` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
