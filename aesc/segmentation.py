"""A small network beside the autoencoder that learns to mark where an image is corrupted.

After DRAEM (Zavrtanik, Kristan & Skocaj, ICCV 2021, arXiv 2108.07610): the residual counts every difference alike,
while what a corruption does to an image differs from what the autoencoder never gives back well. That can be learned
from the same corrupted images. Nothing of it reaches the autoencoder: no gradient goes through the reconstruction.

It works on a quarter of the side: it adds two fifths to a training step, and to the multiplications of a forward pass.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from aesc.empty_conv import EmptyConv2d

_CELL = 4  # pixels a side that become channels of one place
_MAPS = 32  # of a place; twice as many at an eighth of the side
_DIFFERENCE_SCALE = 10.0  # differences are small beside pixels
_RARE = -3.0  # the first logit: few pixels are corrupted
_FOCUS = 2.0  # exponent of the focal loss
WEIGHT = 2.0  # the residual is three times as large where as much is marked as at the top of clean images
FLOOR = 0.25  # of the top of clean images' residuals: by so much larger a marked residual is taken to be


class LogitScale(BaseModel):
    """What the logits of clean images are like, and what a mark counts for.

    level: their mean; where maps are normalised, what is usual lies beside it for each place (aesc/normalisation.py).
    unit: how far the top of a clean image's map lies above what is usual.
    weight: by how much of itself the residual grows where a logit lies as far above.
    floor: by how much larger than it is the residual is taken to be in that; the head also sees what is given back as
        it is. Where nothing is marked nothing is added.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: float
    unit: float = Field(gt=0.0)
    weight: float = Field(default=0.5, gt=0.0)  # operating points of before it was raised do not say
    floor: float = Field(default=0.0, ge=0.0)  # nor do those of before there was one


class SegmentationHead(nn.Module):
    """Image and reconstruction, batch x channels x side x side in [0, 1], to logits: batch x side x side, float32.

    Args:
        channels: 1 or 3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        maps = _MAPS
        self.fine = nn.Sequential(_Layer(2 * channels * _CELL**2, maps, 1), _Layer(maps, maps), _Layer(maps, maps))
        self.coarse = nn.Sequential(_Layer(maps, 2 * maps, stride=2), _Layer(2 * maps, 2 * maps))
        self.joined = _Layer(3 * maps, maps)
        self.logits = EmptyConv2d(maps, _CELL**2, 3, padding=1)
        nn.init.constant_(self.logits.bias, _RARE)  # type: ignore[arg-type]  # it has one

    def forward(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        differences = _DIFFERENCE_SCALE * (images - reconstruction)
        fine = self.fine(torch.cat([_cells(images), _cells(differences)], dim=1))
        # Nearest: the gradient of a bilinear one is summed in any order on a GPU, and a replay gives the same bits.
        coarse = F.interpolate(self.coarse(fine), scale_factor=2.0, mode="nearest")
        joined = self.joined(torch.cat([coarse, fine], dim=1))
        return _laid_out(self.logits(joined).float())


class _Layer(nn.Sequential):
    """Convolution, batch norm, ReLU."""

    def __init__(self, maps_in: int, maps_out: int, side: int = 3, *, stride: int = 1) -> None:
        super().__init__(
            EmptyConv2d(maps_in, maps_out, side, stride=stride, padding=side // 2, bias=False),
            nn.BatchNorm2d(maps_out),
            nn.ReLU(inplace=True),
        )


def _cells(x: Tensor) -> Tensor:
    """batch x channels x side x side to batch x (cell y, cell x, channels) x side / 4 x side / 4, in channels_last
    memory, which PyTorch's pixel unshuffle does not keep."""
    batch, channels, height, width = x.shape
    cells = x.permute(0, 2, 3, 1).reshape(batch, height // _CELL, _CELL, width // _CELL, _CELL, channels)
    rows = cells.permute(0, 1, 3, 2, 4, 5)
    return rows.reshape(batch, height // _CELL, width // _CELL, channels * _CELL**2).permute(0, 3, 1, 2)


def _laid_out(x: Tensor) -> Tensor:
    """batch x (cell y, cell x) x height x width to batch x 4 height x 4 width."""
    batch, _, height, width = x.shape
    cells = x.permute(0, 2, 3, 1).reshape(batch, height, width, _CELL, _CELL)
    return cells.permute(0, 1, 3, 2, 4).reshape(batch, _CELL * height, _CELL * width)


def focal_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy in which what is already right counts little (Lin and others, arXiv 1708.02002, exponent 2).

    Args:
        logits: batch x side x side.
        mask: batch x 1 x side x side, bool: what is corrupted.

    Returns:
        A scalar.
    """
    truth = mask[:, 0].to(logits.dtype)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    wrong = torch.sigmoid(torch.where(mask[:, 0], -logits, logits))
    return (entropy * wrong.pow(_FOCUS)).mean()


def above_usual(logits: Tensor, usual: Tensor | float) -> Tensor:
    """How far logits lie above what is usual, 0 where they do not: batch x side x side."""
    return (logits - usual).clamp(min=0.0)


def weighed(residual: Tensor, above: Tensor, scale: LogitScale) -> Tensor:
    """The residual, larger where the head marks more than is usual on clean images.

    Args:
        residual: batch x side x side.
        above: how far the smoothed logits lie above what is usual (`above_usual`); the same shape.
        scale: of the head.
    """
    marked = scale.weight / scale.unit * above
    return residual * (1.0 + marked) + scale.floor * marked
