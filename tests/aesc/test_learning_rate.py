"""The cosine schedule: up, then down, and never 0."""

from __future__ import annotations

import pytest
import torch

from aesc.learning_rate import LAST_SHARE, cosine_share, set_rate


def test_it_rises_then_falls_to_its_last_share() -> None:
    shares = [cosine_share(step / 1000) for step in range(1001)]
    top = max(range(1001), key=shares.__getitem__)
    assert 40 <= top <= 60
    assert shares[top] > 0.98
    assert shares[:top] == sorted(shares[:top])
    assert shares[top:] == sorted(shares[top:], reverse=True)
    assert min(shares) > 0.0
    assert shares[-1] == pytest.approx(LAST_SHARE)


@pytest.mark.parametrize("rate", [1.0, torch.tensor(1.0)])
def test_the_optimiser_takes_the_rate(rate: float | torch.Tensor) -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=rate)
    set_rate(optimiser, 0.25)
    assert type(optimiser.param_groups[0]["lr"]) is type(rate)
    weight.grad = torch.ones(1)
    optimiser.step()
    assert weight.item() == -0.25
