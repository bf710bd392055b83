"""`aesc inspect s3://...` against a real S3 server: the same verdicts as of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests import servers
from tests.commands import Project
from tests.servers import Server
from tests.stations import draw_arrivals

pytestmark = pytest.mark.integration
COUNT = 140  # two shards


def test_images_in_s3_get_the_verdicts_of_the_files(
    project: Project, prefect_server: Server, trained: dict[str, Any], tmp_path: Path
) -> None:
    project = project.on(prefect_server)
    shift = tmp_path / "shift"
    draw_arrivals(shift, clean=COUNT - 3, spotted=3, seed=4)
    with servers.s3_server(tmp_path / "s3", buckets=("shifts",)) as server:
        client = servers.s3_client(server.env)
        for path in shift.iterdir():
            client.upload_file(str(path), "shifts", f"night/line 1/{path.name}")
        client.put_object(Bucket="shifts", Key="night/notes.txt", Body=b"no image")
        client.put_object(Bucket="shifts", Key="night/broken.png", Body=b"no image")
        asked = ("--category", "widget", "--json")
        there = project.aesc("inspect", "s3://shifts/night", "--out", tmp_path / "s3out", *asked, code=1, **server.env)
        error = project.aesc("inspect", "s3://nowhere/night", *asked, code=1, **server.env).error
        empty = project.aesc("inspect", "s3://shifts/day", *asked, code=2, **server.env).error
    here = project.aesc("inspect", shift, "--out", tmp_path / "out", *asked)
    assert "no bucket named 'nowhere'" in error["found"]
    assert empty["found"] == "no images in this place"
    assert there.report["counts"] == here.report["counts"] | {"error": 1}
    columns = ["score", "threshold", "verdict", "sha256", "flagged_share"]
    found = pd.read_parquet(tmp_path / "s3out" / "verdicts.parquet")
    found = found[found["verdict"] != "error"]
    local = pd.read_parquet(tmp_path / "out" / "verdicts.parquet")
    assert found["path"].str.startswith("s3://shifts/night/line 1/").all()
    assert found[columns].to_numpy().tolist() == local[columns].to_numpy().tolist()
