"""A network on disk: what its description says is the network that was saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aesc.files import read_json, write_json
from aesc.network import Skip, build_network
from aesc.weights import DESCRIPTION, load_network, save_network

CPU = torch.device("cpu")


@pytest.mark.parametrize(("skip", "first"), [("add", 0), ("none", 0), ("concat", 0), ("add", 2), ("concat", 1)])
def test_a_loaded_network_has_the_skips_of_the_saved_one(skip: Skip, first: int, tmp_path: Path) -> None:
    stream = torch.Generator().manual_seed(1)
    network = build_network(
        image_size=64, channels=3, skip=skip, first_skip=first, dropout=(0.1,), generator=stream
    ).eval()
    images = torch.rand(2, 3, 64, 64, generator=stream)
    save_network(network, tmp_path)
    loaded, _ = load_network(tmp_path, device=CPU)
    with torch.inference_mode():
        assert torch.equal(loaded(images), network(images))


@pytest.mark.parametrize(("key", "value"), [("first_skip", 0), ("segmentation", False)])
def test_descriptions_of_before_there_was_a_choice_do_not_say_it(key: str, value: object, tmp_path: Path) -> None:
    network = build_network(image_size=64, channels=3, skip="add", dropout=(), generator=torch.Generator()).eval()
    save_network(network, tmp_path)
    said = read_json(tmp_path / DESCRIPTION)
    assert said.pop(key) == value
    write_json(tmp_path / DESCRIPTION, said)
    loaded, _ = load_network(tmp_path, device=CPU)
    assert loaded.first_skip == 0
    assert loaded.segmentation is None
