"""Training and MC-Dropout at 256 x 256 RGB on a CUDA device, against the plain network there; nothing without one.

Training is timed as `aesc retrain` does it: whole epochs of `aesc.training.fit` with their validation, the first one
not counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from aesc.detection import mc_dropout_variance
from aesc.device import multiply_in_float32
from aesc.params_file import load_params
from aesc.pixels import Pixels
from aesc.training import Epoch, fit
from benchmarks.bench_mc_dropout import PASSES, RATES, networks
from benchmarks.reference.mc_dropout import plain_variance
from benchmarks.reference.network import PlainAESc
from benchmarks.report import report, timed

CLEAN, VALIDATION = 167, 42  # MVTec AD's bottle
EPOCHS = 4
ROUNDS = 5
GOAL = {"train": 10_000, "mc_dropout": 1_000}  # images a second


def main() -> None:
    """Measure and print."""
    if not torch.cuda.is_available():
        print("bench_gpu: no CUDA device, nothing to measure", file=sys.stderr)
        return
    device = torch.device("cuda")
    plain, theirs = _plain_step(device), _passes(device, _reference(device))  # as PyTorch comes, with TensorFloat-32
    multiply_in_float32()
    for preset in ("paper", "best"):
        found = {f"batch_{size}": _training(preset, device, f"training.batch_size={size}") for size in (4, 8, 16, 64)}
        report(
            f"train_gpu_{preset}",
            value=found["batch_16"],
            unit="images/s",
            ratio=found["batch_16"] / plain,
            n=1,
            epochs=EPOCHS - 1,
            goal=GOAL["train"],
            device=torch.cuda.get_device_name(device),
            reference=plain,
            float32=_training(preset, device, "training.batch_size=16", "training.precision=float32"),
            **found,
        )
    mine = _passes(device, _ours(device))
    report(
        "mc_dropout_gpu",
        value=mine[16],
        unit="images/s",
        ratio=mine[16] / theirs[16],
        n=ROUNDS,
        goal=GOAL["mc_dropout"],
        device=torch.cuda.get_device_name(device),
        **{f"batch_{size}": rate for size, rate in mine.items()},
        **{f"reference_batch_{size}": rate for size, rate in theirs.items()},
    )


def _training(preset: str, device: torch.device, *overrides: str) -> float:
    """Images a second of whole epochs."""
    params = load_params(
        Path(__file__).parents[1] / "params.yaml", preset=preset, overrides=[f"training.epochs={EPOCHS}", *overrides]
    )
    store = np.random.default_rng(0).integers(0, 255, (CLEAN + VALIDATION, 256, 256, 3)).astype(np.uint8)
    train, validation = (
        Pixels(store, rows, device) for rows in (np.arange(CLEAN), np.arange(CLEAN, CLEAN + VALIDATION))
    )
    epochs: list[Epoch] = []
    fit(train, validation, channels=3, params=params, device=device, on_epoch=epochs.append)
    first, last = epochs[0], epochs[-1]
    return (last.images_seen - first.images_seen) / (last.seconds - first.seconds)


def _plain_step(device: torch.device) -> float:
    """Images a second of the plain network's steps, without corruption."""
    images = torch.rand(16, 3, 256, 256, device=device)
    network = PlainAESc().to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)

    def step() -> None:
        optimiser.zero_grad()
        F.mse_loss(network(images), images).backward()
        optimiser.step()

    return len(images) / _least(step)


def _ours(device: torch.device) -> Callable[[torch.Tensor], object]:
    network = networks()[0].to(device)
    return lambda images: mc_dropout_variance(network, images, passes=PASSES, seed=1)


def _reference(device: torch.device) -> Callable[[torch.Tensor], object]:
    plain = networks()[1].to(device)
    stream = torch.Generator(device).manual_seed(1)
    return lambda images: plain_variance(plain, images.contiguous(), RATES, passes=PASSES, stream=stream)


def _passes(device: torch.device, function: Callable[[torch.Tensor], object]) -> dict[int, float]:
    """Images a second of 30 passes, by the number of images that go through together."""
    found = {}
    for size in (1, 16, 64):
        images = torch.rand(size, 3, 256, 256, device=device).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            found[size] = size / _least(lambda images=images: function(images))
    return found


def _least(function: Callable[[], object]) -> float:
    """Least seconds of a call, the device's work included; the first ones are not counted."""

    def whole() -> None:
        function()
        torch.cuda.synchronize()

    for _ in range(3):
        whole()
    return min(timed(whole) for _ in range(ROUNDS))


if __name__ == "__main__":
    main()
