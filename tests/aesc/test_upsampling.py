from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aesc import upsampling
from aesc.network import AESc, build_network
from aesc.upsampling import phase_kernels, upsample_conv


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


SIDE = 64


@pytest.fixture
def network() -> AESc:
    stream = torch.Generator().manual_seed(1)
    return build_network(image_size=SIDE, channels=3, skip="concat", dropout=(), generator=stream).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


def test_kept_phases_change_no_bit_and_are_not_made_again(
    network: AESc, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.inference_mode():
        expected = network(images)
    assert network.keep_phases() is network
    monkeypatch.delattr(upsampling, "phase_kernels")
    with torch.inference_mode():
        assert torch.equal(network(images), expected)


@pytest.mark.parametrize("mode", [True, False])
def test_a_change_of_mode_forgets_them(network: AESc, images: Tensor, mode: bool) -> None:
    network.keep_phases()
    network.head.weight.data.zero_()
    network.train(mode)
    with torch.inference_mode():
        assert network(images).unique().tolist() == [0.5]


def test_gradients_flow_past_kept_phases(network: AESc, images: Tensor) -> None:
    expected = torch.autograd.grad(network(images).sum(), list(network.parameters()))
    found = torch.autograd.grad(network.keep_phases()(images).sum(), list(network.parameters()))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_kept_phases_are_not_saved_and_move_with_the_network(network: AESc) -> None:
    names = set(network.state_dict())
    kept = network.keep_phases().double()
    assert set(kept.state_dict()) == names
    with torch.inference_mode():
        assert kept(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.float64)).isfinite().all()
