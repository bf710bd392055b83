"""Many arrivals in one ingest: seconds by stage and peak memory. `python benchmarks/ingest_many.py 10000 [s3]`.

Not among `make bench`: it takes minutes. In a scratch clone: 60 accepted images of 128 x 128 noisy pixels, a
small champion trained for one epoch, and COUNT arrivals in an inbox folder, or on a SeaweedFS of its own.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import commands, servers
from tests.clones import make_clone
from tests.commands import Project
from tests.repositories import git

PRESET = {
    "data": {"image_size": 64},  # a small network: what is measured is the pipeline
    "training": {"epochs": 1, "images_per_epoch": 64, "batch_size": 8},
    "detection": {"passes": 2, "image_score": "top"},
    "evaluation": {"bootstrap": 0},
}


def draw(path: Path, number: int) -> None:
    """An image of its own: soft shapes, so that perceptual hashes differ, and noise, so that a file has 50 KB."""
    stream = np.random.default_rng(number)
    soft = np.asarray(
        Image.fromarray(stream.uniform(60, 190, (8, 8)).astype(np.float32)).resize((128, 128), Image.Resampling.BICUBIC)
    )
    pixels = np.clip(soft[..., None] + stream.normal(0, 20, (128, 128, 3)), 0, 255)
    Image.fromarray(pixels.astype(np.uint8)).save(path, compress_level=1)


def fill(folder: Path, numbers: range) -> None:
    folder.mkdir(parents=True)
    for number in numbers:
        path = folder / f"{number:06d}.png"
        draw(path, number)
        os.utime(path, (time.time() - 60, time.time() - 60))


def main() -> None:
    """Measure and print one JSON line."""
    commands.PATIENCE = 7200
    count, on_s3 = int(sys.argv[1]), "s3" in sys.argv[2:]
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        root = make_clone(Path(scratch) / "project")
        params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
        params["presets"]["many"] = PRESET
        (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        fill(root / "data" / "noise" / "train" / "good", range(60))
        project = Project(root, Path(scratch) / "state")
        subprocess.run([str(servers.executable("dvc")), "add", "--quiet", "data"], cwd=root, check=True)
        git(root, "commit", "--quiet", "--all", "--message=noise")
        project.aesc("retrain", "-c", "noise", "-p", "many", "--json")
        inbox = Path(scratch) / "inbox" / "noise"
        fill(inbox, range(1000, 1000 + count))
        size = sum(path.stat().st_size for path in inbox.iterdir())
        env, source = {}, str(inbox)
        if on_s3:
            server = stack.enter_context(servers.s3_server(Path(scratch) / "s3", buckets=("dvc", "arrivals")))
            env, source = {**server.env, "AESC_DVC_REMOTE": "s3://dvc"}, "s3://arrivals/noise"
            client = servers.s3_client(env)
            with ThreadPoolExecutor(16) as pool:
                list(
                    pool.map(
                        lambda path: client.upload_file(str(path), "arrivals", f"noise/{path.name}"), inbox.iterdir()
                    )
                )
        began = time.monotonic()
        report = project.aesc("ingest", "-c", "noise", "-s", source, "-p", "many", "--json", **env).report
        total = time.monotonic() - began
        (found,) = report["categories"]
        line = {
            "name": "ingest",
            "value": round(total, 1),
            "unit": "s",
            "n": count,
            "source": "s3" if on_s3 else "folder",
            "mean_kilobytes": round(size / count / 1000, 1),
            "accepted": found["accepted"],
            "quarantined": found["reasons"],
            "seconds": found["seconds"],
            # The largest of the processes that were waited for: the ingest; the training before it is smaller.
            "peak_megabytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
