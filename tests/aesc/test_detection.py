from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from aesc import mc_dropout
from aesc.detection import image_scores, mc_dropout_variance, smooth
from aesc.mc_dropout import StochasticPasses, prepared, welford
from aesc.network import AESc, Skip, build_network
from aesc.params import Detection
from aesc.scoring import Scales, Scored, Scorer
from aesc.seeding import Stream, generator

SIDE = 64


@pytest.fixture(scope="module")
def network() -> AESc:
    return build_network(
        image_size=SIDE,
        channels=3,
        skip="add",
        dropout=(0.1, 0.2, 0.3, 0.4),
        generator=torch.Generator().manual_seed(1),
    ).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


def rand(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3))


def settings(*, passes: int, smoothing: float = 0.0) -> Detection:
    return Detection(
        strategy="auto",
        passes=passes,
        residual="pixels",
        normalise=False,
        smoothing=smoothing,
        image_score="l2",
        top_fraction=0.005,
    )


def score(network: AESc, images: Tensor, *, passes: int, smoothing: float = 0.0) -> Scored:
    detection = settings(passes=passes, smoothing=smoothing)
    return Scorer(network, detection=detection, seed=1, scales=Scales(residual=1.0, uncertainty=1.0))(images)


# Residual


def test_the_residual_is_the_absolute_difference_summed_over_channels(network: AESc, images: Tensor) -> None:
    scored = score(network, images, passes=2)
    with torch.no_grad():
        expected = network(images)
    assert torch.equal(scored.reconstruction, expected), "dropout must be off"
    torch.testing.assert_close(scored.maps["residual"], (images - expected).abs().sum(dim=1))
    for values in scored.maps.values():
        assert values.shape == (4, SIDE, SIDE)
        assert values.dtype == torch.float32


def test_smoothing_applies_to_both_maps_and_not_to_the_reconstruction(network: AESc, images: Tensor) -> None:
    rough, fine = (score(network, images, passes=3, smoothing=sigma) for sigma in (0.0, 2.0))
    assert torch.equal(rough.reconstruction, fine.reconstruction)
    for name in ("residual", "uncertainty"):
        torch.testing.assert_close(fine.maps[name], smooth(rough.maps[name], 2.0))
    assert fine.maps["residual"].std() < rough.maps["residual"].std()


def test_the_residual_alone_needs_no_stochastic_pass_and_is_the_same(network: AESc, images: Tensor) -> None:
    scorer = Scorer(
        network, detection=settings(passes=3, smoothing=1.0), seed=1, scales=Scales(residual=1.0, uncertainty=1.0)
    )
    alone, whole = scorer(images, strategies=("residual",)), scorer(images)
    assert set(alone.maps) == {"residual"}
    assert torch.equal(alone.maps["residual"], whole.maps["residual"])
    assert set(alone.scores) == {name for name in whole.scores if name.startswith("residual_")}
    for name, values in alone.scores.items():
        assert torch.equal(values, whole.scores[name])


# Uncertainty


@pytest.mark.parametrize("passes", [2, 3, 30])
@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_the_running_variance_is_the_variance_of_the_stacked_passes(passes: int, spread: float) -> None:
    outputs = 0.7 + spread * (rand(passes, 2, 3, 8, 8) - 0.5)
    expected = np.var(outputs.double().numpy(), axis=0, ddof=1)
    mean, squares = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    for count, output in enumerate(outputs, start=1):
        welford(mean, squares, output.clone(), count)
    assert expected.min() > 0.0
    np.testing.assert_allclose(squares.numpy() / (passes - 1), expected, rtol=2e-3)
    np.testing.assert_allclose(mean.numpy(), outputs.mean(dim=0).numpy(), rtol=1e-5)


def plain_variance(network: AESc, images: Tensor, *, passes: int, seed: int) -> Tensor:
    """One pass after the other through the network itself, all kept."""
    stream = generator(seed, Stream.MC_DROPOUT)
    with torch.no_grad():
        stacked = [network(images, generator=stream, shared_dropout=True) for _ in range(passes)]
    return torch.stack(stacked).double().var(dim=0).mean(dim=1)


