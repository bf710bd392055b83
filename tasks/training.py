"""Decoding into the cache and training: bound by the GPU, or by all CPU cores."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from prefect import task

from aesc.files import read_json, write_atomically
from tasks.progress import ProgressArtifact
from tasks.run_folder import RunFolder
from tasks.settings import Settings

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from aesc.params import Params
    from aesc.training import Epoch

LOGGER = logging.getLogger("aesc")


def decoded(
    manifest: pd.DataFrame, *, data_root: Path, params: Params
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], int]:
    """The cache's images, the cache row of each image of `manifest`, and the channels; decodes what is missing."""
    from aesc.cache import ImageCache
    from aesc.manifest import category_channels

    channels = category_channels(manifest, params.data)
    cache = ImageCache(Settings().cache, size=params.data.image_size, channels=channels)
    digests = manifest["sha256"].tolist()
    cache.add(
        [(digest, data_root / path) for digest, path in zip(digests, manifest["path"], strict=True)],
        max_megapixels=params.data.max_megapixels,
    )
    return cache.array(), cache.rows(digests), channels


@task(task_run_name="train {category}")
def train_network(category: str, data_root: str, run_folder: str) -> str:
    """Train on the clean images, resuming a checkpoint of the same run; the weights' sha256."""
    run = RunFolder(run_folder)
    epochs = run.params().training.epochs
    report = ProgressArtifact(f"training-{slug(category)}", f"epochs of {category}", epochs)
    return train_run(run, data_root=Path(data_root), on_epoch=lambda epoch: report.update(epoch.epoch + 1))


def train_run(
    run: RunFolder,
    *,
    data_root: Path,
    on_epoch: Callable[[Epoch], None] | None = None,
    most_steps: int | None = None,
) -> str:
    """What `train_network` does, without Prefect; stopped after `most_steps` it leaves losses.npy, but no weights.

    Returns:
        The weights' sha256; "" if it was stopped.
    """
    from aesc.device import describe_device, resolve_device
    from aesc.pixels import Pixels
    from aesc.training import fit
    from aesc.weights import DESCRIPTION, save_network

    if (run.network / DESCRIPTION).is_file():
        LOGGER.info("the interrupted run had finished training: its weights are used")
        return str(read_json(run.network / DESCRIPTION)["weights_sha256"])
    params, manifest = run.params(), run.manifest()
    device = resolve_device(params.training.device)
    store, rows, channels = decoded(manifest, data_root=data_root, params=params)
    split = manifest["split"].to_numpy()

    trained = fit(
        Pixels(store, rows[split == "train"], device),
        Pixels(store, rows[split == "validation"], device),
        channels=channels,
        params=params,
        device=device,
        checkpoint=run.checkpoint if most_steps is None else None,
        fingerprint=run.state["key"],
        on_epoch=on_epoch,
        most_steps=most_steps,
    )
    if trained.resumed_at:
        LOGGER.info("resumed after epoch %d of %d", trained.resumed_at, params.training.epochs)
    write_atomically(run.losses, lambda path: np.save(path, trained.losses.numpy()))
    if len(trained.turned_by) > 1:
        degrees = ", ".join(map(str, trained.turned_by))
        LOGGER.info("clean images look alike turned: the network learnt from them turned by %s degrees", degrees)
    run.update(device=describe_device(device, params.training.precision), turned_by=trained.turned_by)
    if most_steps is not None:
        return ""
    _write_history(run.history, trained.history)
    run.update(best_epoch=trained.best_epoch, training_seconds=trained.history[-1].seconds)
    # Last: a run that is taken up again trains no more once the network is there.
    description = save_network(trained.network, run.network)
    run.checkpoint.unlink(missing_ok=True)
    return description.weights_sha256


def slug(text: str) -> str:
    """Lower-case letters, digits and dashes: what Prefect allows in an artifact's key."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower()).strip("-") or "x"


def _write_history(path: Path, history: list[Epoch]) -> None:
    from aesc.training import Epoch

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Epoch)])
            writer.writeheader()
            writer.writerows(asdict(epoch) for epoch in history)

    write_atomically(path, write)
