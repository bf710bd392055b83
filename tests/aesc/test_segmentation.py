"""The head that learns where an image is corrupted."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from aesc.corruption import corrupt
from aesc.errors import AescError
from aesc.examples import restoration_loss
from aesc.network import AESc, build_network
from aesc.normalisation import usual_logits
from aesc.params import Params
from aesc.params_file import load_params
from aesc.pixels import Pixels
from aesc.residual import smoothed_logits
from aesc.scoring import Scorer, measure_reference
from aesc.segmentation import LogitScale, SegmentationHead, above_usual, focal_loss, weighed
from aesc.training import Trained, fit
from aesc.training_step import TrainingStep
from aesc.weights import load_network, save_network

ROOT = Path(__file__).parents[2]
SIDE = 64
CPU = torch.device("cpu")


def recipe(*overrides: str) -> Params:
    small = ("data.image_size=64", "training.batch_size=4", "training.images_per_epoch=80")
    fixed = ("training.precision=float32", "training.epochs=2")
    return load_params(ROOT / "params.yaml", preset="best", overrides=[*small, *fixed, *overrides])


def clean(count: int, *, seed: int) -> Pixels:
    """Smooth shading, of another phase on each image."""
    phase = np.random.default_rng(seed).uniform(0.0, 0.5, (count, 1, 1, 1))
    grid = np.arange(SIDE) / SIDE
    shade = 0.5 + 0.3 * np.sin(2 * np.pi * (2 * grid[:, None, None] + phase)) * np.cos(3 * grid[None, :, None])
    return Pixels((255 * shade).astype(np.uint8), np.arange(count), CPU)


def trained(*overrides: str) -> Trained:
    return fit(clean(8, seed=1), clean(4, seed=2), channels=1, params=recipe(*overrides), device=CPU)


@pytest.fixture(scope="module")
def learnt() -> AESc:
    return trained("network.segmentation=true", "training.epochs=12").network


def small_network(channels: int = 3) -> AESc:
    stream = torch.Generator().manual_seed(1)
    return build_network(
        image_size=SIDE, channels=channels, skip="add", dropout=(0.1,), generator=stream, segmentation=True
    )


@pytest.mark.parametrize(("channels", "side"), [(1, 64), (3, 64), (3, 256)])
def test_every_pixel_has_a_logit(channels: int, side: int) -> None:
    head = SegmentationHead(channels).eval()
    for parameter in head.parameters():
        if parameter.dim() == 4:
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(0))
    images = torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = head(images, images.flip(2))
    assert logits.shape == (2, side, side)
    assert logits.dtype == torch.float32
    assert logits.std() > 0.0


def test_a_pixel_far_away_changes_nothing() -> None:
    """Nothing is turned or swapped on the way to a quarter of the side and back."""
    head = small_network().eval().segmentation
    assert head is not None
    images = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    changed = images.clone()
    changed[:, :, 40:44, 8:12] += 0.5
    with torch.no_grad():
        moved = (head(changed, images) - head(images, images))[0].abs()
    assert moved[36:48, 4:16].mean() > 5 * moved.mean()
    assert moved[:12, 40:].max() == 0.0


def test_focal_loss_is_the_paper_s() -> None:
    logits = torch.tensor([[[2.0, -1.0], [0.5, -3.0]]])
    mask = torch.tensor([[[[True, True], [False, False]]]])
    right = torch.sigmoid(torch.tensor([2.0, -1.0, -0.5, 3.0]))
    torch.testing.assert_close(focal_loss(logits, mask), (-((1 - right) ** 2) * right.log()).mean())


def test_the_residual_grows_where_more_is_marked_than_on_clean_images_and_never_shrinks() -> None:
    residual = torch.full((1, 1, 4), 3.0)
    above = above_usual(torch.tensor([[[-9.0, -2.0, 0.0, 2.0]]]), -2.0)
    found = weighed(residual, above, LogitScale(level=-2.0, unit=4.0))
    torch.testing.assert_close(found, torch.tensor([[[3.0, 3.0, 3.75, 4.5]]]))


def test_a_mark_counts_where_nothing_differs() -> None:
    """An autoencoder with skips gives some defects back as they are; the head may still see them."""
    scale = LogitScale(level=-2.0, unit=4.0, weight=2.0, floor=1.5)
    found = weighed(torch.tensor([[[0.0, 0.0, 3.0]]]), torch.tensor([[[0.0, 4.0, 4.0]]]), scale)
    torch.testing.assert_close(found, torch.tensor([[[0.0, 3.0, 12.0]]]))


def test_what_was_calibrated_with_less_weight_keeps_it() -> None:
    """Operating points of before it was raised do not say how much the head weighs, nor that it has a floor."""
    residual, above = torch.full((1, 1, 1), 3.0), torch.full((1, 1, 1), 4.0)
    before = LogitScale.model_validate({"level": -2.0, "unit": 4.0})
    assert weighed(residual, above, before).item() == pytest.approx(4.5)
    assert weighed(residual, above, before.model_copy(update={"weight": 2.0})).item() == pytest.approx(9.0)


def test_the_autoencoder_learns_as_without_it() -> None:
    """Bit for bit: no gradient comes from the head, its weights are drawn last, and in training it draws nothing."""
    with_head, without = (trained(f"network.segmentation={flag}") for flag in ("true", "false"))
    ours, plain = with_head.network.state_dict(), without.network.state_dict()
    assert plain.keys() == {name for name in ours if not name.startswith("segmentation.")}
    assert all(torch.equal(ours[name], plain[name]) for name in plain)
    assert with_head.history[-1].psnr == without.history[-1].psnr
    assert (with_head.losses > without.losses).all()


def test_it_learns_to_mark_corruptions_that_training_did_not_use(learnt: AESc) -> None:
    images = clean(12, seed=3).batch(torch.arange(12))
    stain = recipe("corruption.kind=stain").corruption
    corrupted, mask = corrupt(images, params=stain, generator=torch.Generator().manual_seed(4))
    untrained = small_network(channels=1).eval()
    found = {}
    for name, network in (("learnt", learnt), ("untrained", untrained)):
        assert network.segmentation is not None
        with torch.inference_mode():
            logits = network.segmentation(corrupted, learnt(corrupted))
        found[name] = roc_auc_score(mask.flatten().numpy(), logits.flatten().numpy())
    assert found["learnt"] > 0.9
    assert found["untrained"] < 0.7


@pytest.mark.parametrize("normalise", [True, False])
@torch.inference_mode()
def test_scores_use_it(learnt: AESc, normalise: bool) -> None:
    detection = recipe("detection.passes=2", f"detection.normalise={str(normalise).lower()}").detection
    reference = measure_reference(learnt, clean(8, seed=5), detection=detection, seed=1)
    scale = reference.scales.segmentation
    assert scale is not None
    images = clean(8, seed=5).batch(torch.arange(8))
    plain = reference.scales.model_copy(update={"segmentation": None})
    ours, without = (
        Scorer(learnt, detection=detection, seed=1, scales=scales, place_maps=reference.place_maps)(images)
        for scales in (reference.scales, plain)
    )
    assert learnt.segmentation is not None
    logits = smoothed_logits(learnt.segmentation, images, ours.reconstruction, smoothing=detection.smoothing)
    assert ("logits" in reference.place_maps) == normalise
    above = above_usual(logits, usual_logits(logits) if normalise else logits.mean())
    torch.testing.assert_close(ours.maps["residual"], weighed(without.maps["residual"], above, scale))
    assert ours.maps["residual"].mean() > 1.02 * without.maps["residual"].mean()
    assert reference.scales.residual == pytest.approx(ours.maps["residual"].median().item(), rel=1e-4)
    assert scale.level == pytest.approx(logits.mean().item(), rel=1e-4)
    assert scale.weight == 2.0
    highest = above.flatten(1).topk(round(0.005 * SIDE**2)).values
    assert scale.unit == pytest.approx(highest.mean().item(), rel=1e-4)
    highest = without.maps["residual"].flatten(1).topk(round(0.005 * SIDE**2)).values
    assert scale.floor == pytest.approx(0.25 * highest.mean().item(), rel=1e-4)


@torch.inference_mode()
def test_an_operating_point_of_before_scores_as_it_did(learnt: AESc) -> None:
    """It has one level for all places, and says neither what a mark weighs nor that it counts by itself."""
    detection = recipe("detection.passes=2").detection
    scales, place_maps = measure_reference(learnt, clean(8, seed=5), detection=detection, seed=1)
    assert learnt.segmentation is not None
    before = scales.model_copy(update={"segmentation": LogitScale.model_validate({"level": -2.5, "unit": 0.5})})
    plain = scales.model_copy(update={"segmentation": None})
    divisors = {name: values for name, values in place_maps.items() if name != "logits"}
    images = clean(8, seed=6).batch(torch.arange(8))
    found, unweighed = (
        Scorer(learnt, detection=detection, seed=1, scales=one, place_maps=divisors)(images) for one in (before, plain)
    )
    logits = smoothed_logits(learnt.segmentation, images, found.reconstruction, smoothing=detection.smoothing)
    marked = 0.5 / 0.5 * (logits + 2.5).clamp(min=0.0)
    assert marked.max() > 0.0
    assert torch.equal(found.maps["residual"], unweighed.maps["residual"] * (1.0 + marked))


def test_where_clean_images_are_always_marked_a_mark_says_nothing(learnt: AESc) -> None:
    """With `normalise`; the head is surer of one half of every clean image, as of an even ground."""
    network = copy.deepcopy(learnt)
    assert network.segmentation is not None
    half = torch.zeros(SIDE, SIDE)
    half[:, : SIDE // 2] = 1.0

    def added_at_the_left(*, normalise: bool) -> float:
        """What marks add in the left quarter, of what they add everywhere."""
        detection = recipe("detection.passes=2", f"detection.normalise={str(normalise).lower()}").detection
        scales, place_maps = measure_reference(network, clean(60, seed=5), detection=detection, seed=1)
        plain = scales.model_copy(update={"segmentation": None})
        marked, unmarked = (
            Scorer(network, detection=detection, seed=1, scales=one, place_maps=place_maps)(
                clean(8, seed=5).batch(torch.arange(8))
            ).maps["residual"]
            for one in (scales, plain)
        )
        added = marked - unmarked
        return (added[..., : SIDE // 4].mean() / added.mean()).item()

    before = {normalise: added_at_the_left(normalise=normalise) for normalise in (True, False)}
    network.segmentation.register_forward_hook(lambda _module, _arguments, logits: logits + half)
    more = {normalise: added_at_the_left(normalise=normalise) - before[normalise] for normalise in (True, False)}
    assert more[False] > 0.5
    assert more[True] < 0.4 * more[False]


def test_a_head_that_says_the_same_everywhere_weighs_nothing(learnt: AESc) -> None:
    network = copy.deepcopy(learnt)
    assert network.segmentation is not None
    network.segmentation.logits.weight.data.mul_(1e-6)
    detection = recipe("detection.passes=2").detection
    scale = measure_reference(network, clean(8, seed=5), detection=detection, seed=1).scales.segmentation
    assert scale is not None
    assert scale.unit == 0.1


def test_all_images_of_a_batch_teach_it() -> None:
    settings = recipe("network.segmentation=true", "training.batch_size=6", "network.dropout_in_training=false")
    network = small_network(channels=1).train()
    twin = copy.deepcopy(network)
    step = TrainingStep(network, params=settings, device=CPU)
    step.begin_epoch(0)
    loss = step(clean(6, seed=1), torch.arange(6)).item()
    other = TrainingStep(twin, params=settings, device=CPU)
    other.begin_epoch(0)
    example = other._halves.corrupt(clean(6, seed=1).batch(torch.arange(6)))
    output = twin(example.corrupted)
    assert twin.segmentation is not None
    marked = focal_loss(twin.segmentation(example.corrupted, output.detach()), example.mask)
    restored = restoration_loss(output, example, kind="charbonnier", corrupted_weight=0.5)
    assert loss == pytest.approx((restored + marked).item(), rel=1e-5)
    assert loss != pytest.approx(restored.item(), rel=1e-3)


def test_it_is_saved_with_the_network(tmp_path: Path) -> None:
    network = small_network().eval()
    save_network(network, tmp_path)
    loaded, description = load_network(tmp_path, device=CPU)
    assert description.segmentation
    images = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    assert torch.equal(_logits(loaded, images), _logits(network, images))


@pytest.mark.parametrize("kind", ["none", "gaussian"])
def test_a_corruption_without_a_place_cannot_teach_it(kind: str) -> None:
    with pytest.raises(AescError, match=r"network.segmentation is true but corruption.kind is"):
        recipe("network.segmentation=true", f"corruption.kind={kind}")


def _logits(network: AESc, images: Tensor) -> Tensor:
    assert network.segmentation is not None
    with torch.no_grad():
        found: Tensor = network.segmentation(images, F.avg_pool2d(images, 3, 1, 1))
    return found
