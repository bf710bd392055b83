"""Reading one image safely, and bringing it to the network's size.

Only four formats are ever decoded, each by its own Pillow reader chosen from the file's first bytes, so a file's name
decides nothing and no other parser can be reached. Going past `PIL.Image.open` also leaves Pillow's own size limit, a
module-wide setting, out of the way: the limit here is the caller's and is checked before anything is decoded.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
import PIL.Image
from PIL import BmpImagePlugin, ImageOps, JpegImagePlugin, PngImagePlugin, TiffImagePlugin
from PIL.ImageFile import ImageFile

from aesc.errors import AescError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
FORMATS = "PNG, JPEG, BMP or TIFF; grey, RGB, RGBA, palette or bilevel; 8 or 16 bits"

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_READERS: dict[tuple[bytes, ...], type[ImageFile]] = {
    (b"\x89PNG\r\n\x1a\n",): PngImagePlugin.PngImageFile,
    (b"\xff\xd8\xff",): JpegImagePlugin.JpegImageFile,
    (b"BM",): BmpImagePlugin.BmpImageFile,
    (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"): TiffImagePlugin.TiffImageFile,
}
_MODES = (
    {"1": "bilevel"}
    | dict.fromkeys(("L", "LA", "I", "I;16", "I;16L", "I;16B", "I;16N"), "grey")
    | dict.fromkeys(("P", "PA"), "palette")
    | dict.fromkeys(("RGB", "RGBX", "CMYK", "YCbCr"), "rgb")
    | dict.fromkeys(("RGBA", "RGBa"), "rgba")
)
_TIFF_SIZE, _TIFF_BITS = (256, 257), 258  # tags
_ORIENTATION = 0x0112  # EXIF tag; values 5 to 8 swap width and height
# What Pillow's readers raise on damaged files, beside OSError.
_DAMAGE: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError)
_DAMAGE += (ArithmeticError, AttributeError, RuntimeError, struct.error, zlib.error)


@dataclass(frozen=True)
class Header:
    """What an image file says about itself before it is decoded.

    Attributes:
        width, height: pixels, after EXIF orientation.
        mode: "grey", "rgb", "rgba", "palette" or "bilevel", as stored.
        bit_depth: 8 or 16, as stored.
    """

    width: int
    height: int
    mode: str
    bit_depth: int


@dataclass(frozen=True, eq=False)
class Image:
    """A decoded image.

    Attributes:
        pixels: uint8 or uint16, (height, width) or (height, width, 3). Alpha is dropped, a palette is looked up,
            bilevel is 0 and 255.
        mode, width, height: as in `Header`.
        bit_depth: 8 or 16, as stored. Pillow reads 16-bit RGB down to 8 bits: then `pixels` is uint8 and this is 16.
    """

    pixels: Pixels
    mode: str
    bit_depth: int
    width: int
    height: int

    @property
    def full_scale(self) -> int:
        """The value of white in `pixels`: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)


def read_image(path: Path, *, max_megapixels: float) -> Image:
    """Decode a PNG, JPEG, BMP or TIFF file (its first page).

    Args:
        path: the file.
        max_megapixels: millions of pixels (width times height) above which the file is refused undecoded.

    Raises:
        AescError: the file is missing, unreadable, no image, damaged, too large, or of an unsupported kind.
    """
    with _opened(path) as stream:
        return _decode(stream, str(path), max_megapixels)


def read_image_bytes(data: bytes, name: str, *, max_megapixels: float) -> Image:
    """As `read_image`, from memory; `name` stands for the file in errors."""
    return _decode(io.BytesIO(data), name, max_megapixels)


def read_header(path: Path) -> Header:
    """Size, mode and bit depth without decoding.

    Raises:
        AescError: as `read_image`, save for the size and for damage behind the header.
    """
    with _opened(path) as stream:
        return _header(_identify(stream, str(path)), stream, str(path))


def read_mask(path: Path, *, size: int | None, max_megapixels: float) -> npt.NDArray[np.bool_]:
    """Read a defect mask: True where any channel is above half of full scale.

    Args:
        path: the mask's file.
        size: side of the square to bring it to by nearest neighbour; None keeps its own size.
        max_megapixels: as in `read_image`.

    Returns:
        (size, size), or (height, width) if `size` is None.

    Raises:
        AescError: as `read_image`.
    """
    mask = above_half(read_image(path, max_megapixels=max_megapixels))
    if size is None or mask.shape == (size, size):
        return mask
    grey = PIL.Image.fromarray(mask.astype(np.uint8))
    return np.asarray(grey.resize((size, size), PIL.Image.Resampling.NEAREST)).astype(np.bool_)


def above_half(image: Image) -> npt.NDArray[np.bool_]:
    """(height, width): where any channel is above half of full scale, the meaning of "defect" in a mask."""
    above: npt.NDArray[np.bool_] = image.pixels > image.full_scale // 2
    return above if above.ndim == 2 else np.logical_or.reduce(above, axis=2)


def to_grey(image: Image) -> Pixels:
    """(height, width) in the image's own depth; colour by the luma of ITU-R BT.601."""
    if image.pixels.ndim == 2:
        return image.pixels
    if image.pixels.dtype == np.uint8:
        return np.asarray(PIL.Image.fromarray(image.pixels).convert("L"))
    return np.rint(_luma(image.pixels)).astype(np.uint16)


