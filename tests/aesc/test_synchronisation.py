"""On a GPU the processor must never wait for it within an epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aesc.params_file import load_params
from aesc.pixels import Pixels
from aesc.training import _start, _train_epoch
from aesc.training_step import STEPS_BEFORE_RECORDING

STEPS = STEPS_BEFORE_RECORDING + 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="counts synchronisations of a GPU")
@pytest.mark.parametrize("kind", ["stain", "scratch", "drops", "gaussian", "structured"])
@pytest.mark.parametrize("resident", [True, False])
def test_no_step_waits_for_the_gpu(kind: str, resident: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not resident:
        monkeypatch.setattr("aesc.pixels.RESIDENT_SHARE", 0.0)
    device = torch.device("cuda")
    overrides = [f"corruption.kind={kind}", f"training.images_per_epoch={4 * STEPS}", "training.batch_size=4"]
    overrides += ["corruption.kept_noise=0.05", "network.dropout_in_training=true", "training.schedule=cosine"]
    overrides += [f"network.segmentation={str(kind != 'gaussian').lower()}"]
    params = load_params(Path(__file__).parents[2] / "params.yaml", preset="ablation", overrides=overrides)
    store = np.random.default_rng(0).integers(0, 255, (12, 128, 128, 3)).astype(np.uint8)
    pixels = Pixels(store, np.arange(12), device)
    state = _start(3, params, device)
    state.turns = (0, 1, 2, 3)
    done = 0

    def progress(images: int) -> None:
        nonlocal done
        done += 1
        # Not the first steps, in which libraries set themselves up and one is recorded, nor what follows the last one.
        torch.cuda.set_sync_debug_mode("error" if STEPS_BEFORE_RECORDING + 2 <= done < STEPS else "default")

    try:
        _train_epoch(state, pixels, params=params, device=device, epoch=0, progress=progress)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert done == STEPS
