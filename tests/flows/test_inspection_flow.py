"""The flow `inspect`: what `aesc inspect` says, as a run of Prefect's with a page in its UI."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from flows.inspection import SHOWN, to_markdown
from tests.commands import PATIENCE, Project
from tests.prefect_database import provide_database

_RUN = """
import json, sys
from tasks.settings import Settings, prepare_environment
prepare_environment(Settings())
from flows.inspection import inspect
from prefect import get_client
found = inspect(sys.argv[1], "widget", out=sys.argv[2])
with get_client(sync_client=True) as client:
    found_artifacts = {one.type: one for one in client.read_artifacts()}
    page, progress = found_artifacts["markdown"], found_artifacts["progress"]
    (run,) = client.read_flow_runs()
said = {"found": found, "key": page.key, "page": page.data, "run": run.name, "progress": progress.data}
json.dump(said, open(sys.argv[3], "w"))
"""


def test_counts_and_gallery_come_back_and_a_page_shows_the_rejected(
    project: Project, trained: dict[str, Any], tmp_path: Path
) -> None:
    provide_database(tmp_path / "prefect")
    source, out, said = project.root / "data" / "widget" / "test", tmp_path / "out", tmp_path / "said.json"
    subprocess.run(
        [sys.executable, "-c", _RUN, str(source), str(out), str(said)],
        cwd=project.root,
        env=project.environment(AESC_ROOT=str(project.root), PREFECT_HOME=str(tmp_path / "prefect")),
        check=True,
        timeout=PATIENCE,
    )
    done = json.loads(said.read_text(encoding="utf-8"))
    found, page = done["found"], done["page"]
    table = pd.read_csv(out / "verdicts.csv")
    verdicts = ("pass", "reject", "abstain", "error")
    assert found["counts"] == {name: int((table["verdict"] == name).sum()) for name in verdicts}
    assert sum(found["counts"].values()) == len(list(source.rglob("*.png")))
    assert found["gallery"] == str(out / "index.html")
    assert Path(found["gallery"]).is_file()
    assert found["weights_sha256"] == trained["weights_sha256"]
    assert "images" not in found, "a large folder would fill Prefect's database"
    assert (done["key"], done["run"], done["progress"]) == ("inspect-widget", "inspect widget", 100.0)
    assert trained["data_version"] in page
    assert found["gallery"] in page
    for path in table.loc[table["verdict"] == "reject", "path"]:
        assert path in page


def test_a_page_names_no_more_than_it_can_show() -> None:
    row = {"verdict": "reject", "score": 2.0, "threshold": 1.0, "error": ""}
    images = [row | {"path": f"{number}|x.png"} for number in range(SHOWN + 2)]
    images.append({"verdict": "error", "score": None, "threshold": None, "path": "b.png", "error": "not an image"})
    page = to_markdown(
        {
            "category": "bolt",
            "model": "models:/aesc-bolt/1",
            "data_version": "v",
            "promise": {"message": "kept"},
            "abstention": {"message": "none abstains"},
            "counts": {"pass": 0, "reject": SHOWN + 2, "abstain": 0, "error": 1},
            "gallery": "/out/index.html",
            "images": images,
        },
        source="/in",
    )
    assert page.count("| reject |") == SHOWN
    assert "... and 3 more" in page
    assert "0\\|x.png" in page
