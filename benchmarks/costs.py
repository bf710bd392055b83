"""What quality costs: against images seen in training, passes of MC-Dropout, or the number of clean images.

    python benchmarks/costs.py images --category bottle --data ~/mvtec --values 1000 2000 5000 10000 20000
    python benchmarks/costs.py clean --category bottle --data ~/mvtec --values 25 50 100 209 --seeds 1 2 3
    python benchmarks/costs.py passes .aesc/runs/bottle/<run> --values 2 5 10 30 100 --seeds 1 2 3

Prints one JSON line for each value, seed and strategy, and leaves costs.csv and costs.png in --out. What is finished
there is not computed again. Not among `make bench`: it takes minutes to hours.

Every point is a run of its own, made by what makes those of `aesc retrain` and registered nowhere. With the schedule
`plateau` a longer training takes up the shorter one, which changes nothing: its epochs are the same.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from aesc.errors import AescError
from aesc.files import read_json, write_atomically, write_json
from aesc.manifest import content_digest, save_manifest, scan_category
from aesc.params import STRATEGIES, Params
from aesc.params_file import load_params
from aesc.splits import TEST
from aesc.training import Epoch
from benchmarks.cost_figure import cost_figure
from tasks.calibration import calibrate_threshold
from tasks.evaluation import evaluate_detector
from tasks.preparation import method_digest
from tasks.run_folder import RunFolder, open_run, run_key
from tasks.settings import Settings, prepare_environment
from tasks.training import train_run

METRICS = ("image_auroc", "pixel_auroc", "aupro")
VALUES = {
    "images": [1000, 2000, 5000, 10000, 20000],
    "clean": [25, 50, 100, 209],
    "passes": [2, 5, 10, 30, 100],
}
AXES = {
    "images": "corrupted images seen in training",
    "clean": "clean images, 60 % of them trained on",
    "passes": "passes of MC-Dropout",
}


@dataclass(frozen=True)
class Source:
    """Where a point's images and results are."""

    category: str
    data_root: Path
    runs: Path

    def measure(
        self, params: Params, manifest: pd.DataFrame, *, label: str, train: Callable[[RunFolder], object]
    ) -> RunFolder:
        """The run of these parameters and images, `train` giving it a network; taken from disk if it is there."""
        digest = content_digest(manifest)
        key = run_key(params=params, category=self.category, content_digest=digest, code=method_digest())
        run, lock = open_run(
            self.runs, category=self.category, label=f"{label}-s{params.training.seed}", key=key, resume="auto"
        )
        try:
            if not run.metrics.is_file():
                write_json(run.params_file, params.model_dump(mode="json"))
                save_manifest(manifest, run.manifest_file)
                run.update(data_root=str(self.data_root), data_version={"kind": "content", "version": digest})
                train(run)
                began = time.monotonic()
                evaluate_detector.fn(self.category, str(self.data_root), str(run.path))
                run.update(evaluation_seconds=time.monotonic() - began)
                calibrate_threshold.fn(self.category, str(run.path))
        finally:
            lock.release()
        return run


def of_training(params: Params, **changes: Any) -> Params:
    """`params` with other values in the section `training`."""
    return params.model_copy(update={"training": params.training.model_copy(update=changes)})


