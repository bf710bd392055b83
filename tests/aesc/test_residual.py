"""Residuals of pixels and of the encoder's own maps, and what they are measured in."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from aesc.detection import smooth
from aesc.network import AESc, build_network
from aesc.params import Detection, ResidualKind
from aesc.residual import FEATURE_LEVEL, PARTS, Part, ResidualPath, feature_length, join, residual_parts
from aesc.structural_similarity import structural_dissimilarity
from aesc.whitening import BANDS, whitened_squares

SIDE = 64
UNITS: dict[Part, float] = {"pixels": 2.0, "features": 0.5, "structure": 0.25}
LENGTH = 3.0


@pytest.fixture
def network() -> AESc:
    generator = torch.Generator().manual_seed(1)
    return build_network(image_size=SIDE, channels=3, skip="add", dropout=(), generator=generator).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


def path(network: AESc, residual: ResidualKind, units: Mapping[Part, Tensor | float] = UNITS) -> ResidualPath:
    detection = Detection(
        strategy="residual",
        passes=2,
        residual=residual,
        normalise=False,
        smoothing=0.0,
        image_score="l2",
        top_fraction=0.01,
    )
    return ResidualPath(network, detection=detection, units=units, feature_length=LENGTH)


def parts(
    network: AESc, images: Tensor, kind: ResidualKind, *, smoothing: float = 0.0
) -> tuple[Tensor, dict[Part, Tensor]]:
    return residual_parts(network, images, PARTS[kind], smoothing=smoothing, feature_length=LENGTH)


@torch.inference_mode()
def test_pixels_are_the_paper_s_residual(network: AESc, images: Tensor) -> None:
    reconstruction, residual = path(network, "pixels", {"pixels": 1.0})(images)
    torch.testing.assert_close(reconstruction, network(images))
    torch.testing.assert_close(residual, (images - reconstruction).abs().sum(dim=1))


@torch.inference_mode()
def test_features_are_distances_between_the_encoder_s_shortened_vectors(network: AESc, images: Tensor) -> None:
    reconstruction, found = parts(network, images, "features")
    assert list(found) == ["features"]
    expected = torch.zeros(3, SIDE // 8, SIDE // 8)
    here, there = images, reconstruction
    for down in network.encoder[:3]:
        here, there = down(here), down(there)
    for item in range(3):
        for row in range(SIDE // 8):
            for column in range(SIDE // 8):
                a, b = here[item, :, row, column], there[item, :, row, column]
                expected[item, row, column] = (a / (a.norm() + 0.3 * LENGTH) - b / (b.norm() + 0.3 * LENGTH)).norm()
    # Bilinear interpolation by 8 and the mean of each 2 x 2 around the middle of a cell give the cell back.
    middle = found["features"].unfold(1, 8, 8).unfold(2, 8, 8)[..., 3:5, 3:5].mean(dim=(-1, -2))
    torch.testing.assert_close(middle[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], rtol=0.2, atol=0.02)
    assert found["features"].mean() == pytest.approx(expected.mean().item(), rel=0.02)
    assert found["features"].amax() < 2.0


@torch.inference_mode()
def test_a_faint_place_has_no_direction(network: AESc, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a black background the encoder's vectors are noise: there the distance must not be that of a defect."""
    seen = [torch.zeros(1, 2, SIDE >> level, SIDE >> level) for level in range(1, 4)]
    seen[FEATURE_LEVEL][0, 0] = 0.01
    monkeypatch.setattr(network, "encode", lambda _: seen)
    monkeypatch.setattr(network, "decode", lambda _: images[:1])
    monkeypatch.setattr(
        network, "encoder", torch.nn.ModuleList([Turned(seen[FEATURE_LEVEL])] + 2 * [torch.nn.Identity()])
    )
    _, found = parts(network, images[:1], "features")
    assert found["features"].max() < 0.02, "perpendicular vectors of full length would be 1.4 apart"


class Turned(torch.nn.Module):
    """Perpendicular to what was seen."""

    def __init__(self, seen: Tensor) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, _: Tensor) -> Tensor:
        return self.seen.flip(1)


@torch.inference_mode()
def test_both_joins_the_parts_in_their_units(network: AESc, images: Tensor) -> None:
    reconstruction, residual = path(network, "both")(images)
    again, found = parts(network, images, "both")
    torch.testing.assert_close(again, reconstruction)
    expected = (((found["pixels"] / 2.0) ** 4 + (found["features"] / 0.5) ** 4) / 2) ** 0.25
    torch.testing.assert_close(residual, expected)


@torch.inference_mode()
def test_all_joins_how_the_two_vary_too(network: AESc, images: Tensor) -> None:
    reconstruction, residual = path(network, "all")(images)
    _, found = parts(network, images, "all")
    torch.testing.assert_close(found["structure"], structural_dissimilarity(images, reconstruction))
    of_parts = torch.stack([found[name] / UNITS[name] for name in ("pixels", "features", "structure")])
    torch.testing.assert_close(residual, (of_parts**4).mean(dim=0) ** 0.25)


@torch.inference_mode()
def test_a_unit_may_differ_from_place_to_place(network: AESc, images: Tensor) -> None:
    place = torch.full((SIDE, SIDE), 4.0)
    place[:, : SIDE // 2] = 1.0
    _, plain = path(network, "both", {"pixels": 1.0, "features": 1.0})(images)
    _, divided = path(network, "both", {"pixels": place, "features": place})(images)
    torch.testing.assert_close(divided * place, plain)


def test_a_defect_has_to_show_in_one_part() -> None:
    clean, defective = torch.ones(1, 2, 2), torch.full((1, 2, 2), 8.0)
    torch.testing.assert_close(join([defective]), defective)
    torch.testing.assert_close(join([clean, clean]), clean)
    assert join([clean, defective]).min() > 6.5
    torch.testing.assert_close(join([clean, defective]), join([defective, clean]))


@torch.inference_mode()
def test_parts_are_smoothed_before_they_are_measured(network: AESc, images: Tensor) -> None:
    _, rough = parts(network, images, "all")
    _, soft = parts(network, images, "all", smoothing=2.0)
    for name in PARTS["all"]:
        assert soft[name].std() < rough[name].std()


@torch.inference_mode()
def test_whitened_pixels_take_the_place_of_their_sum(network: AESc, images: Tensor) -> None:
    matrices = [torch.eye(3) * (number + 1) for number in range(BANDS)]
    reconstruction, found = residual_parts(
        network, images, PARTS["both"], smoothing=1.0, feature_length=LENGTH, whitening=matrices
    )
    _, plain = parts(network, images, "both", smoothing=1.0)
    expected = smooth(whitened_squares(images - reconstruction, matrices), 1.0).sqrt()
    torch.testing.assert_close(found["pixels"], expected)
    torch.testing.assert_close(found["features"], plain["features"])
    assert (found["pixels"] - plain["pixels"]).abs().max() > 0.1


@torch.inference_mode()
def test_the_length_of_a_feature_vector_is_one_number_an_image(network: AESc, images: Tensor) -> None:
    maps = network.encode(images)[FEATURE_LEVEL]
    torch.testing.assert_close(feature_length(network, images), maps.norm(dim=1).mean(dim=(1, 2)))


@torch.inference_mode()
def test_an_image_that_is_given_back_has_no_residual_of_any_kind(
    network: AESc, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "decode", lambda levels: images)
    _, found = parts(network, images, "all")
    assert set(found) == set(PARTS["all"])
    for values in found.values():
        assert values.abs().max() == 0.0
