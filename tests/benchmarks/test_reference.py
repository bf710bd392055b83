"""The references compute the same numbers, only slower; otherwise the comparison would mean nothing."""

from __future__ import annotations

import torch

from aesc.network import build_network
from benchmarks.reference.network import PlainAESc, copy_weights


def test_plain_network_gives_the_same_reconstruction() -> None:
    stream = torch.Generator().manual_seed(0)
    network = build_network(image_size=256, channels=3, skip="add", dropout=(0.0,), generator=stream)
    plain = PlainAESc()
    copy_weights(plain, network.state_dict())
    images = torch.rand(2, 3, 256, 256, generator=stream)
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(images), network.eval()(images), rtol=0.0, atol=1e-5)
