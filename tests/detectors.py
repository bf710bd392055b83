"""A detector that is trained and calibrated for real, small enough for a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from aesc.cache import ImageCache
from aesc.detector import Detector
from aesc.manifest import scan_category
from aesc.normalisation import save_place_maps
from aesc.operating_point import calibrate
from aesc.params import Params
from aesc.pixels import Pixels
from aesc.scoring import Scorer, measure_reference
from aesc.training import fit
from aesc.weights import save_network

CPU = torch.device("cpu")


def train_detector(data_root: Path, category: str, *, params: Params, folder: Path) -> Detector:
    """Train on the category's own splits; `detection.strategy` must not be "auto". Files go into `folder`."""
    manifest = scan_category(data_root, category, data=params.data, cache_folder=folder)
    clean = manifest[manifest["split"] != "test"]
    cache = ImageCache(folder, size=params.data.image_size, channels=3)
    items = [(sha256, data_root / path) for sha256, path in zip(clean["sha256"], clean["path"], strict=True)]
    cache.add(items, max_megapixels=params.data.max_megapixels)

    def pixels(split: str) -> Pixels:
        return Pixels(cache.array(), cache.rows(clean.loc[clean["split"] == split, "sha256"].tolist()), CPU)

    network = fit(pixels("train"), pixels("validation"), channels=3, params=params, device=CPU).network
    seed = params.training.seed
    scales, place_maps = measure_reference(network, pixels("validation"), detection=params.detection, seed=seed)
    scorer = Scorer(network, detection=params.detection, seed=seed, scales=scales, place_maps=place_maps)
    images = cache.take(clean.loc[clean["split"] == "calibration", "sha256"].tolist())
    scored = scorer(torch.from_numpy(np.moveaxis(images, 3, 1)).float() / 255.0)
    scores = pd.DataFrame({name: values.double().numpy() for name, values in scored.scores.items()})
    point = calibrate(
        scores.assign(split="calibration", corruption=""),
        params=params,
        category=category,
        data_version="none",
        weights_sha256=save_network(network, folder / "network").weights_sha256,
        channels=3,
        scales=scales,
        divisors_sha256=save_place_maps(place_maps, folder / "network"),
    )
    return Detector(network, point, place_maps)