def to_network_input(image: Image, *, size: int, channels: int) -> npt.NDArray[np.uint8]:
    """Bring an image to the network's square: by area where it shrinks, bilinear where it grows.

    Args:
        image: of any size; the aspect ratio is not kept.
        size: side of the result, pixels.
        channels: 1 (luma of ITU-R BT.601) or 3 (grey is repeated).

    Returns:
        (size, size, channels). 16-bit values are divided by 257 and rounded once, after the resize.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}; allowed: 1 or 3")
    pixels = image.pixels
    if pixels.dtype == np.uint8:
        picture = PIL.Image.fromarray(pixels)
        if channels == 1 and pixels.ndim == 3:
            picture = picture.convert("L")
        result = np.asarray(_resized(picture, size))
    else:
        values = _luma(pixels) if channels == 1 and pixels.ndim == 3 else pixels.astype(np.float32)
        planes = [np.ascontiguousarray(plane) for plane in np.moveaxis(np.atleast_3d(values), 2, 0)]
        resized = np.dstack([np.asarray(_resized(PIL.Image.fromarray(plane), size)) for plane in planes])
        result = np.clip(np.rint(resized / 257.0), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(np.atleast_3d(result), (size, size, channels)))


def _luma(pixels: Pixels) -> npt.NDArray[np.float32]:
    return pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)


def _resized(picture: PIL.Image.Image, size: int) -> PIL.Image.Image:
    def method(length: int) -> PIL.Image.Resampling:
        return PIL.Image.Resampling.BOX if length >= size else PIL.Image.Resampling.BILINEAR

    if picture.width != size:
        picture = picture.resize((size, picture.height), method(picture.width))
    if picture.height != size:
        picture = picture.resize((size, size), method(picture.height))
    return picture


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise AescError(path, "no such file", allowed=FORMATS, todo="check the path") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise AescError(path, f"cannot be opened: {reason}", todo="check the file and its permissions") from None


def _identify(stream: IO[bytes], name: str) -> ImageFile:
    """Pillow's reader for the file, with its header read."""
    try:
        start = stream.read(32)
        stream.seek(0)
    except OSError as error:
        raise AescError(name, f"cannot be read: {error.strerror}", todo="check the disk or the network share") from None
    if not start:
        raise AescError(name, "0 bytes", allowed=FORMATS, todo="replace or remove the file")
    reader = next((reader for magic, reader in _READERS.items() if start.startswith(magic)), None)
    if reader is None:
        found = f"not an image: begins with {start[:8].decode('latin-1')!a}"
        raise AescError(name, found, allowed=FORMATS, todo="replace or remove the file")
    try:
        return reader(stream)
    except _DAMAGE as error:
        raise _damaged(name, error) from None


def _header(file: ImageFile, stream: IO[bytes], name: str) -> Header:
    try:
        width, height = file.size
        if isinstance(file, TiffImagePlugin.TiffImageFile):  # whether Pillow's size is turned depends on its version
            width, height = (int(cast(Any, file.tag_v2)[tag]) for tag in _TIFF_SIZE)
        # The base class's method: PNG's own decodes the image to look for EXIF behind it.
        if int(PIL.Image.Image.getexif(file).get(_ORIENTATION, 1)) >= 5:
            width, height = height, width
        bits = _bits(file, stream)
    except _DAMAGE as error:
        raise _damaged(name, error) from None
    if width < 1 or height < 1:
        raise AescError(name, f"{width} x {height} pixels", allowed="at least one pixel", todo="replace or remove it")
    if file.mode not in _MODES or bits > 16 or (file.mode.startswith("I") and bits != 16):
        found = f"pixels of mode {file.mode}, {bits} bits"
        raise AescError(name, found, allowed=FORMATS, todo="convert it to 8 or 16 bits")
    return Header(width=width, height=height, mode=_MODES[file.mode], bit_depth=16 if bits == 16 else 8)


def _bits(file: ImageFile, stream: IO[bytes]) -> int:
    """Bits per sample as stored (Pillow's mode does not tell for 16-bit colour)."""
    if isinstance(file, PngImagePlugin.PngImageFile):
        position = stream.tell()
        stream.seek(24)  # the signature, then IHDR: length, name, width, height, bit depth
        depth = stream.read(1)[0]
        stream.seek(position)
        return depth
    if isinstance(file, TiffImagePlugin.TiffImageFile):
        return int(max(cast(Any, file.tag_v2).get(_TIFF_BITS, (1,))))
    return 8


def _decode(stream: IO[bytes], name: str, max_megapixels: float) -> Image:
    file = _identify(stream, name)
    header = _header(file, stream, name)
    megapixels = header.width * header.height / 1e6
    if megapixels > max_megapixels:
        raise AescError(
            name,
            f"{header.width:,} x {header.height:,} pixels ({megapixels:,.4g} megapixels)",
            allowed=f"at most {max_megapixels:,g} megapixels (data.max_megapixels)",
            todo="make the image smaller, or raise data.max_megapixels if it is genuine",
        )
    try:
        file.load()
        ImageOps.exif_transpose(file, in_place=True)
        pixels = _pixels(file)
    except MemoryError:
        raise AescError(name, f"no memory for {megapixels:,.4g} megapixels", todo="lower data.max_megapixels") from None
    except _DAMAGE as error:
        raise _damaged(name, error) from None
    height, width = pixels.shape[:2]
    return Image(pixels=pixels, mode=header.mode, bit_depth=header.bit_depth, width=width, height=height)


def _pixels(file: PIL.Image.Image) -> Pixels:
    if file.mode.startswith("I"):
        return np.asarray(file).astype(np.uint16)
    if file.mode in ("1", "L", "LA"):
        return np.array(file.convert("L"))
    return np.array(file.convert("RGB"))


def _damaged(name: str, error: Exception) -> AescError:
    text = " ".join(str(error).split()).removeprefix(name)
    ended = isinstance(error, EOFError | struct.error | IndexError) or "truncated" in text.lower() or "EOF" in text
    return AescError(
        name,
        "truncated" if ended else f"cannot be decoded: {text or type(error).__name__}",
        allowed="a complete image",
        todo="copy or export the file again, or remove it",
    )
