"""MVTec AD's folders: `train/good`, `test/<type>` and `ground_truth/<type>/<stem>_mask.<suffix>` below a category."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from aesc.errors import AescError
from aesc.images import IMAGE_SUFFIXES

CATEGORY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
GOOD = "good"
TRAIN_FOLDER, TEST_FOLDER, MASK_FOLDER = "train", "test", "ground_truth"
CLEAN_FOLDER = f"{TRAIN_FOLDER}/{GOOD}"


def require_category_name(name: str) -> None:
    """Raise an AescError unless `name` can be a category's: one folder, and no other."""
    if not CATEGORY_NAME.fullmatch(name):
        raise AescError(f"category {name!r}", "not a category's name", allowed=CATEGORY_NAME.pattern, usage=True)


def list_files(folder: Path) -> list[str]:
    """POSIX paths below `folder` of all files that are not house-keeping, sorted.

    Raises:
        AescError: a folder cannot be read, or a name is not UTF-8.
    """

    def refuse(error: OSError) -> None:
        reason = (error.strerror or str(error)).lower()
        raise AescError(error.filename, f"cannot be read: {reason}", todo="mend the folder's permissions") from None

    found = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [(Path(parent) / name).relative_to(folder).as_posix() for name in names if not is_ignored(name)]
    for path in found:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise AescError(folder, f"a file name that is not UTF-8: {path!r}", todo="rename the file") from None
    return sorted(found)


def is_ignored(name: str) -> bool:
    """Whether a file of this name is house-keeping: hidden, a thumbnail cache, a readme or a licence."""
    lower = name.lower()
    paperwork = lower.startswith(("readme", "license", "licence")) and not lower.endswith(IMAGE_SUFFIXES)
    return lower.startswith(".") or lower in ("thumbs.db", "desktop.ini") or paperwork


def is_mask(path: str) -> bool:
    """Whether a path below a category is where masks are."""
    return path.startswith(f"{MASK_FOLDER}/") and path.count("/") == 2


def pair_masks(paths: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The mask of each test image, and why each mask left over has none."""
    images: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        top, *rest = path.split("/")
        if top == TEST_FOLDER and len(rest) == 2:
            images.setdefault((rest[0], PurePosixPath(path).stem), []).append(path)
    masks: dict[str, str] = {}
    spare: dict[str, str] = {}
    for path in filter(is_mask, paths):
        _, defect, name = path.split("/")
        owners = images.get((defect, PurePosixPath(name).stem.removesuffix("_mask")), [])
        if not owners:
            spare[path] = "mask without an image"
        elif owners[0] in masks:
            spare[path] = f"a second mask of {owners[0]}; the first is {masks[owners[0]]}"
        else:
            masks.update(dict.fromkeys(owners, path))
    return masks, spare


def place_fault(path: str) -> str:
    """Why no image may be at this path below a category; "" if one may."""
    parts = path.split("/")
    if len(parts) == 3 and parts[0] in (TRAIN_FOLDER, TEST_FOLDER):
        return ""
    return (
        f"in {'/'.join(parts[:-1]) or 'the category itself'}; "
        f"allowed: {TRAIN_FOLDER}/{GOOD}, {TEST_FOLDER}/<type>, {MASK_FOLDER}/<type>"
    )
