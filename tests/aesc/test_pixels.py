"""Batches of decoded images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aesc.pixels import Pixels

STORE = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
IMAGES = Pixels(STORE, np.array([5, 0, 3, 1]), torch.device("cpu"))


def test_a_batch_is_what_the_store_holds_in_0_to_1() -> None:
    batch = IMAGES.batch(torch.tensor([2, 0]))
    assert batch.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal((255 * batch.permute(0, 2, 3, 1)).round().numpy(), STORE[[3, 5]])


@pytest.mark.parametrize("resident", [False, True])
def test_each_image_is_turned_by_its_own_number_of_quarters(resident: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if resident:  # as on a GPU
        monkeypatch.setattr(IMAGES, "_resident", torch.from_numpy(STORE[[5, 0, 3, 1]]))
    batch = IMAGES.batch(torch.tensor([2, 0, 1, 3]), torch.tensor([1, 0, 3, 2]))
    assert batch.is_contiguous(memory_format=torch.channels_last)
    expected = [np.rot90(STORE[row], quarters) for row, quarters in ((3, 1), (5, 0), (0, 3), (1, 2))]
    np.testing.assert_array_equal((255 * batch.permute(0, 2, 3, 1)).round().numpy(), expected)
    np.testing.assert_array_equal(
        (255 * IMAGES.batch(torch.tensor([2])).permute(0, 2, 3, 1)).round().numpy(), STORE[[3]]
    )
