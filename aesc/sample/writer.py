"""The sample as files."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

from aesc.errors import AescError
from aesc.sample.images import draw_image, draw_mask, sample_images
from aesc.sample.png import encode_png


def draw_sample(root: Path, *, progress: Callable[[int, int], None] | None = None) -> list[Path]:
    """Write the sample below `root` in MVTec layout; drawn again, it changes nothing.

    Files that already hold the right bytes keep their modification time, wrong ones are replaced atomically, and files
    that are not the sample's are not touched.

    Args:
        root: the data folder, made if it is not there; each category becomes a folder in it.
        progress: called with (images done, images in all) after each image.

    Returns:
        Every file of the sample, sorted.

    Raises:
        AescError: the sample cannot be written there.
    """
    images = list(sample_images())
    paths = []
    for done, image in enumerate(images, start=1):
        pixels = draw_image(image)
        files = [(root / image.path, encode_png(pixels))]
        if image.mask_path is not None:
            files.append((root / image.mask_path, encode_png(draw_mask(image, pixels))))
        for path, content in files:
            _write(path, content)
            paths.append(path)
        if progress is not None:
            progress(done, len(images))
    return sorted(paths)


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.read_bytes() == content:
            return
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _describe(path, error) from None


def _describe(path: Path, error: OSError) -> AescError:
    if os.path.isdir(path):
        return AescError(path, "is a folder", allowed="a file of the sample", todo="move the folder away")
    for parent in path.parents:
        if os.path.isfile(parent):
            return AescError(parent, "is a file", allowed="a folder", todo="name another folder, or move the file away")
    found = f"cannot be written: {error.strerror or error}"
    return AescError(path, found, allowed="a writable folder", todo="name another folder, or mend its permissions")