@pytest.mark.parametrize(("skip", "first"), [("add", 0), ("none", 0), ("concat", 0), ("add", 2), ("concat", 1)])
@pytest.mark.parametrize(
    "dropout", [(0.1, 0.2, 0.3, 0.4), (0.0, 0.0, 0.3, 0.4), (0.0, 0.0, 0.0, 0.4), (0.3, 0.0, 0.0, 0.0)]
)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_network_s_own_passes_are_what_varies(
    skip: Skip, first: int, dropout: tuple[float, ...], batch: int
) -> None:
    stream = torch.Generator().manual_seed(1)
    network = build_network(image_size=SIDE, channels=3, skip=skip, first_skip=first, dropout=dropout, generator=stream)
    images = rand(batch, 3, SIDE, SIDE)
    with torch.no_grad():
        network(images)  # batch norm statistics that are not those of a new network
    network.eval()
    expected = plain_variance(network, images, passes=20, seed=5)
    with torch.inference_mode():
        found = StochasticPasses(network, bfloat16=False).variance(images, passes=20, seed=5).mean(dim=1)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-3, atol=1e-9)
    assert found.max() > 1e-6


def test_bfloat16_products_change_a_map_far_less_than_another_seed_does(network: AESc, images: Tensor) -> None:
    with torch.inference_mode():
        exact, other = (
            StochasticPasses(network, bfloat16=False).variance(images, passes=30, seed=seed).mean(dim=1)
            for seed in (1, 2)
        )
        found = StochasticPasses(network, bfloat16=True).variance(images, passes=30, seed=1).mean(dim=1)
    error, spread = ((maps - exact).norm() / exact.norm() for maps in (found, other))
    assert not torch.equal(found, exact)
    assert error < 0.1 * spread
    ranks = [maps.flatten().argsort().argsort().double() for maps in (exact, found)]
    assert torch.corrcoef(torch.stack(ranks))[0, 1] > 0.999
    scores = [image_scores(maps, "l2", top_fraction=0.005) for maps in (exact, found)]
    torch.testing.assert_close(scores[1], scores[0], rtol=0.01, atol=0.0)


def test_changed_weights_are_seen(images: Tensor) -> None:
    stream = torch.Generator().manual_seed(1)
    network = build_network(image_size=SIDE, channels=3, skip="add", dropout=(0.0, 0.4), generator=stream).eval()
    before = mc_dropout_variance(network, images, passes=3, seed=1)
    with torch.no_grad():
        network.head.weight.mul_(0.5)
    after = mc_dropout_variance(network, images, passes=3, seed=1)
    assert after.mean() < 0.5 * before.mean()
    assert prepared(network) is prepared(network)


def test_the_variance_is_about_the_same_however_many_passes(network: AESc, images: Tensor) -> None:
    few, many = (mc_dropout_variance(network, images[:1], passes=passes, seed=1).mean() for passes in (10, 40))
    assert 0.6 < few / many < 1.6


def test_without_dropout_rates_there_is_no_uncertainty(images: Tensor) -> None:
    certain = build_network(
        image_size=SIDE, channels=3, skip="add", dropout=(0.0,), generator=torch.Generator().manual_seed(1)
    ).eval()
    assert mc_dropout_variance(certain, images, passes=3, seed=1).abs().max() == 0.0


