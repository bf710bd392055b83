"""Many stochastic reconstructions of the same images: what all passes share is computed once (section III-C).

A pass equals `AESc.forward` with one dropout mask a layer for the whole batch, up to rounding. It is cheaper because

- encoder levels before the first dropout, and the convolution in front of it, do not differ between passes;
- batch norm, in inference mode an affine map, is folded into the convolutions, and the 5x5 kernels of the upsampling
  convolutions are brought to their four phases once, not at each pass;
- the masks follow from the seed alone, so they are drawn once and kept;
- on a CPU one image after the other goes through all its passes: below the first dropout several together, because
  maps are small there and kernels large, above it few (at 256 x 256 one by one), because maps are large and would not
  stay in the cache. On a GPU all images and as many passes as fill it go through everything together;
- where the device has units for it, the convolutions between the dropout layers multiply in bfloat16 (sums and maps
  stay float32). What comes after the last dropout is float32: rounding there would pass for uncertainty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aesc.device import gains_by_bfloat16
from aesc.network import LEAKY_SLOPE, AESc, Down, Skip, Up, dropout_mask
from aesc.seeding import Stream, generator
from aesc.upsampling import interleave_phases, phase_kernels

DEEP_PASSES = 10  # of an image that go at once through what lies below the first dropout on a CPU,
DEEP_NUMBERS = 2**21  # as long as the maps of its first level have no more numbers than this together
SHALLOW_PIXELS = 256 * 256  # passes x pixels that go through the large maps at once there
GPU_PIXELS = 256 * 256 * 256  # passes x images x pixels that go through everything at once on a GPU
FOLDED_TOGETHER = 16  # output maps of a layer that are prepared at once


class _Mask(NamedTuple):
    """What a layer keeps, passes x maps x height x width, bool, and what that is multiplied by."""

    kept: Tensor
    scale: float


# One a layer, in the order of `AESc.forward`; None where the rate is 0.
_Masks = list[_Mask | None]


class _Kernel(NamedTuple):
    """A convolution with its batch norm in it; the weight's type is that of the products."""

    weight: Tensor
    bias: Tensor


