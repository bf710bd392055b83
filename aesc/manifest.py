"""The manifest: one row for every image of a category, with what validation and training need to know of it.

The layout is MVTec AD's: `train/good`, `test/<defect type>`, `ground_truth/<defect type>/<stem>_mask.<suffix>`.
Whatever is wrong with a file becomes text in its row's `error`; nothing is dropped in silence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from aesc.cache import Progress, sha256_of, threaded_map
from aesc.errors import AescError
from aesc.files import write_atomically
from aesc.image_statistics import STATISTICS_FILE, Statistics, load_statistics, measure, save_statistics
from aesc.images import FORMATS, IMAGE_SUFFIXES, read_header, read_image
from aesc.layout import CLEAN_FOLDER, GOOD, TEST_FOLDER, TRAIN_FOLDER, is_mask, list_files, pair_masks, place_fault
from aesc.params import Data
from aesc.splits import TEST, TRAIN, split_of

# "str" stands for the default text type of the installed pandas; "text" may be None, "Int64" may be missing.
COLUMNS = {
    **dict.fromkeys(("path", "sha256", "split", "folder", "defect"), "str"),
    "label": "int64",
    **dict.fromkeys(("mask_path", "mask_sha256"), "text"),
    **dict.fromkeys(("mask_width", "mask_height", "width", "height"), "Int64"),
    "mode": "str",
    "bit_depth": "Int64",
    **dict.fromkeys(("mean", "std", "saturated", "sharpness", "mask_area"), "float64"),
    "error": "str",
}


@dataclass(frozen=True)
class _File:
    sha256: str = ""
    statistics: Statistics | None = None
    error: str = ""


def list_categories(root: Path) -> list[str]:
    """The folders below `root` that hold `train` or `test`, sorted.

    Raises:
        AescError: `root` is no folder.
    """
    if not root.is_dir():
        raise AescError(
            root,
            "not a folder" if root.exists() else "no such folder",
            allowed=f"a folder of categories, each with {CLEAN_FOLDER}",
            todo="name the folder with --data, or bring images in with `aesc import` or `aesc sample`",
            usage=True,
        )
    return sorted(
        folder.name
        for folder in root.iterdir()
        if not folder.name.startswith(".") and ((folder / TRAIN_FOLDER).is_dir() or (folder / TEST_FOLDER).is_dir())
    )


def require_category(root: Path, category: str) -> None:
    """Raise an AescError that says which categories exist below `root`, unless `category` is one of its folders."""
    names = list_categories(root)
    if category not in {entry.name for entry in root.iterdir() if entry.is_dir()}:
        raise AescError(
            f"category {category}",
            f"not in {root}",
            allowed=", ".join(names) or "none: the folder holds no category",
            todo="name one of these, or bring it in with `aesc import`",
            usage=True,
        )


def scan_category(
    root: Path,
    category: str,
    *,
    data: Data,
    cache_folder: Path,
    progress: Progress | None = None,
    need_clean: bool = True,
) -> pd.DataFrame:
    """Read a category's files into a manifest. A second scan only hashes: statistics are kept by sha256.

    Args:
        root: the folder of categories.
        category: a folder below it.
        data: shares of the splits and the size limit of images.
        cache_folder: where statistics are kept; made if absent.
        progress: called with (files done, files in all).
        need_clean: whether a category without an image in `train/good` is an error.

    Returns:
        A frame with `COLUMNS`, sorted by path. `path` and `mask_path` are POSIX paths below `root`; the statistics are
        those of `aesc.image_statistics`; `mask_area` is a share of the mask's pixels. Unknown numbers are missing.

    Raises:
        AescError: no such category, no images in `train/good` (if needed), or `cache_folder` cannot be written.
    """
    require_category(root, category)
    folder = root / category
    paths = list_files(folder)
    if need_clean and not any(path.startswith(f"{CLEAN_FOLDER}/") for path in paths):
        raise AescError(
            folder / CLEAN_FOLDER,
            "no images",
            allowed="clean images: " + FORMATS,
            todo="put the category's clean images there",
        )
    files = _read_files(folder, paths, data.max_megapixels, cache_folder, progress)
    masks, spare = pair_masks(paths)
    rows = [_image_row(category, path, files, masks.get(path), data) for path in paths if not is_mask(path)]
    rows += [_spare_mask_row(category, path, files[path], error) for path, error in spare.items()]
    return _frame(sorted(rows, key=lambda row: str(row["path"])))


def content_digest(manifest: pd.DataFrame) -> str:
    """The sha256 over all files' paths below the category and contents: the version of data that DVC does not track."""
    lines = sorted(
        "\t".join((path.partition("/")[2], sha256, mask_sha256 or "")) + "\n"
        for path, sha256, mask_sha256 in zip(manifest["path"], manifest["sha256"], manifest["mask_sha256"], strict=True)
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def category_channels(manifest: pd.DataFrame, data: Data) -> int:
    """The network's channels, 1 or 3: as `data.channels` says; for "auto", what most readable clean images are.

    Raises:
        AescError: "auto", and no image in `train/good` is readable.
    """
    if data.channels != "auto":
        return 1 if data.channels == "grey" else 3
    clean = manifest[(manifest["folder"] == CLEAN_FOLDER) & (manifest["error"] == "")]
    if clean.empty:
        raise AescError(CLEAN_FOLDER, "no readable images", allowed=FORMATS, todo="run `aesc validate`")
    return 1 if clean["mode"].isin(["grey", "bilevel"]).mean() > 0.5 else 3


def save_manifest(manifest: pd.DataFrame, path: Path) -> None:
    """Write a manifest as Parquet, in one step.

    Raises:
        AescError: the folder cannot be written.
    """
    write_atomically(path, lambda file: manifest.to_parquet(file, index=False))


def load_manifest(path: Path) -> pd.DataFrame:
    """Read what `save_manifest` wrote.

    Raises:
        AescError: the file is missing or no manifest.
    """
    try:
        frame = pd.read_parquet(path)
    except FileNotFoundError:
        raise AescError(path, "no such file", todo="run `aesc validate` first") from None
    except (OSError, ValueError) as error:
        raise AescError(path, f"no manifest: {error}", todo="run `aesc validate` again") from None
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise AescError(path, f"no column {', '.join(missing)}", todo="run `aesc validate` again")
    return _typed(frame[list(COLUMNS)])


def _image_row(
    category: str, path: str, files: Mapping[str, _File], mask_path: str | None, data: Data
) -> dict[str, object]:
    file = files[path]
    row = _row(category, path, file)
    errors = [place_fault(path), file.error]
    if path.startswith(f"{TRAIN_FOLDER}/"):
        row["split"] = (
            split_of(file.sha256, train=data.train, validation=data.validation, calibration=data.calibration)
            if file.sha256
            else TRAIN
        )
    if mask_path is not None:
        mask = files[mask_path]
        row.update(_mask_columns(category, mask_path, mask))
        if mask.error:
            errors.append(f"mask {mask_path}: {mask.error}")
    row["error"] = "; ".join(filter(None, errors))
    return row


def _spare_mask_row(category: str, path: str, file: _File, error: str) -> dict[str, object]:
    row = _row(category, path, _File(sha256=file.sha256)) | _mask_columns(category, path, file)
    return row | {"label": 1, "error": "; ".join(filter(None, (error, file.error)))}


def _row(category: str, path: str, file: _File) -> dict[str, object]:
    parts = path.split("/")
    defect = parts[1] if len(parts) > 2 else ""
    row: dict[str, object] = {
        "path": f"{category}/{path}",
        "sha256": file.sha256,
        "split": TEST,
        "folder": "/".join(parts[:-1]),
        "defect": defect,
        "label": 0 if defect == GOOD else 1,
        "mode": "",
    }
    if file.statistics is not None:
        row.update(asdict(file.statistics))
    return row


def _mask_columns(category: str, path: str, file: _File) -> dict[str, object]:
    columns: dict[str, object] = {"mask_path": f"{category}/{path}", "mask_sha256": file.sha256}
    if file.statistics is not None:
        columns["mask_width"] = file.statistics.width
        columns["mask_height"] = file.statistics.height
        columns["mask_area"] = file.statistics.above_half
    return columns


def _read_files(
    folder: Path, paths: Sequence[str], max_megapixels: float, cache_folder: Path, progress: Progress | None
) -> dict[str, _File]:
    kept = cache_folder / STATISTICS_FILE
    known = load_statistics(kept)
    fresh: dict[str, Statistics] = {}
    files: dict[str, _File] = {}
    try:
        found = threaded_map(lambda path: _read_file(folder / path, known, max_megapixels), paths)
        for done, (path, file) in enumerate(zip(paths, found, strict=True), start=1):
            files[path] = file
            if file.statistics is not None and not file.error and file.sha256 not in known:
                fresh[file.sha256] = file.statistics
            if progress is not None:
                progress(done, len(paths))
    finally:
        if fresh:
            save_statistics(kept, {**known, **fresh})
    return files


def _read_file(path: Path, known: Mapping[str, Statistics], max_megapixels: float) -> _File:
    sha256, statistics = "", None
    try:
        sha256 = sha256_of(path)
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise AescError(path, f"not an image: suffix {path.suffix or 'missing'}", allowed=", ".join(IMAGE_SUFFIXES))
        statistics = known.get(sha256)
        if statistics is None or statistics.width * statistics.height > max_megapixels * 1e6:
            statistics = None
            statistics = measure(read_image(path, max_megapixels=max_megapixels))
    except AescError as error:
        text = error.found + (f"; allowed: {error.allowed}" if error.allowed else "")
        return _File(sha256=sha256, statistics=_header_only(path), error=" ".join(text.split()))
    return _File(sha256=sha256, statistics=statistics)


def _header_only(path: Path) -> Statistics | None:
    try:
        return Statistics(**asdict(read_header(path)))
    except AescError:
        return None


def _frame(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    return _typed(pd.DataFrame({name: [row.get(name) for row in rows] for name in COLUMNS}))


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    columns = {}
    for name, kind in COLUMNS.items():
        column = frame[name]
        if kind == "text":
            column = column.astype(object)
            columns[name] = column.where(column.notna(), None)
        else:
            columns[name] = column.astype(pd.api.types.pandas_dtype(kind))
    return pd.DataFrame(columns).reset_index(drop=True)
