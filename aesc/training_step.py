"""One training step: corrupt a batch, give it back, compare, learn. On a GPU it is recorded once and replayed.

A step is some hundred small kernels; launching them one by one takes longer than computing them. A CUDA graph launches
all of them at once (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

from __future__ import annotations

import torch
from torch import Tensor

from aesc.device import autocast
from aesc.examples import make_example, restoration_loss
from aesc.learning_rate import set_rate
from aesc.network import AESc
from aesc.params import Params
from aesc.seeding import Stream, derive_seed

WARM_UP = 3  # steps before one is recorded: libraries choose their kernels and set up their memory in the first ones


def train_step(
    network: AESc,
    optimiser: torch.optim.Optimizer,
    clean: Tensor,
    *,
    params: Params,
    corruption_stream: torch.Generator,
    dropout_stream: torch.Generator,
) -> Tensor:
    """One step on a batch of clean images (batch x channels x side x side in [0, 1]); its loss, still on the device."""
    settings = params.training
    example = make_example(clean, params=params.corruption, generator=corruption_stream)
    optimiser.zero_grad(set_to_none=True)
    with autocast(clean.device, settings.precision):
        output = network(example.corrupted, generator=dropout_stream if params.network.dropout_in_training else None)
    loss = restoration_loss(output, example, corrupted_weight=settings.corrupted_weight)
    loss.backward()
    optimiser.step()
    return loss.detach()


class TrainingStep:
    """The steps of one training, with the random streams that they draw from.

    On a CUDA device the first steps run as they are; then one is recorded, and replayed with other images. Replayed or
    not, a step launches the same kernels on the same random numbers. A batch of another size runs as it is.

    Args:
        network: in training mode, on `device`.
        params: network, corruption and training are used.
        device: of the batches too.
    """

    def __init__(self, network: AESc, *, params: Params, device: torch.device) -> None:
        self._network = network
        self._params = params
        recorded = device.type == "cuda"
        rate = params.training.learning_rate
        # What is recorded reads the rate from the device.
        self._rate = torch.tensor(rate, device=device) if recorded else None
        self.optimiser = torch.optim.Adam(
            network.parameters(),
            lr=rate if self._rate is None else self._rate,
            fused=device.type != "mps",
            capturable=recorded,
        )
        self._streams = {stream: torch.Generator(device) for stream in (Stream.CORRUPTION, Stream.DROPOUT)}
        self._steps = 0
        self._side = torch.cuda.Stream(device) if recorded else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._clean = self._loss = torch.empty(0)

    def begin_epoch(self, epoch: int) -> None:
        """Seed the streams: what an epoch draws depends on the training's seed and the epoch only."""
        for stream, drawn in self._streams.items():
            drawn.manual_seed(derive_seed(self._params.training.seed, stream, epoch))

    def __call__(self, clean: Tensor) -> Tensor:
        """One step on a batch of clean images, see `train_step`; use the loss before the next step overwrites it."""
        if self._side is None:
            return self._run(clean)
        self._keep_rate()
        self._steps += 1
        if self._graph is None and self._steps > WARM_UP and len(clean) == self._params.training.batch_size:
            self._graph = self._record(clean)
        if self._graph is None or clean.shape != self._clean.shape:
            self._side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._side):
                loss = self._run(clean)
            torch.cuda.current_stream().wait_stream(self._side)
            return loss
        self._clean.copy_(clean)
        self._graph.replay()
        return self._loss

    def _run(self, clean: Tensor) -> Tensor:
        return train_step(
            self._network,
            self.optimiser,
            clean,
            params=self._params,
            corruption_stream=self._streams[Stream.CORRUPTION],
            dropout_stream=self._streams[Stream.DROPOUT],
        )

    def _record(self, clean: Tensor) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        for stream in self._streams.values():
            graph.register_generator_state(stream)
        self._clean = clean.clone()
        with torch.cuda.graph(graph, stream=self._side, capture_error_mode="thread_local"):
            self._loss = self._run(self._clean)
        return graph

    def _keep_rate(self) -> None:
        """A loaded checkpoint, and the schedules of some versions of PyTorch, put a rate of their own in its place."""
        for group in self.optimiser.param_groups:
            if group["lr"] is not self._rate:
                rate, group["lr"] = float(group["lr"]), self._rate
                set_rate(self.optimiser, rate)