class StochasticPasses:
    """`network` in evaluation mode, prepared for passes with dropout; what it was made from is not referred to.

    Preparing costs less than one pass of one image and holds the weights a second time (43 MB at 256 x 256, in bfloat16
    22 MB).

    Args:
        network: the trained network.
        bfloat16: whether to multiply in bfloat16 between the dropout layers; None where the device gains by it.
    """

    def __init__(self, network: AESc, *, bfloat16: bool | None = None) -> None:
        self._rates = network.rates
        self._skip: Skip = network.skip
        self._joined = [network.joins(level) for level in range(len(network.rates))]
        self._first = next((level for level, rate in enumerate(network.rates) if rate), len(network.rates))
        downs, ups = cast(Iterable[Down], network.encoder), cast(Iterable[Up], network.decoder)
        low = gains_by_bfloat16(network.head.weight.device) if bfloat16 is None else bfloat16
        deep = len(network.decoder) - self._first  # upsamplings between the dropout layers
        self._down = [
            _prepared(level.conv.weight, level.norm, bfloat16=low and number > self._first)
            for number, level in enumerate(downs)
        ]
        self._up = [
            _prepared(level.weight, level.norm, phases=True, bfloat16=low and number < deep)
            for number, level in enumerate(ups)
        ]
        self._head = _phases(_Kernel(network.head.weight.detach(), network.head.bias.detach()))
        self._masks: dict[tuple[int, int], _Masks] = {}
        self._image_size = network.image_size

    @property
    def random(self) -> bool:
        """Whether any layer drops; without one all passes are equal."""
        return self._first < len(self._rates)

    def variance(self, images: Tensor, *, passes: int, seed: int) -> Tensor:
        """Variance over the passes: batch x channels x side x side, float32."""
        if not self.random:
            return torch.zeros_like(images, dtype=torch.float32)
        masks = self._masks_of(passes, seed, images.device)
        on_cpu = images.device.type == "cpu"
        some = images.split(1 if on_cpu else len(images))
        return torch.cat([self._variance(part, masks, passes, on_cpu=on_cpu) for part in some])

    def _variance(self, images: Tensor, masks: _Masks, passes: int, *, on_cpu: bool) -> Tensor:
        batch, channels, height, width = images.shape
        # Pixels are counted where the four phases lie, so that they are laid between each other once.
        mean = torch.zeros(batch, height // 2, width // 2, 4 * channels, device=images.device).permute(0, 3, 1, 2)
        squares = torch.zeros_like(mean)
        for count, outputs in enumerate(self._outputs(images, masks, passes, on_cpu=on_cpu), start=1):
            welford(mean, squares, outputs, count)
        return interleave_phases(squares.div_(passes - 1))

    def _outputs(self, images: Tensor, masks: _Masks, passes: int, *, on_cpu: bool) -> Iterator[Tensor]:
        """Each pass's outputs of all `images`, in four phases."""
        batch, pixels = len(images), images[:, 0].numel()
        levels = self._common(images)
        if on_cpu:
            below = max(1, min(DEEP_PASSES, DEEP_NUMBERS // levels[self._first].numel()))
            above = max(1, SHALLOW_PIXELS // pixels)
        else:
            below = above = max(1, GPU_PIXELS // pixels)
        for numbers in _equal_parts(passes, most=below):
            chosen = [mask and mask._replace(kept=mask.kept[numbers]) for mask in masks]
            deep = self._deep(levels[self._first], chosen)
            for some in deep.split(batch * above):
                yield from self._shallow(some, levels[: self._first]).split(batch)
            del deep, some  # the next part needs their memory

    def _common(self, images: Tensor) -> list[Tensor]:
        """The encoder's levels up to the one that drops first, before it drops."""
        levels, x = [], images.contiguous(memory_format=torch.channels_last)
        for kernel in self._down[: self._first + 1]:
            x = _down(x, kernel)
            levels.append(x)
        return levels

    def _deep(self, first: Tensor, masks: _Masks) -> Tensor:
        """From the first level that drops to the last: (passes * batch) x maps x height x width, passes first."""
        batch = len(first)
        passes = next(len(mask.kept) for mask in masks if mask is not None)
        dropping = len(self._rates) - self._first
        encoder_masks, decoder_masks = masks[:dropping], masks[dropping:]
        x = _drop(first.repeat(passes, 1, 1, 1), encoder_masks, 0, batch)
        levels = [x]
        for number, kernel in enumerate(self._down[self._first + 1 :], start=1):
            x = _drop(_down(x, kernel), encoder_masks, number, batch)
            levels.append(x)
        levels.pop()  # the bottleneck is not its own skip
        for number, kernel in enumerate(self._up[: len(levels)]):
            x = _drop(_up(x, kernel), decoder_masks, number, batch)
            x = self._join(x, levels.pop(), self._first + len(levels))
        return x

    def _shallow(self, x: Tensor, levels: list[Tensor]) -> Tensor:
        """The rest of the decoder, where nothing drops, of one pass or of several that share `levels`."""
        skipped = list(levels)
        for kernel in self._up[len(self._up) - len(skipped) :]:
            x = self._join(_up(x, kernel), skipped.pop(), len(skipped))
        return torch.sigmoid_(F.conv2d(x, self._head.weight, self._head.bias, padding=1))

    def _join(self, x: Tensor, skipped: Tensor, level: int) -> Tensor:
        """`skipped` holds as many images as `x` or, where passes share it, those of one pass."""
        if not self._joined[level]:
            return x
        if self._skip == "add":
            x.unflatten(0, (-1, len(skipped))).add_(skipped)
            return x
        if len(skipped) < len(x):
            skipped = _channels_last(skipped.repeat(len(x) // len(skipped), 1, 1, 1))
        return torch.cat([x, skipped], dim=1)

    def _masks_of(self, passes: int, seed: int, device: torch.device) -> _Masks:
        """The masks of all passes, drawn in the order in which `AESc.forward` draws them."""
        if (passes, seed) not in self._masks:
            # On the CPU, whatever the images are on: a threshold calibrated on one device must hold on another.
            stream = generator(seed, Stream.MC_DROPOUT)
            layers = list(self._layers())
            masks = [
                _Mask(_channels_last(torch.empty(passes, *shape, dtype=torch.bool)), _scale(rate)) if rate else None
                for shape, rate in layers
            ]
            for number in range(passes):
                for (shape, rate), mask in zip(layers, masks, strict=True):
                    if mask is not None:
                        mask.kept[number] = dropout_mask((1, *shape), rate, stream)[0] > 0.0
            self._masks = {(passes, seed): [mask and mask._replace(kept=mask.kept.to(device)) for mask in masks]}
        return self._masks[passes, seed]

    def _layers(self) -> Iterator[tuple[tuple[int, int, int], float]]:
        """Shape and rate of the layers from the first that drops to the last, encoder then decoder."""
        depth = len(self._rates)
        for level in range(self._first, depth):
            yield self._maps(level), self._rates[level]
        for level in range(depth - 2, self._first - 1, -1):
            yield self._maps(level), self._rates[level]

    def _maps(self, level: int) -> tuple[int, int, int]:
        side = self._image_size >> (level + 1)
        return len(self._down[level].bias), side, side


def _equal_parts(count: int, *, most: int) -> list[slice]:
    """Of equal length or one less: for each length that it has not met, the convolution library prepares itself."""
    parts = -(-count // most)
    edges = [count * number // parts for number in range(parts + 1)]
    return [slice(begin, end) for begin, end in pairwise(edges)]


def welford(mean: Tensor, squares: Tensor, outputs: Tensor, count: int) -> None:
    """Take the `count`-th pass into a running mean and sum of squared deviations; `outputs` is overwritten."""
    delta = outputs.sub_(mean)
    mean.add_(delta, alpha=1.0 / count)
    squares.addcmul_(delta, delta, value=(count - 1.0) / count)


def prepared(network: AESc) -> StochasticPasses:
    """`StochasticPasses` of `network`, kept until a weight changes or the network is gone.

    Some optimisers change weights without PyTorch's counting it; a step of training also changes batch norm's
    statistics, and that is counted. Nothing that a recorded step changes is: a trained network's weights are loaded
    anew at the end, which is.
    """
    state = tuple((tensor.data_ptr(), tensor._version) for tensor in network.state_dict(keep_vars=True).values())
    if network not in _kept or _kept[network][0] != state:
        _kept[network] = state, StochasticPasses(network)
    return _kept[network][1]


_kept: WeakKeyDictionary[AESc, tuple[tuple[tuple[int, int], ...], StochasticPasses]] = WeakKeyDictionary()


def _prepared(weight: Tensor, norm: nn.BatchNorm2d, *, phases: bool = False, bfloat16: bool) -> _Kernel:
    """With the batch norm in it, or its four phases; a few maps at a time, or what lies between would be large."""
    assert norm.running_mean is not None  # noqa: S101  # narrows the type: AESc's norms all track
    assert norm.running_var is not None  # noqa: S101
    scale = norm.weight.detach() * torch.rsqrt(norm.running_var + norm.eps)
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    copies, side = (4, 3) if phases else (1, weight.shape[-1])
    folded = torch.empty(copies, len(weight), side, side, weight.shape[1], dtype=dtype, device=weight.device)
    for begin in range(0, len(weight), FOLDED_TOGETHER):
        rows = slice(begin, begin + FOLDED_TOGETHER)
        part = weight.detach()[rows] * scale[rows, None, None, None]
        part = phase_kernels(part) if phases else part
        folded[:, rows] = part.permute(0, 2, 3, 1).unflatten(0, (copies, -1))
    bias = (norm.bias.detach() - norm.running_mean * scale).repeat(copies)
    return _Kernel(folded.flatten(0, 1).permute(0, 3, 1, 2), bias.to(dtype))


def _phases(kernel: _Kernel) -> _Kernel:
    return _Kernel(_channels_last(phase_kernels(kernel.weight)), kernel.bias.repeat(4))


def _down(x: Tensor, kernel: _Kernel) -> Tensor:
    products = F.conv2d(x.to(kernel.weight.dtype), kernel.weight, kernel.bias, stride=2, padding=2)
    return F.leaky_relu_(products.float(), LEAKY_SLOPE)


def _up(x: Tensor, kernel: _Kernel) -> Tensor:
    products = F.conv2d(x.to(kernel.weight.dtype), kernel.weight, kernel.bias, padding=1)
    return interleave_phases(F.leaky_relu_(products, LEAKY_SLOPE)).float()


def _drop(x: Tensor, masks: _Masks, number: int, batch: int) -> Tensor:
    """Each pass's mask on all its images, in place: x is (passes * batch) x maps x height x width."""
    mask = masks[number]
    if mask is None:
        return x
    x.unflatten(0, (len(mask.kept), batch)).mul_(mask.kept[:, None])
    return x.mul_(mask.scale)


def _scale(rate: float) -> float:
    """What `dropout_mask` has where it keeps: that float32 number."""
    return (torch.ones(()) / (1.0 - rate)).item()


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
