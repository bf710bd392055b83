"""A clone of this project, committed, with one tiny category of data under DVC."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
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


def make_clone(
    folder: Path,
    *,
    preset: Mapping[str, object] = TINY,
    test_good: int = 4,
    defects: Mapping[str, int] | None = None,
) -> Path:
    """The working tree as it is now, committed in `folder`; its preset `tiny` trains within seconds.

    The category has 40 clean images to train on; `test_good` and `defects` are those of `draw_category`.
    """
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *_PARTS)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["presets"][PRESET] = dict(preset)
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=project")
    settings = Settings(root=folder, home=None, dvc_remote=None)
    draw_category(settings.data, CATEGORY, train=40, test_good=test_good, defects=defects)
    track_data(settings)
    commit_pointer(settings)
    return folder
