"""Synthetic defects: stain, blobs, scratch, drops, noise (arXiv 2008.12977, section III-B).

Everything is drawn from one explicit generator on the device of the images. On a CPU a local corruption is computed in
a window around it, stains and blobs by compiled loops over their own boxes. Elsewhere all is tensor arithmetic on whole
images: no device is asked how large it is, and scattering costs a GPU more than the pixels saved.
Differences from the authors' code, also in docs/method.md: the stain is written in polar form, an ellipse's radius
times a cubic interpolation over the angle, and a blurred edge is the Gaussian blur of a straight edge, evaluated by
distance.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aesc import stain, stain_loops
from aesc.params import Corruption
from aesc.placement import Shape, offsets, place
from aesc.structured import paint_structured

# Of the image side. The paper names these corruptions without numbers.
SCRATCH_HALF_LENGTH = (0.05, 0.15)
SCRATCH_HALF_WIDTH = (0.002, 0.006)
SCRATCH_AMPLITUDE = (0.0, 0.04)
SCRATCH_WAVELENGTH = (0.08, 0.3)
DROPS = 10
DROP_RADIUS = (0.004, 0.02)
DROPS_SPREAD = (0.03, 0.1)


def corrupt(
    images: Tensor, *, params: Corruption, generator: torch.Generator, inplace: bool = False
) -> tuple[Tensor, Tensor]:
    """Draw one corruption on every image.

    Args:
        images: batch x channels x side x side in [0, 1]; left as they are unless `inplace`.
        params: kind and ranges.
        generator: on the images' device; the same state gives the same corruption.
        inplace: corrupt `images` themselves, which saves the copy of a batch that is not needed clean any more.

    Returns:
        The corrupted images, same shape, and where they were changed: batch x 1 x side x side, bool (a pixel of a soft
        edge counts from opacity 0.5).
    """
    batch, _, side, _ = images.shape
    mask = torch.zeros(batch, 1, side, side, dtype=torch.bool, device=images.device)
    corrupted = images if inplace else images.clone()
    if params.kind == "none":
        return corrupted, mask
    if params.kind == "gaussian":
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        return corrupted.add_(noise, alpha=params.gaussian_std).clamp_(0.0, 1.0), ~mask
    if params.kind == "structured":
        original = None if inplace else images
        return corrupted, paint_structured(corrupted, params=params.structured, generator=generator, original=original)
    if params.kind == "stain":
        if images.device.type == "cpu":
            stain_loops.paint(corrupted, mask, params=params, generator=generator)
            return corrupted, mask
        draws = stain.draw(batch, generator, images.device)
        shape = stain.fill(stain.trace(draws, side, params), side, params)
    else:
        draw = {"scratch": _scratch, "drops": _drops}[params.kind]
        shape = draw(batch, side, params, generator, images.device)
    _paint(corrupted, mask, shape, params, generator)
    return corrupted, mask


def _level(images: Tensor, params: Corruption, generator: torch.Generator) -> Tensor:
    """The filling's level in [0, 1]: batch x tints, one tint for all channels or one a channel."""
    batch, channels = images.shape[:2]
    tints = channels if params.colour else 1
    return _uniform((batch, tints), params.grey, generator, images.device) / 255.0


def _paint(images: Tensor, mask: Tensor, shape: Shape, params: Corruption, generator: torch.Generator) -> None:
    """Blend one filling level an image, plus noise, into the window or the whole image, in place."""
    batch = len(images)
    window = shape.opacity.shape[-1]
    device = images.device
    level = _level(images, params, generator)[:, None, None]
    tints = level.shape[-1]
    noise = torch.randn(batch, window, window, tints, generator=generator, device=device)
    filling = (level + math.sqrt(params.noise_variance) * noise).clamp(0.0, 1.0)

    opacity = shape.opacity[..., None]
    pixels = images.permute(0, 2, 3, 1)
    if window == images.shape[-1]:
        pixels.add_(opacity * (filling - pixels))
        mask[:, 0] = shape.opacity >= 0.5
        return
    steps = torch.arange(window, device=device)
    item = torch.arange(batch, device=device)[:, None, None]
    rows = (shape.corner[:, 0, None] + steps)[:, :, None]
    columns = (shape.corner[:, 1, None] + steps)[:, None, :]
    under = pixels[item, rows, columns]
    pixels[item, rows, columns] = under + opacity * (filling - under)
    mask[:, 0][item, rows, columns] = shape.opacity >= 0.5


