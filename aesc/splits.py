"""Sharing the clean images out among training, validation and calibration.

The content's hash alone decides, so an image stays in its split however the data set grows, is renamed or reordered,
and two copies of one image can never be in two splits. Shares hold on average: small data sets stray from them.
"""

from __future__ import annotations

TRAIN, VALIDATION, CALIBRATION, TEST = "train", "validation", "calibration", "test"


def split_of(sha256: str, *, train: float, validation: float, calibration: float) -> str:
    """The split of one clean image.

    Args:
        sha256: of the file's content, 64 hexadecimal digits.
        train, validation, calibration: shares; they sum to 1.

    Returns:
        "train", "validation" or "calibration".
    """
    if len(sha256) != 64:
        raise ValueError(f"sha256 is {sha256!r}; allowed: 64 hexadecimal digits")
    if abs(train + validation + calibration - 1.0) > 1e-6:
        raise ValueError(f"shares sum to {train + validation + calibration:g}; allowed: 1")
    position = int(sha256[:16], 16) / 2**64  # uniform on [0, 1]
    if position < train:
        return TRAIN
    return VALIDATION if position < train + validation else CALIBRATION
