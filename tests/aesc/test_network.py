from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from aesc.network import AESc, Skip, build_network, depth_of, dropout, dropout_levels

RATES = (0.0, 0.0, 0.1, 0.2, 0.3, 0.4)
SKIPS: tuple[Skip, ...] = ("add", "none", "concat")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(*, size: int = 64, channels: int = 3, rates: Any = RATES, seed: int = 1, **skips: Any) -> AESc:
    kept = {"skip": "add", **skips}
    return build_network(image_size=size, channels=channels, dropout=rates, generator=seeded(seed), **kept).eval()


def images(count: int, *, size: int = 64, channels: int = 3, seed: int = 7) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=seeded(seed))


@pytest.mark.parametrize(
    ("size", "channels", "skip"),
    [(size, channels, "add") for size in (64, 128, 256, 512, 1024) for channels in (1, 3)]
    + [(size, 3, skip) for size in (64, 256) for skip in ("none", "concat")],
)
def test_every_size_gives_back_its_own_shape_through_a_4x4_bottleneck(size: int, channels: int, skip: Skip) -> None:
    with torch.device("meta"):
        network = AESc(image_size=size, channels=channels, skip=skip, dropout=RATES).to("meta")
        bottlenecks: list[torch.Size] = []
        network.encoder[-1].register_forward_hook(lambda *hooked: bottlenecks.append(hooked[2].shape))
        output = network(torch.empty(2, channels, size, size))
    assert output.shape == (2, channels, size, size)
    assert bottlenecks == [(2, min(16 * 2 ** (depth_of(size) - 1), 512), 4, 4)]
    assert len(network.decoder) == depth_of(size) - 1


def test_the_paper_s_network_has_8_7_million_parameters_and_a_4x4x512_bottleneck() -> None:
    network = AESc(image_size=256, channels=3, skip="add", dropout=RATES)
    assert sum(parameter.numel() for parameter in network.parameters()) == 8_735_011
    assert [level.conv.out_channels for level in network.encoder] == [16, 32, 64, 128, 256, 512]


@pytest.mark.parametrize("skip", SKIPS)
def test_the_output_is_an_image_and_really_computed_from_the_input(skip: Skip) -> None:
    network = build(skip=skip)
    with torch.no_grad():
        output = network(images(2))
    assert output.dtype == torch.float32
    assert 0.0 < output.min() < output.max() < 1.0
    assert (output[0] - output[1]).abs().max() > 1e-3


def test_dropout_levels_are_aligned_at_the_bottleneck() -> None:
    assert dropout_levels(RATES, 6) == RATES
    assert dropout_levels(RATES, 4) == (0.1, 0.2, 0.3, 0.4)
    assert dropout_levels(RATES, 8) == (0.0, 0.0, *RATES)
    assert dropout_levels((0.5,), 4) == (0.0, 0.0, 0.0, 0.5)
    assert dropout_levels((), 4) == (0.0,) * 4


def test_the_decoder_mirrors_the_encoder_s_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, float]] = []

    def spy(x: torch.Tensor, rate: float, generator: object, *, shared: bool) -> torch.Tensor:
        seen.append((x.shape[-1], rate))
        return x

    monkeypatch.setattr("aesc.network.dropout", spy)
    with torch.no_grad():
        build(rates=(0.05, 0.1, 0.2, 0.4))(images(1))
    assert seen == [(32, 0.05), (16, 0.1), (8, 0.2), (4, 0.4), (8, 0.2), (16, 0.1), (32, 0.05)]


@pytest.mark.parametrize("rate", [0.1, 0.4])
@pytest.mark.parametrize("shared", [True, False])
def test_dropout_keeps_its_share_and_the_mean(rate: float, shared: bool) -> None:
    x = torch.full((8, 32, 32, 32), 2.0)
    dropped = dropout(x, rate, seeded(5), shared=shared)
    kept = dropped != 0.0
    draws = kept[:1].numel() if shared else kept.numel()
    error = 5.0 * (rate * (1.0 - rate) / draws) ** 0.5
    assert kept.float().mean().item() == pytest.approx(1.0 - rate, abs=error)
    assert dropped.mean().item() == pytest.approx(2.0, abs=2.0 * error / (1.0 - rate))
    torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], 2.0 / (1.0 - rate)))
    assert all(torch.equal(kept[0], other) == shared for other in kept[1:])


