"""Many images in one inspection: milliseconds an image and peak memory. `python benchmarks/inspect_many.py 10000`.

Not among `make bench`: it takes minutes. In a scratch clone: the sample's category fabric, a detector of the preset
`demo` trained for one epoch, and COUNT images of 256 x 256 pixels that are turned, moved and brightened copies of its
clean ones. The first run has 300 images, three shards: what the second needs more memory for is the number of images.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import commands, servers
from tests.clones import make_clone
from tests.commands import Project
from tests.repositories import git

FEW = 300
QUICK = ("--set", "training.epochs=1", "--set", "evaluation.bootstrap=0")


def augment(source: list[Path], folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    images = [np.asarray(Image.open(path).resize((256, 256))) for path in source]
    for number in range(count):
        stream = np.random.default_rng(number)
        pixels = np.rot90(images[number % len(images)], stream.integers(4)).astype(float)
        pixels = np.roll(pixels, stream.integers(256, size=2), axis=(0, 1)) * stream.uniform(0.97, 1.03)
        pixels += stream.normal(0, 1, pixels.shape)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{number:06d}.png", compress_level=1)


def inspect(project: Project, source: Path, out: Path) -> dict[str, Any]:
    """Seconds and peak memory of one `aesc inspect`, in a process of its own."""
    command = ["inspect", str(source), "--category", "fabric", "--out", str(out), "--json"]
    began = time.monotonic()
    child = os.fork()
    if child == 0:  # so that the largest of the children is this inspection's
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *command],
            cwd=project.root,
            env=project.environment(),
            stdout=subprocess.PIPE,
            check=False,
        )
        found = json.loads(done.stdout)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
        (out.parent / f"{out.name}.json").write_text(json.dumps({"counts": found["counts"], "peak_megabytes": peak}))
        os._exit(0)
    os.waitpid(child, 0)
    seconds = time.monotonic() - began
    return {"seconds": round(seconds, 1), **json.loads((out.parent / f"{out.name}.json").read_text())}


def main() -> None:
    """Measure and print one JSON line."""
    commands.PATIENCE = 7200
    count = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        root = make_clone(Path(scratch) / "project")
        project = Project(root, Path(scratch) / "state")
        project.aesc("sample")
        subprocess.run([str(servers.executable("dvc")), "add", "--quiet", "data"], cwd=root, check=True)
        git(root, "commit", "--quiet", "--all", "--message=sample")
        project.aesc("retrain", "-c", "fabric", "-p", "demo", *QUICK, "--json")
        clean = sorted((root / "data" / "fabric" / "train" / "good").iterdir())
        for name, images in (("few", FEW), ("many", count)):
            augment(clean, Path(scratch) / name, images)
        size = sum(path.stat().st_size for path in (Path(scratch) / "many").iterdir())
        few = inspect(project, Path(scratch) / "few", Path(scratch) / "out_few")
        many = inspect(project, Path(scratch) / "many", Path(scratch) / "out_many")
        line = {
            "name": "inspect",
            "value": round(1000 * many["seconds"] / count, 2),
            "unit": "ms/image",
            "n": count,
            "mean_kilobytes": round(size / count / 1000, 1),
            "cores": os.cpu_count(),
            "few": {"n": FEW, **few},
            "many": many,
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
