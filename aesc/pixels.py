"""Decoded images as float batches on the training device, never waiting for a decoder."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

RESIDENT_SHARE = 0.5  # of a GPU's free memory that images may take


class Pixels:
    """Some rows of a decoded uint8 store, count x side x side x channels.

    On a GPU they are copied there once if they fit; otherwise each batch is gathered from the (memory-mapped) store.

    Args:
        store: all decoded images.
        rows: which of them, in order.
        device: where batches are wanted.
    """

    def __init__(self, store: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], device: torch.device) -> None:
        self._store = store
        self._rows = rows
        self._device = device
        self._resident: Tensor | None = None
        if device.type == "cuda" and len(rows) * store[0].nbytes < RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            self._resident = torch.from_numpy(np.ascontiguousarray(store[rows])).to(device)

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: Tensor, turns: Tensor | None = None) -> Tensor:
        """Images at `indices` (CPU, int64), each turned by its number of quarters, anticlockwise, if `turns` (the same)
        are given: batch x channels x side x side in [0, 1], channels_last.
        """
        # Without waiting for the device: PyTorch would synchronise with it at every plain copy.
        if self._resident is not None:
            pixels = self._resident[indices.to(self._device, non_blocking=True)]
            if turns is not None:
                pixels = _turned_on_device(pixels, turns)
        else:
            gathered = self._store[self._rows[indices.numpy()]]
            if turns is not None:
                _turn(gathered, turns)
            pixels = torch.from_numpy(gathered)
            on_gpu = self._device.type == "cuda"
            pixels = (pixels.pin_memory() if on_gpu else pixels).to(self._device, non_blocking=on_gpu)
        return pixels.permute(0, 3, 1, 2).float().div_(255.0)

    def batches(self, size: int, *, most: int | None = None) -> Iterator[Tensor]:
        """All images in order (the first `most` of them), `size` at a time."""
        for indices in torch.arange(len(self))[:most].split(size):
            yield self.batch(indices)


def _turn(pixels: npt.NDArray[np.uint8], turns: Tensor) -> None:
    """Turn each of batch x side x side x channels, in place; all channels of a pixel are moved at once."""
    whole = pixels.view(np.dtype((np.void, pixels.shape[-1])))[..., 0]
    for image, quarters in zip(whole, turns.tolist(), strict=True):
        if quarters:
            image[:] = np.rot90(image, quarters).copy()


def _turned_on_device(pixels: Tensor, turns: Tensor) -> Tensor:
    """The same, as another batch. No device is asked which images are turned, nor written to by index: where PyTorch is
    to be deterministic it looks at such an index first.
    """
    found = pixels
    for number in turns.unique().tolist():
        if number:
            here = (turns == number)[:, None, None, None].to(pixels.device, non_blocking=True)
            found = torch.where(here, torch.rot90(pixels, number, dims=(1, 2)).contiguous(), found)
    return found
