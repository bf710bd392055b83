"""One training step: corrupt a batch, give it back, compare, learn.

On a CUDA device both halves are recorded (aesc/recorded.py) and run beside each other: while the network learns from
one batch, the next is corrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aesc.device import autocast
from aesc.examples import Example, make_example, restoration_loss
from aesc.learning_rate import set_rate
from aesc.network import AESc, in_memory_order
from aesc.params import Params
from aesc.pixels import Pixels
from aesc.recorded import Recorded
from aesc.seeding import Stream, derive_seed
from aesc.segmentation import focal_loss

STEPS_BEFORE_RECORDING = 3


class TrainingStep:
    """The steps of one training, with the optimiser and the random streams that they draw from.

    On a CUDA device the first steps run as they are; from then on they are replayed, with the same results. A batch of
    another size runs as it is.

    Args:
        network: in training mode, on `device`; its weights must stay where they are in memory.
        params: network, corruption and training are used.
        device: of the images too.
    """

    def __init__(self, network: AESc, *, params: Params, device: torch.device) -> None:
        self._seed = params.training.seed
        self._batch_size = params.training.batch_size
        recorded = device.type == "cuda"
        rate = params.training.learning_rate
        # What is recorded reads the rate from the device.
        self._rate = torch.tensor(rate, device=device) if recorded else None
        self._flags = {"fused": device.type != "mps", "capturable": recorded}
        # On a CPU Adam copies what is not contiguous, so it gets views that are.
        learnt = [(parameter, in_memory_order(parameter.detach())) for parameter in network.parameters()]
        self.optimiser = torch.optim.Adam(
            [view for _, view in learnt],
            lr=rate if self._rate is None else self._rate,
            fused=self._flags["fused"],
            capturable=self._flags["capturable"],
        )
        self._halves = _Halves(network, learnt, self.optimiser, params=params, device=device)
        self._replays = _Replays(self._halves, device) if recorded else None

    @property
    def rate(self) -> float:
        """The learning rate in use."""
        rate = self.optimiser.param_groups[0]["lr"]
        # Of a float32 tensor the shortest number that it stands for: 0.004, not 0.004000000189989805.
        return float(str(np.float32(float(rate)))) if isinstance(rate, Tensor) else float(rate)

    def begin_epoch(self, epoch: int) -> None:
        """Seed the streams: what an epoch draws depends on the training's seed and the epoch only."""
        self._halves.corruption.manual_seed(derive_seed(self._seed, Stream.CORRUPTION, epoch))
        self._halves.dropout.manual_seed(derive_seed(self._seed, Stream.DROPOUT, epoch))

    def load_optimiser(self, content: dict[str, Any]) -> None:
        """Take up the state of an optimiser of whatever kind of device, before the first step."""
        self.optimiser.load_state_dict(content)
        for group in self.optimiser.param_groups:
            group.update(self._flags)
            group["lr"] = float(group["lr"])
        if self._rate is not None:
            self._keep_rate()

    def __call__(self, images: Pixels, indices: Tensor, turns: Tensor | None = None) -> Tensor:
        """One step on the `images` at `indices`, turned by so many quarters; its loss, on the device, which the next
        step may overwrite.
        """
        if self._replays is None:
            (loss,) = self._halves.learn(*self._halves.corrupt(images.batch(indices, turns)))
            return loss
        self._keep_rate()
        return self._replays.step(images, indices, turns, usual=len(indices) == self._batch_size)

    def _keep_rate(self) -> None:
        """What is recorded reads one rate: another that was put in its place, as a schedule may, is copied into it."""
        for group in self.optimiser.param_groups:
            if group["lr"] is not self._rate:
                rate, group["lr"] = float(group["lr"]), self._rate
                set_rate(self.optimiser, rate)


class _Halves:
    """A step's two halves, as they are."""

    def __init__(
        self,
        network: AESc,
        learnt: Sequence[tuple[Tensor, Tensor]],
        optimiser: torch.optim.Optimizer,
        *,
        params: Params,
        device: torch.device,
    ) -> None:
        self._network = network
        self._learnt = learnt  # each parameter, and the view of it that the optimiser has
        self._optimiser = optimiser
        self._params = params
        self.corruption, self.dropout = torch.Generator(device), torch.Generator(device)

    def corrupt(self, clean: Tensor) -> Example:
        """What is learnt from a batch of clean images: batch x channels x side x side in [0, 1]."""
        return make_example(clean, params=self._params.corruption, generator=self.corruption)

    def learn(self, corrupted: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor]:
        """Learn from an example; its loss, of restoration and, where there is a head, of segmentation."""
        settings = self._params.training
        self._network.zero_grad(set_to_none=True)
        self._optimiser.zero_grad(set_to_none=True)
        with autocast(corrupted.device, settings.precision):
            drops = self._params.network.dropout_in_training
            output = self._network(corrupted, generator=self.dropout if drops else None)
            head = self._network.segmentation
            logits = None if head is None else head(corrupted, output.detach())
        example = Example(corrupted, target, mask)
        loss = restoration_loss(output, example, kind=settings.loss, corrupted_weight=settings.corrupted_weight)
        if logits is not None:
            loss = loss + focal_loss(logits, mask)
        loss.backward()
        for parameter, view in self._learnt:
            view.grad = None if parameter.grad is None else in_memory_order(parameter.grad)
        self._optimiser.step()
        return (loss.detach(),)


class _Replays:
    """The two halves on a CUDA device, each recorded on a stream of its own."""

    def __init__(self, halves: _Halves, device: torch.device) -> None:
        self._halves = halves
        self._device = device
        self._steps = 0
        self._corrupting, self._learning = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._corrupt = Recorded(halves.corrupt, generators=[halves.corruption], stream=self._corrupting)
        self._learn = Recorded(halves.learn, generators=[halves.dropout], stream=self._learning)
        self._made, self._taken = torch.cuda.Event(), torch.cuda.Event()

    def step(self, images: Pixels, indices: Tensor, turns: Tensor | None, *, usual: bool) -> Tensor:
        self._steps += 1
        with torch.cuda.device(self._device):  # streams and events are those of the current device
            if not usual or self._steps <= STEPS_BEFORE_RECORDING:
                return self._as_it_is(images, indices, turns)
            return self._replayed(images, indices, turns)

    def _as_it_is(self, images: Pixels, indices: Tensor, turns: Tensor | None) -> Tensor:
        caller = torch.cuda.current_stream()
        self._learning.wait_stream(caller)
        with torch.cuda.stream(self._learning):
            (loss,) = self._halves.learn(*self._halves.corrupt(images.batch(indices, turns)))
        caller.wait_stream(self._learning)
        return loss

    def _replayed(self, images: Pixels, indices: Tensor, turns: Tensor | None) -> Tensor:
        caller = torch.cuda.current_stream()
        with torch.cuda.stream(self._corrupting):
            self._corrupting.wait_event(self._taken)
            self._corrupt.take(images.batch(indices, turns))
            example = self._corrupt.replay()
            self._made.record()
        caller.wait_event(self._made)
        self._learn.take(*example)
        self._taken.record()
        (loss,) = self._learn.replay()
        return loss
