"""Training convolutions as matrix products where maps have a few pixels and kernels are large: around the bottleneck.

There a convolution library takes several times as long for the gradients as one product of all windows with all kernels
(Chellapilla, Puri & Simard, "High Performance Convolutional Neural Networks for Document Processing", 2006).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

MOST_PIXELS = 16


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0) -> Tensor:
    """`F.conv2d`, faster in training on a CPU; the same sums, in another order.

    Args:
        x: batch x maps_in x height x width.
        weight: maps_out x maps_in x side x side.
        bias: maps_out, or None; with one it is `F.conv2d`.
        stride: of both axes.
        padding: of zeros, on all four edges.

    Returns:
        batch x maps_out x height x width.
    """
    if bias is not None or not _pays(x, weight, stride, padding):
        return F.conv2d(x, weight, bias, stride=stride, padding=padding)
    if torch.is_autocast_enabled(x.device.type):
        low = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(low), weight.to(low)
    products: Tensor = _Products.apply(x, weight, stride, padding)  # type: ignore[no-untyped-call]  # PyTorch's
    return products


def _pays(x: Tensor, weight: Tensor, stride: int, padding: int) -> bool:
    """Without gradients little is gained, and an exported network (ONNX) should have convolutions in it."""
    if x.device.type != "cpu" or not (torch.is_grad_enabled() and weight.requires_grad):
        return False
    height, width = (_steps(side, weight.shape[-1], stride, padding) for side in x.shape[2:])
    return height * width <= MOST_PIXELS


def _steps(side: int, kernel: int, stride: int, padding: int) -> int:
    return (side + 2 * padding - kernel) // stride + 1


class _Products(torch.autograd.Function):
    """Windows (batch, y, x) x (kernel y, kernel x, maps_in) times kernels; in channels_last memory both are views."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        windows = _windows(x.permute(0, 2, 3, 1), weight.shape[-1], stride, padding)
        kernels = weight.permute(0, 2, 3, 1).flatten(1)
        ctx.save_for_backward(windows, kernels)
        ctx.shape, ctx.kernel, ctx.stride, ctx.padding = x.shape, weight.shape[-1], stride, padding
        return (windows.flatten(3) @ kernels.t()).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        windows, kernels = ctx.saved_tensors
        upstream = gradients[0].permute(0, 2, 3, 1).flatten(0, 2)
        of_kernels = upstream.t() @ windows.flatten(3).flatten(0, 2)
        of_weight = of_kernels.unflatten(1, windows.shape[3:]).permute(0, 3, 1, 2)
        if not ctx.needs_input_grad[0]:
            return None, of_weight, None, None
        of_windows = (upstream @ kernels).view_as(windows)
        return _fold(of_windows, ctx.shape, ctx.stride, ctx.padding), of_weight, None, None


def _windows(x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """batch x height x width x maps to a copy, batch x steps down x steps across x kernel x kernel x maps."""
    padded = F.pad(x, (0, 0, padding, padding, padding, padding))
    return padded.unfold(1, kernel, stride).unfold(2, kernel, stride).permute(0, 1, 2, 4, 5, 3).contiguous()


def _fold(windows: Tensor, shape: torch.Size, stride: int, padding: int) -> Tensor:
    """Each pixel's sum over the windows that it is in, batch x maps x height x width; summed in float32 at least."""
    batch, maps, height, width = shape
    down, across, kernel = windows.shape[1:4]
    precise = torch.promote_types(windows.dtype, torch.float32)
    total = windows.new_zeros((batch, height + 2 * padding, width + 2 * padding, maps), dtype=precise)
    for y in range(kernel):
        for x in range(kernel):
            total[:, y : y + stride * down : stride, x : x + stride * across : stride] += windows[:, :, :, y, x]
    inside = total[:, padding : padding + height, padding : padding + width]
    return inside.to(windows.dtype).permute(0, 3, 1, 2)
