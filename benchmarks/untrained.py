"""A detector that was never trained, calibrated on its own scores: for what depends on its size, not on its sight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from aesc.detector import Detector
from aesc.network import network_for
from aesc.normalisation import save_place_maps
from aesc.operating_point import calibrate
from aesc.params_file import load_params
from aesc.pixels import Pixels
from aesc.scoring import Scorer, measure_reference
from aesc.weights import save_network

ROOT = Path(__file__).parents[1]


def striped_image(side: int, number: int, *, channels: int = 3) -> npt.NDArray[np.uint8]:
    """side x side x channels: wavy stripes with noise of their own."""
    random = np.random.default_rng(number)
    rows, columns = np.mgrid[:side, :side] / side
    waves = 120 + 40 * np.sin(6.3 * (3 * rows + 2 * columns) + random.uniform(0, 6.3))
    noise = random.normal(0, 4 + number % 5, (side, side, channels))
    return np.clip(waves[..., None] + noise, 0, 255).astype(np.uint8)


def untrained_detector(folder: Path, *overrides: str, side: int = 256, channels: int = 3, images: int = 20) -> Detector:
    """A detector with random weights, its thresholds from `images` striped images; saved in `folder`/detector."""
    params = load_params(
        ROOT / "params.yaml",
        preset="ablation",
        overrides=[f"data.image_size={side}", "detection.strategy=residual", *overrides],
    )
    network = network_for(params, channels=channels, generator=torch.Generator().manual_seed(0)).eval()
    clean = np.stack([striped_image(side, number, channels=channels) for number in range(images)])
    pixels, seed = Pixels(clean, np.arange(images), torch.device("cpu")), params.training.seed
    scales, place_maps = measure_reference(network, pixels, detection=params.detection, seed=seed)
    scorer = Scorer(network, detection=params.detection, seed=seed, scales=scales, place_maps=place_maps)
    scored = scorer(pixels.batch(torch.arange(images)))
    point = calibrate(
        pd.DataFrame({name: values.double().numpy() for name, values in scored.scores.items()}).assign(
            split="calibration", corruption=""
        ),
        params=params,
        category="stripes",
        data_version="none",
        weights_sha256=save_network(network, folder / "detector").weights_sha256,
        channels=channels,
        scales=scales,
        divisors_sha256=save_place_maps(place_maps, folder / "detector"),
    )
    detector = Detector(network, point, place_maps)
    detector.save(folder / "detector")
    return detector
