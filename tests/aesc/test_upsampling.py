from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aesc import upsampling
from aesc.upsampling import UpsampleConv, phase_kernels, upsample_conv


def upsampled_then_convolved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=2)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 9)])
def test_the_four_phases_equal_upsampling_and_a_5x5_convolution(
    dtype: torch.dtype, tolerance: float, with_bias: bool, shape: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 6, *shape, generator=generator, dtype=dtype)
    weight = torch.randn(5, 6, 5, 5, generator=generator, dtype=dtype) / 12.0
    bias = torch.randn(5, generator=generator, dtype=dtype) if with_bias else None
    sources = [tensor.requires_grad_() for tensor in (x, weight, bias) if tensor is not None]

    ours = upsample_conv(x, phase_kernels(weight), bias)
    plain = upsampled_then_convolved(x, weight, bias)
    assert ours.shape == (2, 5, 2 * shape[0], 2 * shape[1])
    torch.testing.assert_close(ours, plain, rtol=0.0, atol=tolerance)

    upstream = torch.randn(ours.shape, generator=generator, dtype=dtype)
    for ours_gradient, plain_gradient in zip(
        torch.autograd.grad(ours, sources, upstream), torch.autograd.grad(plain, sources, upstream), strict=True
    ):
        torch.testing.assert_close(ours_gradient, plain_gradient, rtol=tolerance, atol=tolerance)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The weights whose phases were made."""
    made: list[Tensor] = []

    def noted(weight: Tensor) -> Tensor:
        made.append(weight)
        return phase_kernels(weight)

    monkeypatch.setattr(upsampling, "phase_kernels", noted)
    return made


@pytest.fixture
def layer() -> UpsampleConv:
    layer = UpsampleConv(6, 5).eval()
    torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))
    return layer


X = torch.rand(2, 6, 4, 4, generator=torch.Generator().manual_seed(2))


def test_the_phases_are_kept_while_nothing_learns_and_change_no_bit(layer: UpsampleConv, counted: list[Tensor]) -> None:
    with torch.no_grad():
        expected = upsample_conv(X, phase_kernels(layer.weight), None)
        for _ in range(3):
            assert torch.equal(layer.products(X), expected)
    assert len(counted) == 1


def in_place(weight: Tensor) -> None:
    with torch.no_grad():
        weight.mul_(2.0)


def through_a_view_as_the_optimiser(weight: Tensor) -> None:
    with torch.no_grad():
        weight.detach().permute(0, 2, 3, 1).mul_(2.0)


@pytest.mark.parametrize("change", [in_place, through_a_view_as_the_optimiser])
def test_a_changed_weight_is_seen(layer: UpsampleConv, change: Callable[[Tensor], None]) -> None:
    with torch.inference_mode():
        before = layer.products(X).clone()
    change(layer.weight)
    with torch.inference_mode():
        torch.testing.assert_close(layer.products(X), 2.0 * before)


def test_what_the_version_of_a_weight_does_not_tell_training_makes_forgotten(layer: UpsampleConv) -> None:
    with torch.no_grad():
        before = layer.products(X).clone()
        layer.weight.data.mul_(2.0)
        layer.train()
        layer.eval()
        torch.testing.assert_close(layer.products(X), 2.0 * before)


def test_nothing_is_kept_where_gradients_flow_or_products_are_rounded(
    layer: UpsampleConv, counted: list[Tensor]
) -> None:
    for _ in range(2):
        layer.products(X).sum().backward()
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer.products(X).dtype == torch.bfloat16
    with torch.no_grad():
        assert layer.products(X).dtype == torch.float32
        layer.train().products(X)
    assert len(counted) == 6
    assert layer.weight.grad is not None
