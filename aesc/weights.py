"""Network weights on disk: safetensors and a JSON description, never a pickle."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from aesc.errors import AescError
from aesc.files import read_json, write_atomically, write_json
from aesc.network import AESc, Skip, to_channels_last

WEIGHTS = "weights.safetensors"
DESCRIPTION = "network.json"


class NetworkDescription(BaseModel):
    """What is needed to build the network that a weights file fits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int
    channels: int
    skip: Skip
    first_skip: int = 0  # older files do not say
    dropout: tuple[float, ...]
    segmentation: bool = False  # older files do not say
    weights_sha256: str


def save_network(network: AESc, folder: Path) -> NetworkDescription:
    """Write the weights and their description into `folder`, each atomically, the description last."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    path = folder / WEIGHTS
    write_atomically(path, lambda temporary: save_file(tensors, temporary))
    description = NetworkDescription(
        image_size=network.image_size,
        channels=network.channels,
        skip=network.skip,
        first_skip=network.first_skip,
        dropout=network.rates,
        segmentation=network.segmentation is not None,
        weights_sha256=sha256_of_file(path),
    )
    write_json(folder / DESCRIPTION, description.model_dump())
    return description


def load_network(folder: Path, *, device: torch.device) -> tuple[AESc, NetworkDescription]:
    """Read what `save_network` wrote: the network on `device`, in evaluation mode and channels_last memory.

    Raises:
        AescError: a file is missing or damaged, or the weights are not the described ones.
    """
    try:
        description = NetworkDescription.model_validate(read_json(folder / DESCRIPTION))
    except ValidationError as error:
        raise AescError(folder / DESCRIPTION, f"not a network description: {error.errors()[0]['msg']}") from error
    path = folder / WEIGHTS
    if not path.is_file():
        raise AescError(path, "no such file", todo="train again, or fetch the model version again")
    if (found := sha256_of_file(path)) != description.weights_sha256:
        raise AescError(
            path,
            f"its sha256 is {found[:12]}..., but {DESCRIPTION} says {description.weights_sha256[:12]}...",
            todo="the file is damaged or exchanged: fetch the model version again",
        )
    network = AESc(
        image_size=description.image_size,
        channels=description.channels,
        skip=description.skip,
        first_skip=description.first_skip,
        dropout=description.dropout,
        segmentation=description.segmentation,
    )
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise AescError(path, f"does not fit the described network: {error}") from error
    return to_channels_last(network).to(device).eval(), description


def sha256_of_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
