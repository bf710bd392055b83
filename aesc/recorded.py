"""A function of tensors on a CUDA device, recorded once as a CUDA graph and replayed on other tensors.

A training step is some hundred small kernels; launching them one by one takes longer than computing them. A graph
launches them all at once (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Recorded:
    """Replays `function`; a replay launches the kernels that it would, on the same random numbers.

    Tensors that a replay changes keep their version, so that who watches versions does not see it.

    Before the first call the function must have run a few times, in which libraries choose kernels and set up memory.

    Args:
        function: of tensors to tensors; whatever else it reads or changes must stay where it is in memory.
        generators: the random streams that it draws from.
        stream: on which it is recorded, not the default one.
    """

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        *,
        generators: Sequence[torch.Generator],
        stream: torch.cuda.Stream,
    ) -> None:
        self._function = function
        self._generators = generators
        self._stream = stream
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: tuple[Tensor, ...] = ()

    def take(self, *inputs: Tensor) -> None:
        """Have the next replay work on `inputs`, always of the same shapes; afterwards they may be overwritten."""
        if self._graph is None:
            self._graph = self._record(inputs)
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)

    def replay(self) -> tuple[Tensor, ...]:
        """What the function makes of the inputs; the next `take` may overwrite it."""
        assert self._graph is not None  # noqa: S101  # narrows the type: `take` comes first
        self._graph.replay()
        return self._outputs

    def _record(self, inputs: Sequence[Tensor]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        self._inputs = [given.clone() for given in inputs]
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._outputs = self._function(*self._inputs)
        return graph
