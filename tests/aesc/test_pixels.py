"""Batches of decoded images."""

from __future__ import annotations

import numpy as np
import torch

from aesc.pixels import Pixels

STORE = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
IMAGES = Pixels(STORE, np.array([5, 0, 3, 1]), torch.device("cpu"))


def test_a_batch_is_what_the_store_holds_in_0_to_1() -> None:
    batch = IMAGES.batch(torch.tensor([2, 0]))
    assert batch.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal((255 * batch.permute(0, 2, 3, 1)).round().numpy(), STORE[[3, 5]])
