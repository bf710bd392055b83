"""Convolutions as products: the same numbers as PyTorch's, and only where they pay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aesc.matrix_convolution import _Products, convolve

PRODUCT = "_ProductsBackward"


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("height", "width", "kernel", "stride", "padding"),
    [
        (4, 4, 3, 1, 1),
        (8, 8, 5, 2, 2),
        (3, 5, 3, 1, 1),
        (7, 6, 5, 2, 2),
        (4, 4, 1, 1, 0),
        (5, 5, 3, 3, 0),
        (1, 1, 5, 1, 2),
    ],
)
def test_values_and_gradients_are_those_of_pytorch(
    height: int, width: int, kernel: int, stride: int, padding: int, order: torch.memory_format
) -> None:
    x = normal(3, 4, height, width).to(memory_format=order).requires_grad_()
    weight = normal(6, 4, kernel, kernel, seed=2).to(memory_format=order).requires_grad_()
    found = convolve(x, weight, stride=stride, padding=padding)
    expected = F.conv2d(x, weight, stride=stride, padding=padding)
    assert found.grad_fn is not None
    assert found.grad_fn.name() == PRODUCT
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    upstream = normal(*expected.shape, seed=4)
    for ours, theirs in zip(
        torch.autograd.grad(found, [x, weight], upstream),
        torch.autograd.grad(expected, [x, weight], upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_an_input_without_gradient_is_none_of_its_business() -> None:
    weight = normal(6, 4, 3, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(convolve(normal(2, 4, 4, 4), weight, padding=1).sum(), [weight])
    (expected,) = torch.autograd.grad(F.conv2d(normal(2, 4, 4, 4), weight, padding=1).sum(), [weight])
    torch.testing.assert_close(gradient, expected)


def test_autocast_holds_for_it_too() -> None:
    x = normal(2, 64, 4, 4, dtype=torch.float32).requires_grad_()
    weight = (normal(32, 64, 3, 3, dtype=torch.float32, seed=2) / 24.0).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = convolve(x, weight, padding=1)
    assert found.dtype == torch.bfloat16
    expected = F.conv2d(x, weight, padding=1)
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)
    ours = torch.autograd.grad(found.float().square().sum(), [x, weight])
    theirs = torch.autograd.grad(expected.square().sum(), [x, weight])
    for gradient, exact in zip(ours, theirs, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize(
    ("side", "learns", "biased", "product"),
    [(4, True, False, 1), (8, True, False, 0), (4, False, False, 0), (4, True, True, 0)],
)
def test_it_is_for_small_maps_in_training(
    monkeypatch: pytest.MonkeyPatch, side: int, learns: bool, biased: bool, product: int
) -> None:
    calls: list[Any] = []
    made = _Products.apply
    monkeypatch.setattr(_Products, "apply", lambda *given: calls.append(given) or made(*given))
    x, weight = normal(2, 4, side, side).requires_grad_(), normal(6, 4, 3, 3).requires_grad_(learns)
    bias = normal(6, seed=3) if biased else None
    found = convolve(x, weight, bias, padding=1)
    assert len(calls) == product
    torch.testing.assert_close(found, F.conv2d(x, weight, bias, padding=1))
    with torch.no_grad():
        convolve(x, weight, bias, padding=1)
    assert len(calls) == product
