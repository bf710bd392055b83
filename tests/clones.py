"""A clone of this project, committed, with one tiny category of data under DVC."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from tasks.settings import Settings
from tasks.versioning import track_data
from tests.categories import draw_category
from tests.repositories import ROOT, commit_pointer, git

CATEGORY = "widget"
PRESET = "tiny"
TINY = {
    "data": {"image_size": 64},
    "training": {"epochs": 2, "images_per_epoch": 32, "batch_size": 8},
    "detection": {"passes": 2},
    "evaluation": {"bootstrap": 20},
}
_PARTS = ("aesc", "tasks", "flows", ".dvc", ".dvcignore", ".gitignore", "params.yaml", "prefect.yaml", "pyproject.toml")


def make_clone(folder: Path) -> Path:
    """The working tree as it is now, committed in `folder`; its preset `tiny` trains within seconds."""
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *_PARTS)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["presets"][PRESET] = TINY
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=project")
    settings = Settings(root=folder, home=None, dvc_remote=None)
    draw_category(settings.data, CATEGORY, train=40, test_good=4)
    track_data(settings)
    commit_pointer(settings)
    return folder


def make_clone_with_defects(folder: Path, preset: dict[str, object]) -> Path:
    """As `make_clone`, `preset` in place of `tiny`; the test set has 8 clean images and 8 with a spot."""
    root = make_clone(folder)
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    params["presets"][PRESET] = preset
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    git(root, "commit", "--quiet", "--all", "--message=rules")
    settings = Settings(root=root, home=None, dvc_remote=None)
    draw_category(settings.data, CATEGORY, train=40, test_good=8, defects={"spot": 8})
    track_data(settings)
    commit_pointer(settings)
    return root
