"""PNG files whose bytes depend on the pixels alone.

Pillow and OpenCV hand the pixels to whichever zlib they were built with (zlib, zlib-ng, libdeflate, ...), and each
packs them into other bytes; the data version, a hash of the files, would then differ from machine to machine. So the
pixels go into *stored* deflate blocks, of which there is only one encoding once the block length is fixed.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2  # PNG colour types
_BLOCK = 65535  # the longest stored block that deflate allows (RFC 1951, 3.2.4)


def encode_png(image: npt.NDArray[np.uint8]) -> bytes:
    """The PNG file of an 8-bit image, uncompressed (RFC 2083, RFC 1950, RFC 1951).

    Args:
        image: grey (height, width) or RGB (height, width, 3), uint8.
    """
    height, width = image.shape[:2]
    colour = _GREY if image.ndim == 2 else _RGB
    rows = np.ascontiguousarray(image).reshape(height, -1)
    # Each row starts with its filter type; 0 is none.
    raw = np.pad(rows, ((0, 0), (1, 0))).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", _store(raw)) + _chunk(b"IEND", b"")


def _store(raw: bytes) -> bytes:
    """A zlib stream that holds `raw` as it is."""
    parts = [b"\x78\x01"]
    for start in range(0, len(raw), _BLOCK):
        block = raw[start : start + _BLOCK]
        last = start + _BLOCK >= len(raw)
        parts += [struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF), block]
    # Checksums are fixed by their definition, so these may come from any zlib.
    parts.append(struct.pack(">I", zlib.adler32(raw)))
    return b"".join(parts)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
