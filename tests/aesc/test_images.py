from __future__ import annotations

import io
import os
import struct
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import PngImagePlugin

from aesc.errors import AescError
from aesc.images import Image, read_header, read_image, read_image_bytes, read_mask, to_grey, to_network_input

LIMIT = 100.0
RNG_SEED = 3


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(RNG_SEED).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, raw: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(raw)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff16(pixels: np.ndarray) -> bytes:
    """An uncompressed 16-bit TIFF written by hand: Pillow cannot write 16-bit colour."""
    height, width = pixels.shape[:2]
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    data = pixels.astype("<u2").tobytes()
    bits_at = 8 + len(data)
    directory_at = bits_at + 2 * samples
    bits = struct.pack(f"<{samples}H", *[16] * samples)
    entries = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, samples, bits_at if samples > 2 else 16), (259, 3, 1, 1),
        (262, 3, 1, 2 if samples == 3 else 1), (273, 4, 1, 8), (277, 3, 1, samples), (278, 3, 1, height),
        (279, 4, 1, len(data)),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", directory_at) + data + bits + directory + b"\0\0\0\0"


@pytest.mark.parametrize(
    ("mode", "suffix", "expected"),
    [
        ("L", "png", "grey"),
        ("L", "bmp", "grey"),
        ("L", "tif", "grey"),
        ("RGB", "png", "rgb"),
        ("RGB", "bmp", "rgb"),
        ("RGB", "tiff", "rgb"),
        ("RGBA", "png", "rgba"),
        ("RGBA", "tif", "rgba"),
        ("P", "png", "palette"),
        ("P", "bmp", "palette"),
        ("1", "png", "bilevel"),
        ("1", "tif", "bilevel"),
        ("1", "bmp", "bilevel"),
        ("LA", "png", "grey"),
    ],
)
def test_lossless_8_bit_formats_read_exactly(tmp_path: Path, mode: str, suffix: str, expected: str) -> None:
    picture = Pillow.fromarray(noise(20, 31, 3)).convert(mode)
    if mode == "RGBA":
        picture.putalpha(7)
    path = tmp_path / f"image.{suffix}"
    picture.save(path)
    image = read_image(path, max_megapixels=LIMIT)
    assert (image.mode, image.bit_depth, image.width, image.height) == (expected, 8, 31, 20)
    grey = expected in ("grey", "bilevel")
    assert image.pixels.dtype == np.uint8
    np.testing.assert_array_equal(image.pixels, np.asarray(picture.convert("L" if grey else "RGB")))
    header = read_header(path)
    assert (header.width, header.height, header.mode, header.bit_depth) == (31, 20, expected, 8)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_keeps_its_values(tmp_path: Path, suffix: str) -> None:
    pixels = noise(12, 17, dtype=np.uint16)
    path = tmp_path / f"image.{suffix}"
    Pillow.fromarray(pixels).save(path)
    image = read_image(path, max_megapixels=LIMIT)
    assert (image.mode, image.bit_depth, image.full_scale) == ("grey", 16, 65535)
    assert image.pixels.dtype == np.uint16
    np.testing.assert_array_equal(image.pixels, pixels)


def test_big_endian_16_bit_tiff_keeps_its_values(tmp_path: Path) -> None:
    pixels = noise(5, 6, dtype=np.uint16)
    Pillow.frombytes("I;16B", (6, 5), pixels.astype(">u2").tobytes()).save(tmp_path / "image.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif", max_megapixels=LIMIT).pixels, pixels)


def test_16_bit_rgb_is_read_down_to_8_bits_and_says_16() -> None:
    pixels = noise(9, 8, 3, dtype=np.uint16)
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    for data, name in ((png(8, 9, 16, 2, raw), "a.png"), (tiff16(pixels), "a.tif")):
        image = read_image_bytes(data, name, max_megapixels=LIMIT)
        assert (image.mode, image.bit_depth, image.pixels.dtype) == ("rgb", 16, np.uint8)
        assert np.abs(image.pixels - pixels / 257.0).max() <= 1.0