def test_each_element_is_dropped_for_itself() -> None:
    """The masks of training come from random numbers that hold several elements each."""
    x = torch.ones(3, 5, 101, 67)  # not a multiple of what one number holds
    kept = (dropout(x, 0.3, seeded(2), shared=False) != 0.0).permute(0, 2, 3, 1).flatten().float()
    centred = kept - kept.mean()
    for apart in range(1, 9):
        together = (centred[apart:] * centred[:-apart]).mean() / centred.square().mean()
        assert abs(together) < 5.0 / len(kept) ** 0.5


def test_dropout_is_off_without_a_generator_or_a_rate() -> None:
    x = images(2)
    assert dropout(x, 0.5, None, shared=False) is x
    generator = seeded(1)
    before = generator.get_state()
    assert dropout(x, 0.0, generator, shared=False) is x
    assert torch.equal(generator.get_state(), before)


@torch.no_grad()
def test_with_a_shared_mask_an_image_does_not_depend_on_its_neighbours() -> None:
    network = build()
    batch = images(4)
    together = network(batch, generator=seeded(9), shared_dropout=True)
    alone = torch.cat([network(one[None], generator=seeded(9), shared_dropout=True) for one in batch])
    torch.testing.assert_close(together, alone, rtol=0.0, atol=1e-6)
    unshared = network(batch, generator=seeded(9))
    assert (unshared[1:] - alone[1:]).abs().max() > 1e-3


@torch.no_grad()
def test_only_a_generator_makes_a_pass_random() -> None:
    network = build()
    batch = images(2)
    assert torch.equal(network(batch), network(batch))
    first, again, other = (network(batch, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-3
    assert (first - network(batch)).abs().max() > 1e-3


@pytest.mark.parametrize(("skip", "first"), [*((skip, 0) for skip in SKIPS), ("add", 2), ("concat", 1), ("add", 3)])
def test_only_a_skip_carries_encoder_maps_past_the_bottleneck(skip: Skip, first: int) -> None:
    network = build(skip=skip, first_skip=first)
    levels: list[torch.Tensor] = []
    for level, down in enumerate(network.encoder):
        if level:  # what goes down is cut off, so that gradients can come back through a skip only
            down.register_forward_pre_hook(lambda _, inputs: tuple(x.detach() for x in inputs))
        down.register_forward_hook(lambda _, __, output: levels.append(output))
    output = network(images(1))
    *skipped, bottleneck = torch.autograd.grad(output.sum(), levels, allow_unused=True)
    assert bottleneck is not None
    assert bottleneck.abs().sum() > 0.0
    assert len(skipped) == 3
    for level, gradient in enumerate(skipped):
        if skip == "none" or level < first:
            assert gradient is None
        else:
            assert gradient is not None
            assert gradient.abs().sum() > 0.0


def test_add_adds_and_concat_joins() -> None:
    add, concat = build(skip="add"), build(skip="concat")
    assert add.decoder[-1].weight.shape[1] == 32
    assert concat.decoder[-1].weight.shape[1] == 64
    assert concat.head.weight.shape[1] == 2 * add.head.weight.shape[1]
    late = build(skip="concat", first_skip=1)
    assert late.head.weight.shape == add.head.weight.shape
    assert late.decoder[-1].weight.shape == concat.decoder[-1].weight.shape


@pytest.mark.parametrize("skip", SKIPS)
def test_weights_come_from_the_generator_alone(skip: Skip) -> None:
    before = torch.get_rng_state()
    first = build(skip=skip, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before), "a global generator was drawn from"
    torch.rand(5)
    again, other = build(skip=skip, seed=1).state_dict(), build(skip=skip, seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(not torch.equal(first[name], other[name]) for name in first if first[name].dim() == 4)


def test_every_weight_is_initialised_in_glorot_s_range() -> None:
    network = build()
    for name, parameter in network.named_parameters():
        if parameter.dim() == 4:
            fan_out, fan_in = (maps * 25 for maps in parameter.shape[:2])
            bound = (6.0 / (fan_in + fan_out)) ** 0.5
            assert 0.9 * bound < parameter.abs().max() <= bound, name
            assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.1), name
            assert parameter.is_contiguous(memory_format=torch.channels_last), name
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert torch.equal(module.running_var, torch.ones_like(module.weight))


def test_batch_norm_learns_in_training_mode_only() -> None:
    network = build()
    statistics = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network(images(2), generator=seeded(1))
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in network.named_buffers())
    network.train()(images(2))
    assert any(not torch.equal(buffer, statistics[name]) for name, buffer in network.named_buffers())
