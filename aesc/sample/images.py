"""What the sample holds, image by image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aesc.sample import fabric, gasket
from aesc.sample.fields import Field

SIZE = 128
TRAIN_GOOD, TEST_GOOD, PER_DEFECT = 60, 16, 5

_SEED = 200812977
_SCENE, _DAMAGE = 0, 1  # separate streams, so that a defect changes nothing else in its image


class _Painter(Protocol):
    def __call__(
        self, scene: np.random.Generator, *, size: int, defect: str | None, damage: np.random.Generator
    ) -> Field: ...


_PAINTERS: dict[str, tuple[_Painter, tuple[str, ...]]] = {
    "fabric": (fabric.draw, fabric.DEFECTS),
    "gasket": (gasket.draw, gasket.DEFECTS),
}
CATEGORIES: tuple[str, ...] = tuple(_PAINTERS)


@dataclass(frozen=True)
class SampleImage:
    """One image of the sample, not drawn yet."""

    category: str
    split: str  # train or test
    defect: str  # good, or the defect type
    index: int

    @property
    def path(self) -> PurePosixPath:
        """Below the sample's root."""
        return PurePosixPath(self.category, self.split, self.defect, f"{self.index:03d}.png")

    @property
    def mask_path(self) -> PurePosixPath | None:
        """Below the sample's root; None for a good image."""
        if self.defect == "good":
            return None
        return PurePosixPath(self.category, "ground_truth", self.defect, f"{self.index:03d}_mask.png")


def sample_images() -> Iterator[SampleImage]:
    """Every image of the sample, in a fixed order."""
    for category, (_, defects) in _PAINTERS.items():
        for index in range(TRAIN_GOOD):
            yield SampleImage(category, "train", "good", index)
        for index in range(TEST_GOOD):
            yield SampleImage(category, "test", "good", index)
        for defect in defects:
            for index in range(PER_DEFECT):
                yield SampleImage(category, "test", defect, index)


def draw_image(image: SampleImage, *, clean_twin: bool = False) -> npt.NDArray[np.uint8]:
    """The pixels, RGB (SIZE, SIZE, 3).

    Args:
        image: which one.
        clean_twin: leave the defect away and keep everything else, down to the noise.
    """
    painter, defects = _PAINTERS[image.category]
    names = ("good", *defects)
    key = (_SEED, CATEGORIES.index(image.category), int(image.split == "test"), names.index(image.defect), image.index)
    defect = None if clean_twin or image.defect == "good" else image.defect
    scene, damage = (_generator(*key, stream) for stream in (_SCENE, _DAMAGE))
    painted = painter(scene, size=SIZE, defect=defect, damage=damage)
    # The only rounding: half a grey value up.
    return np.clip(np.floor(painted + 0.5), 0.0, 255.0).astype(np.uint8)


def draw_mask(image: SampleImage, drawn: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """255 where the defect changed the image, 0 elsewhere; (SIZE, SIZE).

    Args:
        image: which one.
        drawn: what draw_image made of it.
    """
    changed = (drawn != draw_image(image, clean_twin=True)).any(axis=-1)
    return np.where(changed, 255, 0).astype(np.uint8)


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
