"""The resize of an exported graph against Pillow's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aesc.images import Image, to_network_input
from aesc.resampling import resize_as_pillow

LENGTHS = (1, 2, 3, 17, 63, 64, 65, 90, 127, 128, 129, 200, 256, 300, 333, 450, 700, 900, 1000, 1024)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [64, 128, 256])
def test_every_pixel_is_that_of_pillow(size: int, channels: int) -> None:
    random = np.random.default_rng(size)
    for height, width in zip(LENGTHS, random.permutation(LENGTHS), strict=True):
        pixels = random.integers(0, 256, (height, width, channels), dtype=np.uint8)
        image = Image(
            pixels=pixels.squeeze(2) if channels == 1 else pixels, mode="rgb", bit_depth=8, width=width, height=height
        )
        expected = to_network_input(image, size=size, channels=channels)
        found = resize_as_pillow(torch.from_numpy(pixels).permute(2, 0, 1)[None].double(), size)
        np.testing.assert_array_equal(found[0].permute(1, 2, 0).numpy(), expected, err_msg=f"{height} x {width}")


@pytest.mark.parametrize("value", [0, 255])
def test_plain_images_stay_what_they_are(value: int) -> None:
    found = resize_as_pillow(torch.full((1, 1, 37, 91), float(value), dtype=torch.float64), 64)
    assert found.unique().tolist() == [value]
