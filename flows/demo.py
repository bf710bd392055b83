"""`make demo`: the sample data, one retraining and one inspection, by the same commands that a user would type."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

CATEGORY = "fabric"


def aesc(*arguments: str) -> dict[str, Any]:
    """Run `aesc ARGUMENTS --json`; its report. A failed command ends the demo with its exit code."""
    print(f"$ aesc {' '.join(arguments)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments, "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.returncode)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def main() -> None:
    """Run the demo and say where to look."""
    began = time.monotonic()
    sample = aesc("sample")
    summary = aesc("retrain", "--category", CATEGORY, "--preset", "demo")
    found = aesc("inspect", f"{sample['data']}/{CATEGORY}/test", "--category", CATEGORY)
    counts = found["counts"]
    print(
        f"""
Done in {time.monotonic() - began:.0f} s.
{summary["model"]} version {summary["model_version"]}, strategy {summary["strategy"]}, trained on data version \
{summary["data_version"]}, seed {summary["seed"]}
  image AUROC {summary["image_auroc"]:.3f}, pixel AUROC {summary["pixel_auroc"]:.3f} on \
{summary["n"]["test_good"]} good and {summary["n"]["test_defective"]} defective sample images
  promise: {summary["promise"]["message"]}
  inspected {sum(counts.values())} images: {counts["reject"]} rejected, {counts["pass"]} passed

Where to look:
  the verdicts and heatmaps  {found["gallery"]}
  the run's summary          {summary["run_folder"]}/summary.md
  its figures                {summary["run_folder"]}/figures
  the validation page        {summary["run_folder"]}/validation/index.html
  the registered model       .venv/bin/mlflow ui --backend-store-uri {summary["tracking_uri"]}
Next: bring your own images in with `.venv/bin/aesc import FOLDER`, and see README.md."""
    )


if __name__ == "__main__":
    main()
