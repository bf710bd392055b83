"""Learning to give the clean image back: Adam, a falling rate, best weights by validation PSNR (section III)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from aesc.device import autocast, deterministic, multiply_in_float32
from aesc.errors import AescError
from aesc.examples import make_example
from aesc.files import write_atomically
from aesc.interrupts import certain_interrupts
from aesc.learning_rate import cosine_share, set_rate
from aesc.network import AESc, network_for
from aesc.params import Params
from aesc.pixels import Pixels
from aesc.seeding import Stream, generator
from aesc.training_step import TrainingStep
from aesc.turns import UNTURNED, Turns, allowed_turns, draw_turns

CHECKPOINT_SECONDS = 20.0
CHECKPOINT_VERSION = 4


@dataclass(frozen=True)
class Epoch:
    """One epoch: mean training loss, validation PSNR in dB, learning rate, images and seconds so far."""

    epoch: int
    loss: float
    psnr: float
    learning_rate: float
    images_seen: int
    seconds: float


@dataclass
class Trained:
    """The network with the best weights, and how it got there.

    losses: of every step, (steps,) float32. turns: the quarter turns that images were learnt in.
    """

    network: AESc
    losses: Tensor
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    resumed_at: int = 0
    turns: Turns = UNTURNED

    @property
    def turned_by(self) -> list[int]:
        """The turns in degrees."""
        return [90 * quarters for quarters in self.turns]


@dataclass
class _State:
    """Everything that the next epoch depends on."""

    network: AESc
    step: TrainingStep
    schedule: torch.optim.lr_scheduler.ReduceLROnPlateau
    best: dict[str, Tensor]
    losses: list[Tensor] = field(default_factory=list)  # of each epoch, on the CPU
    best_epoch: int = 0
    history: list[Epoch] = field(default_factory=list)
    turns: Turns = UNTURNED


def fit(
    train: Pixels,
    validation: Pixels,
    *,
    channels: int,
    params: Params,
    device: torch.device,
    checkpoint: Path | None = None,
    fingerprint: str = "",
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    most_steps: int | None = None,
) -> Trained:
    """Train an AESc on clean images.

    Args:
        train, validation: clean images; their batches are corrupted here.
        channels: 1 or 3.
        params: network, corruption and training are used.
        device: where to train.
        checkpoint: file to resume from if it exists and has the same `fingerprint`, and to write at most every
            `checkpoint_seconds`. Resuming is exact: an epoch's random draws depend on the seed and the epoch only.
        fingerprint: identifies data, parameters and code; a checkpoint of another one is not resumed.
        on_epoch: called after each epoch.
        most_steps: stop after that many steps, in the middle of an epoch too: its losses are those of a whole run,
            its network is not.

    Raises:
        AescError: the loss is not finite, or the checkpoint cannot be written.
    """
    multiply_in_float32()
    state = _start(channels, params, device)
    resumed_at = _resume(state, checkpoint, fingerprint, device) if checkpoint else 0
    if not resumed_at:  # what was resumed goes on as it began
        state.turns = allowed_turns(train, params.training.turns)
    began = time.monotonic() - (state.history[-1].seconds if state.history else 0.0)
    saved = time.monotonic()
    settings = params.training
    total = settings.epochs * settings.images_per_epoch
    done = resumed_at * settings.images_per_epoch
    with (
        deterministic(device),
        certain_interrupts() as check,
        tqdm(total=total, initial=done, unit="img", desc="train", disable=None) as bar,
    ):

        def progress(images: int) -> None:
            bar.update(images)
            check()

        for epoch in range(resumed_at, settings.epochs):
            left = None if most_steps is None else most_steps - sum(map(len, state.losses))
            if left is not None and left <= 0:
                break
            losses, loss = _train_epoch(
                state, train, params=params, device=device, epoch=epoch, progress=progress, most_steps=left
            )
            state.losses.append(losses)
            rate = state.step.rate
            if left is not None and len(losses) == left:
                break
            psnr = validation_psnr(state.network, validation, params=params, device=device)
            _require_finite({"training loss": loss, "validation PSNR": psnr}, epoch, settings.learning_rate)
            if settings.schedule == "plateau":
                state.schedule.step(psnr)
            if not state.history or psnr > state.history[state.best_epoch].psnr:
                state.best_epoch = epoch
                state.best = _weights(state.network)
            seen = (epoch + 1) * settings.images_per_epoch
            state.history.append(Epoch(epoch, loss, psnr, rate, seen, time.monotonic() - began))
            bar.set_postfix(loss=f"{loss:.5f}", psnr=f"{psnr:.2f}")
            last = epoch + 1 == settings.epochs
            if checkpoint and (last or epoch == 0 or time.monotonic() - saved >= checkpoint_seconds):
                _save(state, checkpoint, fingerprint)
                saved = time.monotonic()
            if on_epoch:
                on_epoch(state.history[-1])
    state.network.load_state_dict(state.best)
    state.network.eval()
    losses = torch.cat(state.losses) if state.losses else torch.empty(0)
    return Trained(state.network, losses, state.history, state.best_epoch, resumed_at, state.turns)


def _start(channels: int, params: Params, device: torch.device) -> _State:
    weights = generator(params.training.seed, Stream.WEIGHTS)
    network = network_for(params, channels=channels, generator=weights).to(device)
    step = TrainingStep(network, params=params, device=device)
    # PyTorch's patience is how many epochs it tolerates, one less than after how many the rate falls.
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        step.optimiser, mode="max", factor=params.training.factor, patience=params.training.patience - 1, threshold=0.0
    )
    return _State(network, step, schedule, _weights(network))


def _train_epoch(
    state: _State,
    train: Pixels,
    *,
    params: Params,
    device: torch.device,
    epoch: int,
    progress: Callable[[int], None],
    most_steps: int | None = None,
) -> tuple[Tensor, float]:
    """One pass over `images_per_epoch` corrupted images: (steps,) losses on the CPU, and their mean over images."""
    settings = params.training
    state.step.begin_epoch(epoch)
    state.network.train()
    order = _order(len(train), settings.images_per_epoch, settings.seed, epoch)
    whole = order.split(settings.batch_size)
    turned = draw_turns(state.turns, len(order), seed=settings.seed, epoch=epoch)
    quarters = [None] * len(whole) if turned is None else turned.split(settings.batch_size)
    batches = list(zip(whole, quarters, strict=True))[:most_steps]
    losses = torch.empty(len(batches), device=device)  # stay on the device: no synchronisation inside an epoch
    for step, (indices, turns) in enumerate(batches):
        if settings.schedule == "cosine":
            share = cosine_share((epoch + step / len(whole)) / settings.epochs)
            set_rate(state.step.optimiser, settings.learning_rate * share)
        losses[step] = state.step(train, indices, turns)
        progress(len(indices))
    found = losses.cpu()
    sizes = torch.tensor([len(indices) for indices, _ in batches], dtype=torch.float64)
    return found, float((found.double() * sizes).sum() / sizes.sum())


def _require_finite(values: dict[str, float], epoch: int, learning_rate: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise AescError(
                "training.learning_rate",
                f"the {name} became {value} in epoch {epoch} at {learning_rate}",
                todo="lower it, for instance --set training.learning_rate=0.001",
            )


def _order(images: int, count: int, seed: int, epoch: int) -> Tensor:
    """`count` indices below `images`: whole permutations, one after the other."""
    stream = generator(seed, Stream.ORDER, epoch)
    rounds = math.ceil(count / images)
    return torch.cat([torch.randperm(images, generator=stream) for _ in range(rounds)])[:count]


@torch.no_grad()
def validation_psnr(network: AESc, validation: Pixels, *, params: Params, device: torch.device) -> float:
    """PSNR in dB of the reconstructions of corrupted validation images, the same corruptions at every call."""
    stream = generator(params.training.seed, Stream.VALIDATION, device=device)
    network.eval()
    total = torch.zeros((), device=device)
    for clean in validation.batches(params.training.batch_size):
        example = make_example(clean, params=params.corruption, generator=stream)
        with autocast(device, params.training.precision):
            output = network(example.corrupted)
        total += F.mse_loss(output, example.target) * len(clean)
    return -10.0 * math.log10(max(total.item() / len(validation), 1e-12))


def _weights(network: AESc) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _save(state: _State, path: Path, fingerprint: str) -> None:
    content = {
        "version": CHECKPOINT_VERSION,
        "fingerprint": fingerprint,
        "network": state.network.state_dict(),
        "optimiser": state.step.optimiser.state_dict(),
        "schedule": state.schedule.state_dict(),
        "best": state.best,
        "best_epoch": state.best_epoch,
        "turns": state.turns,
        "losses": state.losses,
        "history": [asdict(epoch) for epoch in state.history],
    }

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a path, PyTorch would hide why a write failed
            torch.save(content, file)

    write_atomically(path, write)


def _resume(state: _State, path: Path, fingerprint: str, device: torch.device) -> int:
    """Load `path` into `state` if it fits; the number of epochs already done."""
    if not path.exists():
        return 0
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise AescError(
            path, f"not a readable checkpoint: {error}", todo=f"delete {path} to train from the start"
        ) from error
    if not isinstance(content, dict):
        raise AescError(
            path,
            f"not a checkpoint: it holds {type(content).__name__}",
            todo=f"delete {path} to train from the start",
        )
    if content.get("version") != CHECKPOINT_VERSION or content.get("fingerprint") != fingerprint:
        return 0
    state.network.load_state_dict(content["network"])
    state.step.load_optimiser(content["optimiser"])
    state.schedule.load_state_dict(content["schedule"])
    state.best = content["best"]
    state.best_epoch = content["best_epoch"]
    state.turns = tuple(content["turns"])
    state.losses = [losses.cpu() for losses in content["losses"]]
    state.history = [Epoch(**epoch) for epoch in content["history"]]
    return len(state.history)
