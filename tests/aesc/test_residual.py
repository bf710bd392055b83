"""Residuals of pixels and of the encoder's maps: what they are, that they add up, and that features see structure."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aesc.network import AESc, build_network
from aesc.params import Detection, ResidualKind
from aesc.residual import PARTS, Part, ResidualPath, residual_parts

SIDE = 64
UNITS: dict[Part, float] = {"pixels": 2.0, "features_2": 0.5, "features_3": 4.0}


@pytest.fixture(scope="module")
def network() -> AESc:
    stream = torch.Generator().manual_seed(1)
    return build_network(image_size=SIDE, channels=3, skip="add", dropout=(0.1,), generator=stream).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


def path(network: AESc, residual: ResidualKind, divisor: Tensor | None = None) -> ResidualPath:
    detection = Detection(
        strategy="residual",
        passes=2,
        residual=residual,
        normalise=divisor is not None,
        smoothing=0.0,
        image_score="l2",
        top_fraction=0.01,
    )
    return ResidualPath(network, detection=detection, parts=UNITS, divisor=divisor)


@torch.inference_mode()
def test_pixels_are_the_paper_s_residual_in_its_own_units(network: AESc, images: Tensor) -> None:
    reconstruction, residual = path(network, "pixels")(images)
    torch.testing.assert_close(residual, (images - reconstruction).abs().sum(dim=1))


@torch.inference_mode()
def test_features_are_differences_of_the_encoder_s_own_maps(network: AESc, images: Tensor) -> None:
    reconstruction = network(images)
    found = residual_parts(network, images, PARTS["features"])[1]
    assert list(found) == ["features_2", "features_3"]
    first, second, third = network.encoder[:3]
    here, there = second(first(images)), second(first(reconstruction))
    expected = (here - there).square().mean(dim=1, keepdim=True).sqrt()
    torch.testing.assert_close(
        found["features_2"], F.interpolate(expected, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]
    )
    here, there = third(here), third(there)
    expected = (here - there).square().mean(dim=1).sqrt()
    assert found["features_3"].mean() == pytest.approx(expected.mean().item(), rel=0.1)


@torch.inference_mode()
def test_both_adds_the_parts_in_their_units(network: AESc, images: Tensor) -> None:
    reconstruction, residual = path(network, "both")(images)
    again, found = residual_parts(network, images, PARTS["both"])
    torch.testing.assert_close(again, reconstruction)
    expected = found["pixels"] / 2.0 + found["features_2"] / 0.5 + found["features_3"] / 4.0
    torch.testing.assert_close(residual, expected)


@torch.inference_mode()
def test_a_divisor_divides_the_map(network: AESc, images: Tensor) -> None:
    divisor = torch.full((SIDE, SIDE), 4.0)
    divisor[:, : SIDE // 2] = 1.0
    _, plain = path(network, "both")(images)
    _, divided = path(network, "both", divisor)(images)
    torch.testing.assert_close(divided * divisor, plain)


@torch.inference_mode()
def test_an_image_that_is_given_back_has_no_residual_of_any_kind(
    network: AESc, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "decode", lambda levels: images)
    _, found = residual_parts(network, images, PARTS["both"])
    assert set(found) == set(PARTS["both"])
    for values in found.values():
        assert values.abs().max() == 0.0
