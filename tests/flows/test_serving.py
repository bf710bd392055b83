"""A trained and registered model behind `mlflow models serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.serving import Client, bad_images
from tests.commands import Project
from tests.servers import model_server

pytestmark = pytest.mark.integration


def test_a_server_scores_as_the_run_did_and_says_what_is_wrong_with_an_image(
    project: Project, trained: dict[str, Any], run_folder: Path, tmp_path: Path
) -> None:
    scores = pd.read_csv(run_folder / "scores.csv")
    env = {"MLFLOW_TRACKING_URI": project.tracking_uri}
    with model_server(tmp_path, f"models:/{trained['model']}@champion", env=env) as server:
        client = Client(server.url)
        for row in scores.to_dict("records"):
            content = (project.root / "data" / row["path"]).read_bytes()
            status, answer = client.ask(content, all_scores=True, heatmap=True)
            assert status == 200, answer
            (found,) = answer["predictions"]
            for name in ("score", "threshold", "residual", "uncertainty", "combined"):
                assert found[name] == pytest.approx(row[name], rel=1e-6)
            assert (found["verdict"], found["strategy"]) == (row["verdict"], row["strategy"])
            assert found["heatmap"].startswith("iVBORw0KGgo")  # a PNG
        array = [[[[9, 9, 9]] * 64] * 64] * 2
        for key in ("inputs", "instances"):
            status, answer = client.post({key: array})
            assert (status, len(answer["predictions"])) == (200, 2)
        for reason, content in bad_images().items():
            status, answer = Client(server.url).ask(content)
            assert status == 400
            assert {"too large": "400 megapixels"}.get(reason, reason) in answer["message"]
        status, answer = client.ask(str(run_folder / "run.json").encode())
        assert status == 400
        status, answer = client.post({"inputs": [str(project.root / "data" / scores["path"][0])]})
        assert status == 400
        assert "nor a file that is served" in answer["message"]
