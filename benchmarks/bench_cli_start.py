"""How soon the command line answers: `aesc --help` against importing all that commands use; `aesc inspect ONE.png`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from aesc.params_file import load_params
from benchmarks.report import alternate, report, timed
from tests.categories import draw_category
from tests.detectors import train_detector

ROOT = Path(__file__).parents[1]
ROUNDS = 2
EAGER = "import typer, torch, pandas, prefect, mlflow, dvc.repo, great_expectations, boto3"


def main() -> None:
    """Measure and print."""
    help_seconds, eager = alternate(lambda: _run("-m", "flows.cli", "--help"), lambda: _run("-c", EAGER), rounds=ROUNDS)
    with tempfile.TemporaryDirectory() as scratch:
        folder = _detector(Path(scratch))
        image = Path(scratch) / "part.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (900, 900, 3)).astype(np.uint8)).save(image)
        command = ("-m", "flows.cli", "inspect", str(image), "--model", str(folder), "--out", f"{scratch}/out")
        inspected = min(timed(lambda: _run(*command, AESC_HOME=scratch)) for _ in range(ROUNDS))
    report(
        "cli_start",
        value=help_seconds,
        unit="s",
        ratio=eager / help_seconds,
        n=ROUNDS,
        inspect_seconds=inspected,
        reference_seconds=eager,
    )


def _detector(scratch: Path) -> Path:
    """A detector at 256 x 256 with 30 passes, hardly trained."""
    short = ["training.epochs=1", "training.images_per_epoch=16", "detection.strategy=combined"]
    params = load_params(ROOT / "params.yaml", preset="paper", overrides=short)
    draw_category(scratch / "data", "widget", train=40, test_good=4)
    detector = train_detector(scratch / "data", "widget", params=params, folder=scratch / "made")
    detector.save(scratch / "detector")
    return scratch / "detector"


def _run(*arguments: str, **env: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, cwd=ROOT, env=os.environ | env, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
