"""A small project in git and DVC, with the DVC files of this one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tasks.settings import Settings

ROOT = Path(__file__).parents[1]


def make_project(folder: Path, *, images: int = 3, remote: str | None = None, endpoint: str | None = None) -> Settings:
    """A committed project whose data folder holds `images` files of category bottle; no data.dvc yet."""
    for name in (".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "params.yaml").write_text("defaults: {}\n", encoding="utf-8")
    for index in range(images):
        write(folder / f"data/bottle/train/good/{index:03d}.png", f"image {index}")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=project")
    return Settings(root=folder, home=None, dvc_remote=remote, s3_endpoint=endpoint)


def commit_pointer(settings: Settings) -> None:
    """Commit data.dvc."""
    git(settings.root, "add", "data.dvc")
    git(settings.root, "commit", "--quiet", "--message=data", "data.dvc")


def write(path: Path, text: str) -> None:
    """Write a small file, making its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def git(folder: Path, *arguments: str) -> str:
    """Run git in `folder`, as nobody in particular and without anyone's settings."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for role in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{role}_NAME": "Test", f"GIT_{role}_EMAIL": "test@example.org"}
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
