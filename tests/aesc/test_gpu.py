"""A GPU gives what a CPU gives: a threshold that was calibrated on one must hold on the other."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from aesc.detection import mc_dropout_variance
from aesc.device import multiply_in_float32
from aesc.mc_dropout import StochasticPasses
from aesc.network import AESc, Skip, build_network, network_for
from aesc.params_file import load_params
from aesc.pixels import Pixels
from aesc.scoring import Scored, Scorer, measure_reference
from aesc.structural_similarity import structural_dissimilarity
from aesc.structured import paint_structured
from aesc.upsampling import interleave_phases
from tests.aesc.test_structured import PARAMS

PARAMS_FILE = Path(__file__).parents[2] / "params.yaml"

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="compares a GPU with the CPU")


def networks(skip: Skip = "add") -> tuple[AESc, AESc]:
    """The same network on the CPU and on the GPU."""
    stream = torch.Generator().manual_seed(0)
    network = build_network(
        image_size=128, channels=3, skip=skip, dropout=(0.0, 0.0, 0.1, 0.2, 0.3), generator=stream
    ).eval()
    multiply_in_float32()
    return network, copy.deepcopy(network).cuda()


def images(count: int) -> torch.Tensor:
    drawn = torch.rand(count, 128, 128, 3, generator=torch.Generator().manual_seed(1))
    return drawn.permute(0, 3, 1, 2)


def test_reconstructions_agree() -> None:
    on_cpu, on_gpu = networks()
    with torch.inference_mode():
        found, expected = on_gpu(images(4).cuda()).cpu(), on_cpu(images(4))
    torch.testing.assert_close(found, expected, rtol=0.0, atol=2e-5)


def test_what_the_head_marks_agrees() -> None:
    stream = torch.Generator().manual_seed(0)
    on_cpu = build_network(
        image_size=128, channels=3, skip="add", dropout=(), generator=stream, segmentation=True
    ).eval()
    multiply_in_float32()
    assert on_cpu.segmentation is not None
    on_gpu = copy.deepcopy(on_cpu.segmentation).cuda()
    given_back = images(4).flip(2)
    with torch.inference_mode():
        found = on_gpu(images(4).cuda(), given_back.cuda()).cpu()
        torch.testing.assert_close(found, on_cpu.segmentation(images(4), given_back), rtol=1e-4, atol=1e-4)


def test_structural_dissimilarity_agrees() -> None:
    """Also where little varies, so that variances are differences of nearly equal numbers."""
    nearly_flat = 0.9 + images(4) / 255.0
    for seen in (images(4), nearly_flat):
        found = structural_dissimilarity(seen.cuda(), seen.flip(2).cuda()).cpu()
        torch.testing.assert_close(found, structural_dissimilarity(seen, seen.flip(2)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("skip", ["add", "none", "concat"])
@pytest.mark.parametrize("count", [1, 5])
def test_the_variance_over_passes_agrees(skip: Skip, count: int) -> None:
    on_cpu, on_gpu = networks(skip)
    with torch.inference_mode():
        ours = StochasticPasses(on_cpu, bfloat16=False).variance(images(count), passes=30, seed=3)
        theirs = StochasticPasses(on_gpu, bfloat16=False).variance(images(count).cuda(), passes=30, seed=3).cpu()
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-9)
    rounded = mc_dropout_variance(on_gpu, images(count).cuda(), passes=30, seed=3).cpu()  # in bfloat16 where it may
    torch.testing.assert_close(rounded.mean(), ours.mean(), rtol=0.01, atol=0.0)


def test_phases_are_interleaved_as_pytorch_shuffles_them() -> None:
    x = torch.rand(3, 8, 5, 7).contiguous(memory_format=torch.channels_last)
    found = interleave_phases(x.cuda())
    maps_first = x.unflatten(1, (4, 2)).transpose(1, 2).flatten(1, 2)
    assert torch.equal(found.cpu(), torch.nn.functional.pixel_shuffle(maps_first, 2))
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels", [1, 3])
def test_scores_and_maps_agree(channels: int) -> None:
    """Those of `best`, with all that is measured on clean images first: whitening, what is usual at a place, marks."""
    params = load_params(PARAMS_FILE, preset="best", overrides=["data.image_size=128"])
    seen = images(24)[:, :channels]
    store = (seen * 255.0).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    on_cpu = network_for(params, channels=channels, generator=torch.Generator().manual_seed(0)).eval()
    multiply_in_float32()

    def scored(network: AESc) -> Scored:
        device = network.head.weight.device
        clean = Pixels(store, np.arange(len(store)), device)
        scales, place_maps = measure_reference(network, clean, detection=params.detection, seed=1)
        scorer = Scorer(network, detection=params.detection, seed=1, scales=scales, place_maps=place_maps)
        return scorer(seen[:5].to(device))

    ours, theirs = scored(on_cpu), scored(copy.deepcopy(on_cpu).cuda())
    residual = ours.maps["residual"]
    close = {"rtol": 1e-3, "atol": 1e-3 * residual.mean().item()}
    torch.testing.assert_close(theirs.maps["residual"].cpu(), residual, **close)
    for name, scores in ours.scores.items():
        bound = 1e-3 if name.startswith("residual") else 0.03  # the others multiply in bfloat16 where they may
        torch.testing.assert_close(theirs.scores[name].cpu(), scores, rtol=bound, atol=0.0, msg=name)


def test_kept_phases_change_nothing() -> None:
    _, on_gpu = networks()
    with torch.inference_mode():
        before = on_gpu(images(3).cuda())
        on_gpu.keep_phases()
        assert torch.equal(on_gpu(images(3).cuda()), before)


def test_structured_corruption_leaves_most_of_an_image_alone() -> None:
    clean = images(8).cuda()
    painted = clean.clone()
    mask = paint_structured(painted, params=PARAMS, generator=torch.Generator("cuda").manual_seed(0))
    changed = (painted != clean).any(dim=1, keepdim=True)
    assert changed[mask].float().mean() > 0.99  # equal numbers may be painted
    assert changed[~mask].float().mean() < 0.05  # soft edges
    share = mask.float().mean(dim=(1, 2, 3))
    assert ((share > 0.0) & (share < 0.5)).all()
