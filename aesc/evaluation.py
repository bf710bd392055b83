"""Scoring all that calibration and measurement need: calibration images, clean and corrupted, and the test set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from aesc.corruption import corrupt
from aesc.images import read_mask
from aesc.params import STRATEGIES, LocalKind, Params
from aesc.pixels import Pixels
from aesc.scoring import INFERENCE_BATCH, Scorer
from aesc.seeding import Stream, generator

SYNTHETIC = "synthetic "  # prefix of the defect types that stand in where a product has no defective test images


@dataclass(frozen=True)
class Job:
    """Images of one split, as they are or with one kind of corruption."""

    rows: pd.DataFrame
    split: str
    corruption: LocalKind | None = None
    synthetic: bool = False


def held_out_kinds(params: Params) -> list[LocalKind]:
    """The corruptions that choose residual and strategy: those asked for, without the one that training uses."""
    return [kind for kind in params.calibration.held_out if kind != params.corruption.kind]


def plan_jobs(manifest: pd.DataFrame, params: Params) -> list[Job]:
    """What to score: calibration images, clean and with every held-out corruption, then the test set.

    Without defective test images the held-out corruptions of clean test images (of validation images, if there are
    none) stand in for defects, drawn anew: none of them has chosen the strategy.
    """
    calibration = manifest[manifest["split"] == "calibration"]
    test = manifest[manifest["split"] == "test"]
    kinds = held_out_kinds(params)
    jobs = [Job(calibration, "calibration"), *(Job(calibration, "calibration", kind) for kind in kinds)]
    if len(test):
        jobs.append(Job(test, "test"))
    if not (test["label"] == 1).any():
        clean = test if len(test) else manifest[manifest["split"] == "validation"]
        if not len(test):
            jobs.append(Job(clean, "test"))
        jobs += [Job(clean, "test", kind, synthetic=True) for kind in kinds]
    return jobs


class JobImages(NamedTuple):
    """A batch of a job: images, batch x channels x side x side on their device, and what of them was corrupted, batch x
    1 x side x side, bool; None of images as they are."""

    images: Tensor
    mask: Tensor | None


def job_images(pixels: Pixels, number: int, corruption: LocalKind | None, params: Params) -> Iterator[JobImages]:
    """The batches of a job's images, `pixels`; what is drawn on them depends on its `number` (in `plan_jobs`)."""
    stream = generator(params.training.seed, Stream.HELD_OUT, number)
    for clean in pixels.batches(INFERENCE_BATCH):
        if corruption is None:
            yield JobImages(clean, None)
            continue
        # On the CPU, whatever the device: the same images must choose.
        kind = params.corruption.model_copy(update={"kind": corruption})
        images, mask = corrupt(clean.cpu(), params=kind, generator=stream)
        yield JobImages(images.to(clean.device), mask)


class TestMaps:
    """What the figures and pixel metrics need of the test images, memory-mapped so that any number of images fits.

    One file a name, images first: the strategies' maps (float32) and "mask" (bool), count x side x side; "input" and
    "reconstruction" (uint8), count x side x side x channels.
    """

    __test__ = False  # not a test, whatever pytest thinks of the name

    def __init__(self, folder: Path, *, count: int, side: int, channels: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        flat, deep = (count, side, side), (count, side, side, channels)
        layout: dict[str, tuple[type, tuple[int, ...]]] = dict.fromkeys(STRATEGIES, (np.float32, flat))
        layout |= {"mask": (np.bool_, flat), "input": (np.uint8, deep), "reconstruction": (np.uint8, deep)}
        self._files = {
            name: np.lib.format.open_memmap(folder / f"test_{name}.npy", mode="w+", dtype=dtype, shape=shape)
            for name, (dtype, shape) in layout.items()
        }

    def write(self, name: str, start: int, values: npt.NDArray[Any]) -> None:
        """Store `values` (batch first) from image `start` on."""
        self._files[name][start : start + len(values)] = values

    @staticmethod
    def read(folder: Path, name: str) -> npt.NDArray[Any]:
        """What was stored under `name`, memory-mapped."""
        found: npt.NDArray[Any] = np.load(folder / f"test_{name}.npy", mmap_mode="r")
        return found


def evaluate(
    scorer: Scorer,
    manifest: pd.DataFrame,
    store: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64],
    *,
    data_root: Path,
    folder: Path,
    params: Params,
    device: torch.device,
) -> pd.DataFrame:
    """Score every image that matters and keep the test maps.

    Args:
        scorer: of the trained network.
        manifest: of the category; `rows` has the row of `store` for each of its images.
        store: decoded images, count x side x side x channels.
        data_root: where the manifest's mask paths start.
        folder: gets the maps.

    Returns:
        One row a scored image: path, sha256, split, defect, label, corruption ("" for none), has_mask, map_index (into
        the stored test maps, -1 outside the test set), and `<strategy>_<score>` and `<strategy>_peak` columns.
    """
    at = dict(zip(manifest.index, rows, strict=True))
    jobs = plan_jobs(manifest, params)
    tests = sum(len(job.rows) for job in jobs if job.split == "test")
    maps = TestMaps(folder, count=tests, side=params.data.image_size, channels=store.shape[-1])
    frames: list[pd.DataFrame] = []
    stored = 0
    with tqdm(total=sum(len(job.rows) for job in jobs), unit="img", desc="evaluate", disable=None) as bar:
        for number, job in enumerate(jobs):
            pixels = Pixels(store, np.array([at[index] for index in job.rows.index], dtype=np.int64), device)
            start = 0
            for images, drawn in job_images(pixels, number, job.corruption, params):
                batch = job.rows.iloc[start : start + len(images)]
                start += len(images)
                scored = scorer(images)
                frame = _describe(batch, job, drawn)
                for name, values in scored.scores.items():
                    frame[name] = values.cpu().double().numpy()
                frame["map_index"] = -1
                if job.split == "test":
                    frame["map_index"] = np.arange(stored, stored + len(batch))
                    for strategy, values in scored.maps.items():
                        maps.write(strategy, stored, values.cpu().numpy())
                    maps.write("mask", stored, _masks(batch, drawn, data_root, params))
                    maps.write("input", stored, _as_uint8(images))
                    maps.write("reconstruction", stored, _as_uint8(scored.reconstruction))
                    stored += len(batch)
                frames.append(frame)
                bar.update(len(batch))
    return pd.concat(frames, ignore_index=True)


def _describe(batch: pd.DataFrame, job: Job, drawn: Tensor | None) -> pd.DataFrame:
    frame = batch[["path", "sha256", "defect", "label"]].copy()
    frame["split"] = job.split
    frame["corruption"] = job.corruption or ""
    frame["has_mask"] = batch["mask_path"].notna() | (batch["label"] == 0)
    if job.synthetic:
        frame["defect"] = f"{SYNTHETIC}{job.corruption}"
    if drawn is not None:
        frame["label"] = 1
    return frame


def _masks(batch: pd.DataFrame, drawn: Tensor | None, data_root: Path, params: Params) -> npt.NDArray[np.bool_]:
    if drawn is not None:
        return drawn[:, 0].cpu().numpy()
    side = params.data.image_size
    empty = np.zeros((side, side), dtype=np.bool_)
    return np.stack(
        [
            read_mask(data_root / path, size=side, max_megapixels=params.data.max_megapixels)
            if isinstance(path, str)
            else empty
            for path in batch["mask_path"]
        ]
    )


def _as_uint8(images: Tensor) -> npt.NDArray[np.uint8]:
    return (images * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
