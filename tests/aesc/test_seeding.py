from __future__ import annotations

import itertools

import pytest
import torch

from aesc.seeding import Stream, derive_seed, generator


def test_the_numbers_of_the_streams_stay_what_recorded_results_used() -> None:
    expected = ["WEIGHTS", "ORDER", "CORRUPTION", "DROPOUT", "VALIDATION", "MC_DROPOUT", "HELD_OUT", "BOOTSTRAP"]
    assert [(stream.name, stream.value) for stream in Stream][: len(expected)] == [
        (name, number) for number, name in enumerate(expected)
    ]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ((1, Stream.WEIGHTS), 3_717_377_837_946_358_015),
        ((1, Stream.CORRUPTION, 7), 4_157_882_827_551_638_827),
        ((2**31 - 1, Stream.BOOTSTRAP), 5_281_756_285_149_850_524),
    ],
)
def test_derived_seeds_never_change(path: tuple[int, ...], expected: int) -> None:
    seed, stream, *rest = path
    assert derive_seed(seed, Stream(stream), *rest) == expected


def test_seeds_streams_and_epochs_are_all_different() -> None:
    seeds = [
        derive_seed(seed, stream, epoch)
        for seed, stream, epoch in itertools.product((0, 1, 2, 2**31 - 1), Stream, range(50))
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_streams_of_neighbouring_seeds_are_uncorrelated() -> None:
    draws = torch.stack(
        [
            torch.randn(20_000, generator=generator(seed, stream, epoch))
            for seed, stream, epoch in itertools.product((1, 2), (Stream.CORRUPTION, Stream.DROPOUT), (0, 1))
        ]
    )
    correlations = torch.corrcoef(draws) - torch.eye(len(draws))
    assert correlations.abs().max() < 0.04  # over five standard errors


def test_a_generator_starts_over_and_leaves_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    first, again = (torch.rand(100, generator=generator(3, Stream.ORDER, 5)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)
