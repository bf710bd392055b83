"""What the network learns from: noise that both sides carry, and a loss that weighs the corrupted pixels."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch

from aesc.examples import Example, make_example, restoration_loss
from aesc.params import Loss
from aesc.params_file import load_params

CORRUPTION = load_params(Path(__file__).parents[2] / "params.yaml", preset="ablation").corruption


def test_kept_noise_is_on_both_sides_and_differs_from_image_to_image() -> None:
    clean = torch.full((8, 3, 64, 64), 0.5)
    params = CORRUPTION.model_copy(update={"kept_noise": 0.1})
    example = make_example(clean, params=params, generator=torch.Generator().manual_seed(1))
    untouched = ~example.mask.expand_as(clean)
    torch.testing.assert_close(example.corrupted[untouched], example.target[untouched])
    strengths = (example.target - clean).flatten(1).std(dim=1)
    assert 0.0 < strengths.min() < strengths.max() <= 0.105
    assert torch.equal(clean, torch.full_like(clean, 0.5))


def test_kept_noise_is_normal_and_another_on_each_image_and_at_each_draw() -> None:
    clean = torch.zeros(6, 3, 64, 64)
    params = CORRUPTION.model_copy(update={"kept_noise": 1.0, "kind": "none"})
    stream = torch.Generator().manual_seed(1)
    drawn = torch.cat([make_example(clean, params=params, generator=stream).target for _ in range(2)]).flatten(1)
    noise = drawn / drawn.std(dim=1, keepdim=True)
    size = noise.shape[1]
    assert noise.mean(dim=1).abs().max() < 5.0 / size**0.5
    assert noise.pow(4).mean(dim=1).sub(3.0).abs().max() < 5.0 * (96.0 / size) ** 0.5
    assert torch.corrcoef(noise).fill_diagonal_(0.0).abs().max() < 6.0 / size**0.5


def test_without_kept_noise_the_target_is_the_clean_image() -> None:
    clean = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    example = make_example(clean, params=CORRUPTION, generator=torch.Generator().manual_seed(1))
    assert torch.equal(example.target, clean)
    assert example.mask.any()


@pytest.mark.parametrize(("kind", "one", "two"), [("squared", 1.0, 4.0), ("charbonnier", 0.970450, 1.970225)])
@pytest.mark.parametrize(("weight", "share"), [(0.0, 0.25), (0.5, 0.5), (0.9, 0.9)])
def test_the_loss_weighs_corrupted_pixels(kind: Loss, one: float, two: float, weight: float, share: float) -> None:
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., :2] = True
    target = torch.zeros(1, 3, 8, 8)
    output = torch.where(mask, 2.0, 1.0).expand_as(target)
    loss = restoration_loss(output, Example(target, target, mask), kind=kind, corrupted_weight=weight)
    assert loss.item() == pytest.approx(share * two + (1.0 - share) * one, rel=1e-5)


@pytest.mark.parametrize("kind", get_args(Loss))
@pytest.mark.parametrize("weight", [0.0, 0.5, 0.9])
def test_the_loss_has_the_gradient_of_its_formula(kind: Loss, weight: float) -> None:
    stream = torch.Generator().manual_seed(1)
    mask = torch.rand(2, 1, 8, 8, generator=stream) < 0.2
    target = torch.rand(2, 3, 8, 8, generator=stream)
    output = torch.rand(2, 3, 8, 8, generator=stream).requires_grad_()
    loss = restoration_loss(output, Example(target, target, mask), kind=kind, corrupted_weight=weight)
    squares = (output - target).square()
    error = (squares if kind == "squared" else (squares + 9e-4).sqrt() - 0.03).mean(dim=1, keepdim=True)
    parts = (error.mean(), error.mean()) if weight == 0.0 else (error[mask].mean(), error[~mask].mean())
    formula = weight * parts[0] + (1.0 - weight) * parts[1]
    torch.testing.assert_close(loss, formula)
    found, expected = (torch.autograd.grad(3.0 * value, output, retain_graph=True)[0] for value in (loss, formula))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", get_args(Loss))
def test_what_is_given_back_exactly_costs_nothing_and_teaches_nothing(kind: Loss) -> None:
    target = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    output = target.clone().requires_grad_()
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    loss = restoration_loss(output, Example(target, target, mask), kind=kind, corrupted_weight=0.5)
    loss.backward()
    assert loss.item() == 0.0
    assert output.grad is not None
    assert output.grad.abs().max() == 0.0


@pytest.mark.parametrize(("kind", "expected"), [("squared", 0.5), ("charbonnier", 0.485225)])
def test_a_batch_without_a_corruption_has_a_finite_loss(kind: Loss, expected: float) -> None:
    target = torch.zeros(1, 3, 8, 8)
    example = Example(target, target, torch.zeros(1, 1, 8, 8, dtype=torch.bool))
    found = restoration_loss(target + 1.0, example, kind=kind, corrupted_weight=0.5)
    assert found.item() == pytest.approx(expected, rel=1e-5)
