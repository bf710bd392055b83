"""A convolution layer whose weights are drawn by whoever builds the network, not by PyTorch."""

from __future__ import annotations

from torch import nn


class EmptyConv2d(nn.Conv2d):
    """A convolution whose weight is left empty: PyTorch's own initialisation would draw from the global generator (and
    `skip_init`, which avoids it too, imports SymPy for that)."""

    def reset_parameters(self) -> None:
        pass
