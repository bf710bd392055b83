"""A camera station: a project of its own with a champion, an inbox, and what an ingest came to."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aesc.files import read_json
from tests.commands import Project
from tests.prefect_database import provide_database
from tests.repositories import git
from tests.servers import Server

CATEGORY = "widget"


@dataclass(frozen=True)
class Station:
    """A project, and the folder below which images of its category arrive."""

    project: Project
    inbox: Path

    @property
    def arriving(self) -> Path:
        return self.inbox / CATEGORY

    @property
    def clean(self) -> Path:
        return self.project.root / "data" / CATEGORY / "train" / "good"

    def ingest(self, *more: str, code: int = 0) -> dict[str, Any]:
        """The report of `aesc ingest` on the inbox."""
        command = ("ingest", "--source", self.arriving, "--category", CATEGORY, "--preset", "tiny", "--json", *more)
        done = self.project.aesc(*command, code=code)
        found: dict[str, Any] = done.report["categories"][0] if code == 0 else done.error
        return found

    def killed(self, place: str, count: int) -> None:
        """Run the same command, killed after call number `count` of a function."""
        command = ("ingest", "--source", self.arriving, "--category", CATEGORY, "--preset", "tiny", "--json")
        self.project.killed(place, count, *command)

    def on(self, server: Server) -> Station:
        """The same, with a running Prefect server."""
        return replace(self, project=self.project.on(server))

    def copy(self, folder: Path) -> Station:
        """An equal station of its own."""
        shutil.copytree(self.project.root, folder / "project", symlinks=True)
        if self.inbox.is_dir():
            shutil.copytree(self.inbox, folder / "inbox")  # keeps the times of change, by which arrivals are told apart
        env = {**self.project.env, "AESC_DVC_REMOTE": str(folder / "remote")}
        project = replace(self.project, root=folder / "project", state=folder / "state", env=env)
        provide_database(project.state / "prefect")
        return Station(project, folder / "inbox")

    def outcome(self) -> dict[str, Any]:
        """Everything that an ingest leaves, in comparable form."""
        root, state = self.project.root, self.project.state
        with sqlite3.connect(state / "arrivals" / "ledger.db") as database:
            rows = database.execute("SELECT key, tag, sha256, verdict, reason FROM seen ORDER BY key").fetchall()
            announced = database.execute("SELECT category, data_version, reason FROM announced").fetchall()
        quarantine = state / "quarantine" / CATEGORY
        return {
            "clean": {path.name: digest(path) for path in sorted(self.clean.iterdir())},
            "pointer": (root / "data.dvc").read_text(encoding="utf-8"),
            "committed": git(root, "show", "HEAD:data.dvc"),
            "commits": int(git(root, "rev-list", "--count", "HEAD")),
            "dirty": git(root, "status", "--porcelain"),
            "ledger": rows,
            "announced": announced,
            "quarantine": sorted(
                (read_json(path)["key"], read_json(path)["reason"], sorted(file.name for file in path.parent.iterdir()))
                for path in quarantine.glob("*/reason.json")
            ),
            "hidden": sorted(path.name for path in quarantine.glob(".*")),
            "batches": len(list((state / "arrivals" / "batches" / CATEGORY).glob("*/batch.json"))),
            "staged files": sorted(path.name for path in (state / "arrivals").glob("batches/*/*/files/*")),
            "remote": sorted(path.name for path in Path(self.project.env["AESC_DVC_REMOTE"]).rglob("*.dir")),
            "inbox": {path.name: digest(path) for path in sorted(self.arriving.iterdir())},
        }


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def draw_arrivals(folder: Path, *, clean: int, spotted: int = 0, seed: int = 11) -> None:
    """Images of the category in a folder: clean ones, and ones with a small shadow, all 60 seconds old."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:64, :64] / 64
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(clean + spotted):
        tint = rng.uniform(90, 160, 3)
        waves = 40 * np.sin(6.3 * (3 * rows + 2 * columns) + rng.uniform(0, 6.3))
        pixels = np.clip(tint + waves[..., None] + rng.normal(0, 4, (64, 64, 3)), 0, 255)
        name = f"{number:03d}.png"
        if number >= clean:
            # Soft, so that it is not the image's sharpness that gives it away.
            square = (rows - rng.uniform(0.3, 0.7)) ** 2 + (columns - rng.uniform(0.3, 0.7)) ** 2
            pixels = np.clip(pixels - 100 * np.exp(-square / (2 * 0.05**2))[..., None], 0, 255)
            name = f"spotted_{number:03d}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
    settle(folder)


def settle(folder: Path) -> None:
    """Let all files have been written a minute ago."""
    then = time.time() - 60
    for path in folder.iterdir():
        os.utime(path, (then, then))
