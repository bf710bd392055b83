"""30 plain passes kept in a list have the variance that the project computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aesc.mc_dropout import StochasticPasses
from aesc.seeding import Stream, generator
from benchmarks.bench_mc_dropout import RATES, networks
from benchmarks.reference.mc_dropout import plain_variance


@pytest.mark.parametrize("batch", [1, 2])
def test_plain_passes_have_the_same_variance(batch: int) -> None:
    network, plain = networks()
    images = torch.rand(batch, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    expected = plain_variance(plain, images, RATES, passes=4, stream=generator(5, Stream.MC_DROPOUT))
    with torch.inference_mode():
        found = StochasticPasses(network, bfloat16=False).variance(images, passes=4, seed=5).mean(dim=1)
    assert expected.min() > 0.0
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=2e-3)