def test_jpeg_is_read(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(32), np.arange(40)).astype(np.uint8) * 3
    Pillow.fromarray(np.stack([smooth, 255 - smooth, smooth // 2], axis=2)).save(tmp_path / "a.jpg", quality=95)
    image = read_image(tmp_path / "a.jpg", max_megapixels=LIMIT)
    assert (image.mode, image.bit_depth, image.width, image.height) == ("rgb", 8, 40, 32)
    assert np.abs(image.pixels[..., 0].astype(int) - smooth).mean() < 4


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (3, lambda a: a[::-1, ::-1]),
        (6, lambda a: np.rot90(a, -1)),
        (8, np.rot90),
        (5, lambda a: a.T),
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_orientation_is_applied_once(
    tmp_path: Path, suffix: str, orientation: int, turn: Callable[[np.ndarray], np.ndarray]
) -> None:
    stored = np.zeros((16, 32), dtype=np.uint8)
    stored[:8, :16] = 255
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    Pillow.fromarray(stored).save(path, exif=exif)
    image = read_image(path, max_megapixels=LIMIT)
    expected = turn(stored)
    assert (image.height, image.width) == expected.shape == image.pixels.shape
    np.testing.assert_array_equal(image.pixels > 127, expected > 127)
    header = read_header(path)
    assert (header.height, header.width) == expected.shape


def test_16_bit_orientation(tmp_path: Path) -> None:
    pixels = noise(4, 6, dtype=np.uint16)
    exif = Pillow.Exif()
    exif[0x0112] = 6
    Pillow.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", max_megapixels=LIMIT).pixels, np.rot90(pixels, -1))


def error_of(path: Path, **options: float) -> AescError:
    with pytest.raises(AescError) as caught:
        read_image(path, max_megapixels=options.get("max_megapixels", LIMIT))
    error = caught.value
    assert error.where == str(path)
    assert error.found
    assert error.todo
    assert "\n" not in error.found
    return error


def test_bad_files_say_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello world, this is no image")
    (tmp_path / "binary.png").write_bytes(b"\0\1AB" * 20)
    (tmp_path / "empty.png").touch()
    Pillow.new("RGB", (4, 4)).save(tmp_path / "gif.png", format="GIF")
    assert error_of(tmp_path / "text.png").found == "not an image: begins with 'hello wo'"
    assert error_of(tmp_path / "binary.png").found == "not an image: begins with '\\x00\\x01AB\\x00\\x01AB'"
    assert error_of(tmp_path / "gif.png").found == "not an image: begins with 'GIF87a\\x04\\x00'"
    assert error_of(tmp_path / "empty.png").found == "0 bytes"
    assert error_of(tmp_path / "absent.png").found == "no such file"
    assert error_of(tmp_path).found == "cannot be opened: is a directory"


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all files")
def test_unreadable_file(tmp_path: Path) -> None:
    Pillow.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    assert "permission denied" in error_of(tmp_path / "a.png").found


def test_unreadable_file_as_the_system_reports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert error_of(tmp_path / "a.png").found == "cannot be opened: permission denied"


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own, beside the error
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_every_truncation_is_an_aesc_error(tmp_path: Path, suffix: str) -> None:
    buffer = io.BytesIO()
    Pillow.fromarray(noise(40, 40, 3)).save(buffer, format={"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix))
    data = buffer.getvalue()
    path = tmp_path / f"cut.{suffix}"
    found = []
    for share in (0.004, 0.01, 0.05, 0.2, 0.5, 0.9):
        path.write_bytes(data[: max(9, int(len(data) * share))])
        found.append(error_of(path).found)
    assert found[-2:] == ["truncated", "truncated"]


@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "BMP", "TIFF"])
def test_damaged_bytes_never_escape_as_another_exception(suffix: str) -> None:
    buffer = io.BytesIO()
    Pillow.fromarray(noise(16, 16, 3)).save(buffer, format=suffix)
    rng = np.random.default_rng(5)
    refused = 0
    for _ in range(150):
        data = bytearray(buffer.getvalue())
        for position in rng.integers(4, min(len(data), 400), 3):
            data[position] = int(rng.integers(0, 256))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read_image_bytes(bytes(data), "damaged", max_megapixels=1)
        except AescError:
            refused += 1
    assert refused > 0


def test_bomb_is_refused_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", decode)
    path = tmp_path / "bomb.png"
    path.write_bytes(png(40_000, 40_000, 8, 0, bytes(40_001) * 2))
    tracemalloc.start()
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error = error_of(path)
    seconds, peak = time.perf_counter() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.found == "40,000 x 40,000 pixels (1,600 megapixels)"
    assert error.allowed == "at most 100 megapixels (data.max_megapixels)"
    assert seconds < 5
    assert peak < 20e6


def test_limit_is_the_callers_and_not_pillows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 10)  # Pillow alone would refuse
    Pillow.new("L", (100, 100)).save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.png", max_megapixels=0.01).width == 100
    assert "megapixels" in error_of(tmp_path / "a.png", max_megapixels=0.0099).found


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    Pillow.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "a.tif")
    assert error_of(tmp_path / "a.tif").found == "pixels of mode F, 32 bits"
    Pillow.fromarray(np.zeros((4, 4), dtype=np.int32)).save(tmp_path / "b.tif")
    assert error_of(tmp_path / "b.tif").found == "pixels of mode I, 32 bits"


def image_of(pixels: np.ndarray) -> Image:
    depth = pixels.dtype.itemsize * 8
    mode = "rgb" if pixels.ndim == 3 else "grey"
    return Image(pixels=pixels, mode=mode, bit_depth=depth, width=pixels.shape[1], height=pixels.shape[0])


def test_shrinking_is_by_area() -> None:
    pixels = noise(128, 128, 3)
    expected = pixels.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    result = to_network_input(image_of(pixels), size=64, channels=3)
    assert result.shape == (64, 64, 3)
    assert result.dtype == np.uint8
    assert np.abs(result - expected).max() <= 1.0


def test_same_size_is_untouched_and_growing_interpolates() -> None:
    pixels = noise(64, 64, 3)
    np.testing.assert_array_equal(to_network_input(image_of(pixels), size=64, channels=3), pixels)
    edge = np.repeat(np.array([[0, 255]], dtype=np.uint8), 2, axis=0)
    grown = to_network_input(image_of(edge), size=64, channels=1)[32, :, 0].astype(int)
    assert (grown[0], grown[-1]) == (0, 255)
    assert np.all(np.diff(grown) >= 0)
    assert len(np.unique(grown)) > 20  # nearest or area would have two values


def test_16_bit_is_scaled_and_rounded_after_the_resize() -> None:
    levels = np.array(
        [[0, 127, 128, 129], [257, 385, 386, 65535]], dtype=np.uint16
    )  # 385 / 257 = 1.498, 386 / 257 = 1.502
    pixels = np.kron(levels, np.ones((64, 32), dtype=np.uint16))
    result = to_network_input(image_of(pixels), size=128, channels=1)[::64, ::32, 0]
    assert result.tolist() == [[0, 0, 0, 1], [1, 1, 2, 255]]
    checker = np.tile(np.array([[100, 29], [29, 100]], dtype=np.uint16), (64, 64))
    assert to_network_input(image_of(checker), size=64, channels=1).max() == 0
    bright = np.tile(np.array([[100, 200], [200, 100]], dtype=np.uint16), (64, 64))  # mean 150 -> 0.58
    assert to_network_input(image_of(bright), size=64, channels=1).min() == 1


def test_16_bit_colour_agrees_with_8_bit() -> None:
    pixels = noise(64, 64, 3)
    deep = pixels.astype(np.uint16) * 257
    for channels in (1, 3):
        shallow = to_network_input(image_of(pixels), size=64, channels=channels).astype(int)
        assert np.abs(to_network_input(image_of(deep), size=64, channels=channels) - shallow).max() <= 1


def test_colour_becomes_luma_and_grey_is_repeated() -> None:
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[...] = (200, 100, 50)
    grey = to_network_input(image_of(pixels), size=64, channels=1)
    assert grey.shape == (64, 64, 1)
    assert np.abs(grey.astype(float) - (0.299 * 200 + 0.587 * 100 + 0.114 * 50)).max() <= 1
    assert to_grey(image_of(pixels))[0, 0] == 124
    colour = to_network_input(image_of(noise(64, 64)), size=64, channels=3)
    assert np.array_equal(colour[..., 0], colour[..., 2])
    with pytest.raises(ValueError, match="1 or 3"):
        to_network_input(image_of(pixels), size=64, channels=4)


def test_mask_is_above_half_and_resized_by_nearest(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[:4, :4], pixels[0, 4], pixels[0, 5] = 255, 127, 128
    Pillow.fromarray(pixels).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", size=None, max_megapixels=LIMIT)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, pixels > 127)
    grown = read_mask(tmp_path / "mask.png", size=64, max_megapixels=LIMIT)
    np.testing.assert_array_equal(grown, np.kron(pixels > 127, np.ones((8, 8), dtype=bool)))
    deep = np.zeros((4, 4), dtype=np.uint16)
    deep[0, 0], deep[0, 1] = 32768, 32767
    Pillow.fromarray(deep).save(tmp_path / "deep.png")
    assert read_mask(tmp_path / "deep.png", size=None, max_megapixels=LIMIT).sum() == 1
    for mode in ("1", "RGB", "P", "RGBA"):
        Pillow.fromarray(np.uint8(pixels > 127) * 255).convert(mode).save(tmp_path / "other.png")
        other = read_mask(tmp_path / "other.png", size=None, max_megapixels=LIMIT)
        np.testing.assert_array_equal(other, pixels > 127)
    red = np.zeros((4, 4, 3), dtype=np.uint8)
    red[1, 2, 0] = 255
    Pillow.fromarray(red).save(tmp_path / "red.png")
    assert read_mask(tmp_path / "red.png", size=None, max_megapixels=LIMIT).sum() == 1


@pytest.mark.real_data
def test_real_image_shrinks_to_the_published_area_resize(real_data: Path) -> None:
    names = sorted((real_data / "mvtec_original" / "bottle" / "train" / "good").glob("*.png"))
    image = read_image(names[0], max_megapixels=LIMIT)
    assert (image.width, image.height, image.mode) == (900, 900, "rgb")
    published = real_data / "mvtec_256" / "bottle" / "train" / "good" / names[0].name
    small = to_network_input(image, size=256, channels=3).astype(int)
    assert np.abs(small - read_image(published, max_megapixels=LIMIT).pixels).mean() < 1.0