def _scratch(batch: int, side: int, params: Corruption, generator: torch.Generator, device: torch.device) -> Shape:
    """A stroke along a line, a sine or a square root, turned at random."""
    half_length, half_width, amplitude, wavelength = (
        _uniform((batch, 1, 1), (low * side, high * side), generator, device)
        for low, high in (SCRATCH_HALF_LENGTH, SCRATCH_HALF_WIDTH, SCRATCH_AMPLITUDE, SCRATCH_WAVELENGTH)
    )
    half_width = half_width.clamp(min=0.75)  # below it a stroke may fall between the pixels
    turn = _uniform((batch, 1, 1), (0.0, 2 * math.pi), generator, device)
    phase = _uniform((batch, 1, 1), (0.0, 2 * math.pi), generator, device)
    kind = torch.randint(3, (batch, 1, 1), generator=generator, device=device)
    extent = torch.hypot(half_length, amplitude + half_width).flatten()[:, None].expand(-1, 2)
    centre = place(extent, side, torch.rand(extent.shape, generator=generator, device=device))
    longest = math.hypot(SCRATCH_HALF_LENGTH[1], SCRATCH_AMPLITUDE[1] + SCRATCH_HALF_WIDTH[1]) * side
    dy, dx, corner = offsets(centre, _window(longest, side, device), side)
    along = dx * turn.cos() + dy * turn.sin()
    across = dy * turn.cos() - dx * turn.sin()
    wave = 2 * math.pi / wavelength
    sine = amplitude * torch.sin(wave * along + phase)
    sine_slope = amplitude * wave * torch.cos(wave * along + phase)
    share = ((along + half_length) / (2 * half_length)).clamp(1e-3, 1.0)
    root = amplitude * (2 * share.sqrt() - 1)
    root_slope = amplitude / (2 * half_length * share.sqrt())
    zero = torch.zeros_like(along)
    curve = torch.where(kind == 0, zero, torch.where(kind == 1, sine, root))
    slope = torch.where(kind == 0, zero, torch.where(kind == 1, sine_slope, root_slope))
    distance = (across - curve).abs() / torch.sqrt(1.0 + slope.square())
    # Where the stroke is steep, `distance` is small far beyond its end too: the root starts upright.
    near = (along.abs() <= half_length) & (across.abs() <= amplitude + half_width)
    return Shape(((distance <= half_width) & near).float(), corner)


def _drops(batch: int, side: int, params: Corruption, generator: torch.Generator, device: torch.device) -> Shape:
    """A cluster of small discs."""
    spread = _uniform((batch, 1), (DROPS_SPREAD[0] * side, DROPS_SPREAD[1] * side), generator, device)
    radius = _uniform((batch, DROPS), (DROP_RADIUS[0] * side, DROP_RADIUS[1] * side), generator, device)
    distance = spread * _uniform((batch, DROPS), (0.0, 1.0), generator, device).sqrt()
    angle = _uniform((batch, DROPS), (0.0, 2 * math.pi), generator, device)
    y, x = (distance * angle.sin()).round(), (distance * angle.cos()).round()
    extent = torch.stack([(y.abs() + radius).amax(dim=1), (x.abs() + radius).amax(dim=1)], dim=1)
    centre = place(extent, side, torch.rand(extent.shape, generator=generator, device=device))
    window = _window((DROPS_SPREAD[1] + DROP_RADIUS[1]) * side, side, device)
    dy, dx, corner = offsets(centre, window, side)
    inside = torch.hypot(dy[:, None] - y[..., None, None], dx[:, None] - x[..., None, None]) <= radius[..., None, None]
    return Shape(inside.any(dim=1).float(), corner)


def _uniform(
    shape: tuple[int, ...] | torch.Size, bounds: tuple[float, float], generator: torch.Generator, device: torch.device
) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(shape, generator=generator, device=device)


def _window(reach: float, side: int, device: torch.device) -> int:
    """Side of a window that holds everything within `reach` of its centre; on a GPU, of the whole image."""
    return min(side, 2 * math.ceil(reach) + 1) if device.type == "cpu" else side
