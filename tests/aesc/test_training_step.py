"""One step, and its recording on a GPU."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from aesc.device import deterministic
from aesc.learning_rate import set_rate
from aesc.network import AESc, network_for
from aesc.params import Params
from aesc.params_file import load_params
from aesc.pixels import Pixels
from aesc.training_step import STEPS_BEFORE_RECORDING, TrainingStep

CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCH = 4
STEPS = STEPS_BEFORE_RECORDING + 6


def params(preset: str, *overrides: str) -> Params:
    fixed = ("data.image_size=64", f"training.batch_size={BATCH}", "training.learning_rate=0.001")
    return load_params(Path(__file__).parents[2] / "params.yaml", preset=preset, overrides=[*fixed, *overrides])


def network_of(recipe: Params) -> AESc:
    return network_for(recipe, channels=3, generator=torch.Generator().manual_seed(0)).train()


def pixels(device: torch.device) -> Pixels:
    store = np.random.default_rng(0).integers(0, 256, (3 * BATCH, 64, 64, 3)).astype(np.uint8)
    return Pixels(store, np.arange(len(store)), device)


def run(recipe: Params, device: torch.device, sizes: list[int]) -> tuple[list[float], Tensor]:
    """Losses and the final weights of steps with batches of these sizes, a smaller rate at each."""
    network = network_of(recipe).to(device)
    step = TrainingStep(network, params=recipe, device=device)
    images, stream = pixels(device), torch.Generator().manual_seed(1)
    losses = []
    for number, size in enumerate(sizes):
        if number % 4 == 0:
            step.begin_epoch(number // 4)
        set_rate(step.optimiser, 0.002 * 0.9**number)
        losses.append(step(images, torch.randperm(len(images), generator=stream)[:size]).clone())
    weights = torch.cat([tensor.double().flatten().cpu() for tensor in network.state_dict().values()])
    return torch.stack(losses).tolist(), weights


def test_the_rate_of_each_step_counts() -> None:
    recipe = params("paper")
    network, images = network_of(recipe), pixels(CPU)
    step = TrainingStep(network, params=recipe, device=CPU)
    step.begin_epoch(0)
    set_rate(step.optimiser, 0.0)
    before = copy.deepcopy(network.decoder[0].weight)
    step(images, torch.arange(BATCH))
    assert torch.equal(before, network.decoder[0].weight)
    set_rate(step.optimiser, 0.001)
    step(images, torch.arange(BATCH))
    moved = (network.decoder[0].weight - before).abs().max()
    assert 0.0005 < moved < 0.01  # Adam's steps are about as long as the rate


def test_a_step_is_one_of_plain_adam() -> None:
    """The optimiser has views of the weights, whose axes are in another order."""
    recipe = params("paper", "network.dropout_in_training=false", "training.precision=float32")
    ours, plain = network_of(recipe), network_of(recipe)
    step, images, indices = TrainingStep(ours, params=recipe, device=CPU), pixels(CPU), torch.arange(BATCH)
    twin = TrainingStep(plain, params=recipe, device=CPU)
    adam = torch.optim.Adam(plain.parameters(), lr=recipe.training.learning_rate)
    for epoch in range(3):
        step.begin_epoch(epoch)
        step(images, indices)
        twin.begin_epoch(epoch)
        example = twin._halves.corrupt(images.batch(indices))
        adam.zero_grad()
        torch.nn.functional.mse_loss(plain(example.corrupted), example.target).backward()
        adam.step()
    for (name, found), expected in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=name)


def test_an_epoch_draws_the_same_whatever_came_before_it() -> None:
    recipe, images = params("best"), pixels(CPU)
    found = []
    for epochs in ([3], [0, 1, 3]):
        step = TrainingStep(network_of(recipe), params=recipe, device=CPU)
        set_rate(step.optimiser, 0.0)
        for epoch in epochs:
            step.begin_epoch(epoch)
            loss = step(images, torch.arange(BATCH))
        found.append(loss.item())
    assert found[0] == found[1]


@pytest.mark.parametrize("rate", [0.125, torch.tensor(0.125)])
def test_the_optimiser_of_another_kind_of_device_is_taken_up(rate: float | Tensor) -> None:
    """On a GPU the rate is a tensor, and the optimiser one that can be recorded; elsewhere neither is."""
    recipe, images, capturable = params("paper"), pixels(DEVICE), isinstance(rate, Tensor)
    first_network, second_network = (network_of(recipe).to(DEVICE) for _ in range(2))
    first, second = (TrainingStep(network, params=recipe, device=DEVICE) for network in (first_network, second_network))
    first.begin_epoch(0)
    first(images, torch.arange(BATCH))
    content = copy.deepcopy(first.optimiser.state_dict())
    for group in content["param_groups"]:
        group |= {"lr": rate, "capturable": capturable}
    second.load_optimiser(content)
    (group,) = second.optimiser.param_groups
    assert float(group["lr"]) == 0.125
    assert isinstance(group["lr"], Tensor) == group["capturable"] == (DEVICE.type == "cuda")
    set_rate(first.optimiser, 0.125)
    second_network.load_state_dict(first_network.state_dict())
    assert second.rate == first.rate == 0.125
    with deterministic(DEVICE):
        for step in (first, second):
            step.begin_epoch(1)
        for _ in range(STEPS):
            assert first(images, torch.arange(BATCH)).item() == second(images, torch.arange(BATCH)).item()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="records steps of a GPU")
@pytest.mark.parametrize("preset", ["paper", "best"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_recorded_step_gives_the_bits_of_the_step_itself(
    preset: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, device = params(preset, f"training.precision={precision}"), torch.device("cuda")
    sizes = [BATCH] * STEPS + [BATCH - 1, BATCH]
    sizes += [BATCH] * 20  # long enough for one half to overtake the other
    with deterministic(device):
        losses, weights = run(recipe, device, sizes)
        monkeypatch.setattr("aesc.training_step.STEPS_BEFORE_RECORDING", len(sizes))
        plain_losses, plain_weights = run(recipe, device, sizes)
    assert losses == plain_losses
    assert torch.equal(weights, plain_weights)
    assert len(set(losses)) == len(sizes)