def test_the_seed_alone_decides_the_passes(network: AESc, images: Tensor) -> None:
    before = torch.get_rng_state()
    first, again, other = (mc_dropout_variance(network, images, passes=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_image_s_maps_do_not_depend_on_its_neighbours(network: AESc, images: Tensor) -> None:
    together = score(network, images, passes=5, smoothing=1.0)
    for row, image in enumerate(images):
        alone = score(network, image[None], passes=5, smoothing=1.0)
        torch.testing.assert_close(alone.reconstruction[0], together.reconstruction[row], rtol=0.0, atol=1e-6)
        torch.testing.assert_close(alone.maps["residual"][0], together.maps["residual"][row], rtol=0.0, atol=1e-6)
        ours, theirs = alone.maps["uncertainty"][0], together.maps["uncertainty"][row]
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=0.0)


def test_the_network_is_left_as_it_was(network: AESc, images: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    score(network, images, passes=3)
    assert not network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("skip", ["add", "concat"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("on_cpu", [True, False])
def test_passes_in_several_parts(monkeypatch: pytest.MonkeyPatch, skip: Skip, batch: int, on_cpu: bool) -> None:
    """Both ways of cutting them: a CPU's, and a GPU's, which takes the images together."""
    monkeypatch.setattr(mc_dropout, "DEEP_PASSES", 5)
    monkeypatch.setattr(mc_dropout, "SHALLOW_PIXELS", 2 * SIDE**2)
    stream = torch.Generator().manual_seed(1)
    network = build_network(image_size=SIDE, channels=3, skip=skip, dropout=(0.0, 0.2, 0.3, 0.4), generator=stream)
    images = rand(batch, 3, SIDE, SIDE)
    expected = plain_variance(network.eval(), images, passes=17, seed=5)
    passes = StochasticPasses(network, bfloat16=False)
    with torch.inference_mode():
        if on_cpu:
            found = passes.variance(images, passes=17, seed=5)
        else:
            monkeypatch.setattr(mc_dropout, "GPU_PIXELS", 5 * batch * SIDE**2)
            found = passes._variance(images, passes._masks_of(17, 5, images.device), 17, on_cpu=False)
    np.testing.assert_allclose(found.mean(dim=1).numpy(), expected.numpy(), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(("count", "most"), [(30, 10), (17, 5), (3, 10), (1, 1), (7, 1)])
def test_equal_parts_are_all_of_it_in_order(count: int, most: int) -> None:
    parts = [range(count)[part] for part in mc_dropout._equal_parts(count, most=most)]
    assert [number for part in parts for number in part] == list(range(count))
    assert max(map(len, parts)) <= most
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


MEMORY = """
import sys, torch
from pathlib import Path
from aesc.detection import mc_dropout_variance
from aesc.network import build_network

batch, passes = map(int, sys.argv[1:])
network = build_network(image_size=256, channels=3, skip="add", dropout=(0.0, 0.0, 0.1, 0.2, 0.3, 0.4),
                        generator=torch.Generator().manual_seed(1)).eval()
images = torch.zeros(batch, 3, 256, 256)
def peak():  # of this process alone: getrusage would begin with what its parent had
    return next(int(line.split()[1]) / 1024 for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith("VmHWM"))

before = peak()
with torch.inference_mode():
    network(images) if passes == 0 else mc_dropout_variance(network, images, passes=passes, seed=1)
print(peak() - before)
"""


def megabytes(batch: int, passes: int) -> float:
    """Peak memory of a process above that of the network and 256 x 256 images; 0 is a plain pass."""
    command = [sys.executable, "-c", MEMORY, str(batch), str(passes)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_thirty_passes_of_a_batch_take_less_memory_than_a_plain_pass() -> None:
    """The outputs of all passes kept would be 360 MB."""
    assert megabytes(16, 30) < megabytes(16, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_depend_on_the_passes() -> None:
    """Of one image; 100 more masks are 24 MB, and 100 outputs kept would be 79."""
    assert megabytes(1, 130) - megabytes(1, 30) < 50


# Smoothing


@pytest.mark.parametrize("sigma", [0.5, 2.0, 8.0, 50.0])
def test_smoothing_leaves_a_constant_map_alone(sigma: float) -> None:
    maps = torch.full((2, 32, 32), 0.7)
    torch.testing.assert_close(smooth(maps, sigma), maps)


def test_smoothing_by_zero_changes_nothing() -> None:
    maps = rand(2, 32, 32)
    assert torch.equal(smooth(maps, 0.0), maps)


def test_smoothing_keeps_the_mean_and_spreads_by_sigma() -> None:
    sigma = 3.0
    maps = torch.zeros(1, SIDE, SIDE)
    maps[0, 30, 34] = 5.0
    blurred = smooth(maps, sigma)
    assert blurred.sum().item() == pytest.approx(5.0, rel=1e-5)
    assert divmod(int(blurred[0].argmax()), SIDE) == (30, 34)
    offsets = torch.arange(SIDE) - 30.0
    variance = (blurred[0].sum(dim=1) * offsets.square()).sum() / blurred.sum()
    assert variance.item() == pytest.approx(sigma**2, rel=0.02)
    noise = rand(3, SIDE, SIDE)
    torch.testing.assert_close(smooth(noise, sigma).mean(dim=(1, 2)), noise.mean(dim=(1, 2)), rtol=0.01, atol=0.0)
    assert smooth(noise, sigma).std() < 0.2 * noise.std()


def test_each_map_is_smoothed_by_itself() -> None:
    maps = rand(3, 32, 32)
    torch.testing.assert_close(smooth(maps, 2.0)[1], smooth(maps[1:2], 2.0)[0])


# Image scores


def hand_made() -> Tensor:
    maps = torch.zeros(2, 10, 10)
    maps[0, 2, 3], maps[0, 7, 7] = 3.0, 4.0
    maps[1] = 0.5
    return maps


def test_scores_of_hand_made_maps() -> None:
    maps = hand_made()
    assert image_scores(maps, "l2", top_fraction=0.02).tolist() == pytest.approx([5.0, 5.0])
    assert image_scores(maps, "max", top_fraction=0.02).tolist() == pytest.approx([4.0, 0.5])
    assert image_scores(maps, "top", top_fraction=0.02).tolist() == pytest.approx([3.5, 0.5])
    assert image_scores(maps, "top", top_fraction=0.05).tolist() == pytest.approx([1.4, 0.5])


def test_the_top_holds_at_least_one_pixel() -> None:
    assert image_scores(hand_made(), "top", top_fraction=1e-6).tolist() == pytest.approx([4.0, 0.5])