def by_images(source: Source, params: Params, manifest: pd.DataFrame, values: Sequence[int]) -> Iterator[RunFolder]:
    """One run for each number of corrupted images.

    Raises:
        AescError: a number is not that of whole epochs.
    """
    size = params.training.images_per_epoch
    if wrong := [value for value in values if value % size]:
        raise AescError(
            f"--values {' '.join(map(str, wrong))}",
            "not whole epochs",
            allowed=f"multiples of training.images_per_epoch, which is {size}",
            todo=f"add --set training.images_per_epoch={math.gcd(*values)}",
            usage=True,
        )
    for value in values:
        point = of_training(params, epochs=value // size)
        yield source.measure(point, manifest, label=f"images-{value}", train=lambda run: train_longer(source, run))


def train_longer(source: Source, run: RunFolder) -> None:
    """Train `run`, from where the longest shorter training of the same images and parameters has ended."""
    params = run.params()
    epochs = params.training.epochs
    content = content_digest(run.manifest())
    family = run_key(params=of_training(params, epochs=1), category=source.category, content_digest=content, code="")
    kept = source.runs / f"checkpoint-{family[:16]}.pt"
    same_so_far = params.training.schedule == "plateau"  # the rate of a cosine depends on where it ends
    if same_so_far and kept.is_file() and not run.checkpoint.is_file():
        found = torch.load(kept, weights_only=True)
        if found["code"] == method_digest() and len(found["history"]) <= epochs:
            del found["code"]
            torch.save({**found, "fingerprint": run.state["key"]}, run.checkpoint)

    def keep(epoch: Epoch) -> None:
        if same_so_far and epoch.epoch + 1 == epochs:
            content = {**torch.load(run.checkpoint, weights_only=True), "code": method_digest()}
            write_atomically(kept, lambda path: torch.save(content, path))

    train_run(run, data_root=source.data_root, on_epoch=keep)


def by_clean(source: Source, params: Params, manifest: pd.DataFrame, values: Sequence[int]) -> Iterator[RunFolder]:
    """One run for each number of clean images, the fewer among the more, drawn by the seed; the test set is whole.

    Raises:
        AescError: there are fewer clean images.
    """
    clean = manifest.index[manifest["split"] != TEST]
    if max(values) > len(clean):
        raise AescError(f"--values {max(values)}", f"{len(clean)} clean images", allowed="at most all", usage=True)
    order = np.random.default_rng(params.training.seed).permutation(clean)
    for value in values:
        few = manifest[~manifest.index.isin(order[value:])].reset_index(drop=True)
        yield source.measure(
            params, few, label=f"clean-{value}", train=lambda run: train_run(run, data_root=source.data_root)
        )


def by_passes(source: Source, trained: RunFolder, seed: int, values: Sequence[int]) -> Iterator[RunFolder]:
    """One run for each number of passes, all with the network of `trained`; `seed` draws the dropout masks."""
    for value in values:
        params = of_training(trained.params(), seed=seed)
        params = params.model_copy(update={"detection": params.detection.model_copy(update={"passes": value})})
        label = f"passes-{value}-{trained.state['key'][:8]}"
        yield source.measure(
            params,
            trained.manifest(),
            label=label,
            train=lambda run: shutil.copytree(trained.network, run.network, dirs_exist_ok=True),
        )


def rows_of(by: str, value: int, run: RunFolder) -> list[dict[str, Any]]:
    """What one run came to, a row a strategy: the metrics over all defects with their bootstrap intervals."""
    found, state = read_json(run.metrics), run.state
    rows = []
    for strategy in STRATEGIES:
        overall = found["strategies"][strategy][0]
        rows.append(
            {
                "name": f"cost_{by}",
                "category": found["category"],
                by: value,
                "seed": found["seed"],
                "strategy": strategy,
                "chosen": found["strategy"] == strategy,
                **{f"{name}{end}": overall[f"{name}{end}"] for name in METRICS for end in ("", "_low", "_high")},
                "training_seconds": state.get("training_seconds"),
                "evaluation_seconds": state["evaluation_seconds"],
                "n": found["n"],
                "data_version": found["data_version"],
                "metric_version": found["metric_version"],
            }
        )
    return rows


def points(asked: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """The rows of every point that was asked for."""
    values = sorted(asked.values or VALUES[asked.by])
    settings = Settings()
    if asked.by == "passes":
        trained = RunFolder(asked.run.resolve())
        data_root = Path(trained.state["data_root"])
        source = Source(trained.state["category"], data_root, asked.out / "runs")
        if wrong := [value for value in values if value < 2]:
            raise AescError(f"--values {wrong[0]}", "no variance", allowed="2 passes or more", usage=True)
    else:
        data_root = (asked.data or settings.data).resolve()
        source = Source(asked.category, data_root, asked.out / "runs")
    for seed in asked.seeds:
        if asked.by == "passes":
            runs = by_passes(source, trained, seed, values)
        else:
            params = load_params(
                asked.params or settings.root / "params.yaml",
                preset=asked.preset,
                category=asked.category,
                overrides=[*asked.overrides, f"training.seed={seed}"],
            )
            manifest = scan_category(data_root, asked.category, data=params.data, cache_folder=settings.cache)
            runs = {"images": by_images, "clean": by_clean}[asked.by](source, params, manifest, values)
        for value, run in zip(values, runs, strict=True):
            yield rows_of(asked.by, value, run)


def caption(rows: Sequence[dict[str, Any]], *, by: str, seeds: int) -> str:
    """What the curves are measured on."""
    first, n = rows[0], rows[0]["n"]
    parts = [
        f"{first['category']}, {n['test_good']} clean and {n['test_defective']} defective test images",
        "1 seed" if seeds == 1 else f"{seeds} seeds: the line is their mean, the band from the lowest to the highest",
        f"metric version {first['metric_version']}",
    ]
    if by != "clean":  # there every number of images is a version of its own
        parts.append(f"data version {first['data_version'][:12]}")
    return ", ".join(parts)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="by", required=True)
    for by, what in AXES.items():
        one = kinds.add_parser(by, help=f"against {what}")
        if by == "passes":
            one.add_argument("run", type=Path, help="folder of a trained run")
        else:
            one.add_argument("--category", required=True)
            one.add_argument("--preset", default="ablation")
            one.add_argument("--data", type=Path, help="folder of categories [default: the project's data]")
            one.add_argument("--params", type=Path, help="parameter file [default: the project's]")
            one.add_argument("--set", dest="overrides", action="append", default=[], metavar="section.key=value")
        one.add_argument("--values", type=int, nargs="+", help=f"[default: {' '.join(map(str, VALUES[by]))}]")
        one.add_argument("--seeds", type=int, nargs="+", default=[1])
        one.add_argument("--out", type=Path, default=Path(f"costs-{by}"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and draw."""
    asked = parse(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    prepare_environment(Settings())
    rows = []
    try:
        for found in points(asked):
            rows += found
            for row in found:
                print(json.dumps(row), flush=True)
    except AescError as error:
        sys.exit(f"error: {error}")
    table = pd.DataFrame([{key: value for key, value in row.items() if key != "n"} for row in rows])
    write_atomically(asked.out / "costs.csv", lambda path: table.to_csv(path, index=False))
    cost_figure(
        table,
        asked.out / "costs.png",
        by=asked.by,
        label=AXES[asked.by],
        caption=caption(rows, by=asked.by, seeds=len(asked.seeds)),
    )


if __name__ == "__main__":
    main()
