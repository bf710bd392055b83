"""One training step: corrupt a batch, give it back, compare, learn.

On a CUDA device both halves are recorded (aesc/recorded.py) and run beside each other: while the network learns from
one batch, the next is corrupted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aesc.device import autocast
from aesc.examples import Example, make_example, restoration_loss
from aesc.learning_rate import set_rate
from aesc.network import AESc
from aesc.params import Params
from aesc.pixels import Pixels
from aesc.recorded import Recorded
from aesc.seeding import Stream, derive_seed

WARM_UP = 3  # steps before they are recorded


class TrainingStep:
    """The steps of one training, with the optimiser and the random streams that they draw from.

    On a CUDA device the first steps run as they are; from then on they are replayed, with the same results. A batch of
    another size runs as it is.

    Args:
        network: in training mode, on `device`.
        params: network, corruption and training are used.
        device: of the images too.
    """

    def __init__(self, network: AESc, *, params: Params, device: torch.device) -> None:
        self._network = network
        self._params = params
        self._streams = {stream: torch.Generator(device) for stream in (Stream.CORRUPTION, Stream.DROPOUT)}
        self._replays = _Replays(self, device) if device.type == "cuda" else None
        rate = params.training.learning_rate
        # What is recorded reads the rate from the device.
        self._rate = torch.tensor(rate, device=device) if self._replays else None
        self.optimiser = torch.optim.Adam(
            network.parameters(),
            lr=rate if self._rate is None else self._rate,
            fused=device.type != "mps",
            capturable=self._replays is not None,
        )

    def begin_epoch(self, epoch: int) -> None:
        """Seed the streams: what an epoch draws depends on the training's seed and the epoch only."""
        for stream, drawn in self._streams.items():
            drawn.manual_seed(derive_seed(self._params.training.seed, stream, epoch))

    def load_optimiser(self, content: dict[str, Any]) -> None:
        """Take up the state of an optimiser, of whatever kind of device."""
        self.optimiser.load_state_dict(content)
        for group in self.optimiser.param_groups:
            group["capturable"] = self._rate is not None
            group["lr"] = float(group["lr"])
        if self._rate is not None:
            self._keep_rate()

    def __call__(self, images: Pixels, indices: Tensor) -> Tensor:
        """One step on the `images` at `indices`; its loss, on the device, which the next step may overwrite."""
        if self._replays is None:
            return self.learn(*self.corrupt(images.batch(indices)))[0]
        self._keep_rate()
        return self._replays.step(images, indices, usual=len(indices) == self._params.training.batch_size)

    def corrupt(self, clean: Tensor) -> Example:
        """What is learnt from a batch of clean images: batch x channels x side x side in [0, 1]."""
        return make_example(clean, params=self._params.corruption, generator=self._streams[Stream.CORRUPTION])

    def learn(self, corrupted: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor]:
        """Learn from an example; its loss."""
        settings = self._params.training
        drops = self._streams[Stream.DROPOUT] if self._params.network.dropout_in_training else None
        self.optimiser.zero_grad(set_to_none=True)
        with autocast(corrupted.device, settings.precision):
            output = self._network(corrupted, generator=drops)
        example = Example(corrupted, target, mask)
        loss = restoration_loss(output, example, corrupted_weight=settings.corrupted_weight)
        loss.backward()
        self.optimiser.step()
        return (loss.detach(),)

    @property
    def generators(self) -> list[torch.Generator]:
        """What the two halves draw from: corruption, dropout."""
        return list(self._streams.values())

    def _keep_rate(self) -> None:
        """What is recorded reads one rate: another that was put in its place, as a schedule may, is copied into it."""
        for group in self.optimiser.param_groups:
            if group["lr"] is not self._rate:
                rate, group["lr"] = float(group["lr"]), self._rate
                set_rate(self.optimiser, rate)


class _Replays:
    """The two halves of a step on a CUDA device, each recorded on a stream of its own."""

    def __init__(self, step: TrainingStep, device: torch.device) -> None:
        self._step = step
        self._steps = 0
        self._corrupting, self._learning = torch.cuda.Stream(device), torch.cuda.Stream(device)
        corruption, dropout = step.generators
        self._corrupt = Recorded(step.corrupt, generators=[corruption], stream=self._corrupting)
        self._learn = Recorded(step.learn, generators=[dropout], stream=self._learning)
        self._made, self._taken = torch.cuda.Event(), torch.cuda.Event()

    def step(self, images: Pixels, indices: Tensor, *, usual: bool) -> Tensor:
        self._steps += 1
        if not usual or self._steps <= WARM_UP:
            return self._as_it_is(images, indices)
        caller = torch.cuda.current_stream()
        with torch.cuda.stream(self._corrupting):
            self._corrupting.wait_event(self._taken)
            self._corrupt.take(images.batch(indices))
            example = self._corrupt.replay()
            self._made.record()
        caller.wait_event(self._made)
        self._learn.take(*example)
        self._taken.record()
        return self._learn.replay()[0]

    def _as_it_is(self, images: Pixels, indices: Tensor) -> Tensor:
        caller = torch.cuda.current_stream()
        self._learning.wait_stream(caller)
        with torch.cuda.stream(self._learning):
            (loss,) = self._step.learn(*self._step.corrupt(images.batch(indices)))
        caller.wait_stream(self._learning)
        return loss
