"""What is set for training on a GPU lasts as long as training does; the settings can be made without a GPU."""

from __future__ import annotations

import pytest
import torch

from aesc.device import deterministic

CUDA = torch.device("cuda")


def settings() -> tuple[bool, bool, bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]  # missing in the stubs
    )


@pytest.mark.parametrize("benchmark", [True, False])
def test_settings_are_as_before_when_it_ends(benchmark: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left on, they would have one process interpolate otherwise than another, by rounding."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", benchmark)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = settings()
    with pytest.raises(KeyboardInterrupt):
        be_interrupted_in_it()
    assert settings() == before


def be_interrupted_in_it() -> None:
    with deterministic(CUDA):
        assert settings() == (True, True, False, False)
        raise KeyboardInterrupt


def test_a_cpu_needs_none_of_it() -> None:
    before = settings()
    with deterministic(torch.device("cpu")):
        assert settings() == before
