from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from aesc.errors import AescError
from aesc.sample import CATEGORIES, draw_sample
from aesc.sample.images import SIZE, SampleImage, draw_image, sample_images
from aesc.sample.png import encode_png

# The data version of the sample hangs on it: a change here is a change of every fresh clone's data.
GOLDEN = "fc5d7fe655f4fc1f6af2411142eb76e5c4e6a52938f79fa66f62d5c924eb240d"

DEFECTS = {
    "fabric": {"foreign_thread", "hole", "misweave", "stain"},
    "gasket": {"chip", "contamination", "dent", "scratch"},
}


def tree_digest(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.png"), key=lambda path: path.relative_to(root).as_posix()):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def pixels(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample")
    calls: list[tuple[int, int]] = []
    paths = draw_sample(root, progress=lambda done, total: calls.append((done, total)))
    assert paths == sorted(path for path in root.rglob("*") if path.is_file())
    total = len(list(sample_images()))
    assert calls == [(done, total) for done in range(1, total + 1)]
    return root


def test_every_byte_is_the_golden_one(sample: Path) -> None:
    assert tree_digest(sample) == GOLDEN


@pytest.mark.parametrize("image", list(sample_images())[::29], ids=lambda image: str(image.path))
def test_an_image_does_not_depend_on_what_was_drawn_before(sample: Path, image: SampleImage) -> None:
    assert (draw_image(image) == pixels(sample / image.path)).all()


def test_layout_counts_and_sizes(sample: Path) -> None:
    assert {path.name for path in sample.iterdir()} == set(CATEGORIES) == set(DEFECTS)
    for category, defects in DEFECTS.items():
        folder = sample / category
        assert {path.name for path in folder.iterdir()} == {"train", "test", "ground_truth"}
        assert {path.name for path in (folder / "test").iterdir()} == defects | {"good"}
        assert {path.name for path in (folder / "ground_truth").iterdir()} == defects
        assert sorted(p.name for p in (folder / "train" / "good").iterdir()) == [f"{k:03d}.png" for k in range(60)]
        assert sorted(p.name for p in (folder / "test" / "good").iterdir()) == [f"{k:03d}.png" for k in range(16)]
        for defect in defects:
            assert sorted(p.name for p in (folder / "test" / defect).iterdir()) == [f"{k:03d}.png" for k in range(5)]
            masks = sorted(p.name for p in (folder / "ground_truth" / defect).iterdir())
            assert masks == [f"{k:03d}_mask.png" for k in range(5)]
    files = [path for path in sample.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 14_000_000
    assert len({path.read_bytes() for path in files}) == len(files)
    for path in files:
        with Image.open(path) as image:
            image.verify()
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((SIZE, SIZE), "L" if "ground_truth" in path.parts else "RGB")


def test_masks_are_the_changed_pixels(sample: Path) -> None:
    for image in sample_images():
        if image.mask_path is None:
            continue
        mask = pixels(sample / image.mask_path)
        twin = draw_image(image, clean_twin=True)
        changed = (pixels(sample / image.path) != twin).any(axis=-1)
        assert set(np.unique(mask)) == {0, 255}
        assert ((mask == 255) == changed).all(), image.path
        assert 0.01 <= changed.mean() <= 0.065, (image.path, changed.mean())


@pytest.mark.parametrize("category", CATEGORIES)
def test_global_statistics_do_not_find_the_defects(sample: Path, category: str) -> None:
    paths = sorted((sample / category / "test").rglob("*.png"))
    images = np.stack([pixels(path) for path in paths]).astype(np.float64)
    defective = [path.parent.name != "good" for path in paths]
    saturation = images.max(axis=-1) - images.min(axis=-1)
    scores = {
        "mean": images.mean(axis=(1, 2, 3)),
        "std": images.std(axis=(1, 2, 3)),
        "darkest": images.min(axis=(1, 2, 3)),
        "brightest": images.max(axis=(1, 2, 3)),
        "most saturated": saturation.max(axis=(1, 2)),
        **{f"mean of channel {k}": images[..., k].mean(axis=(1, 2)) for k in range(3)},
    }
    for name, score in scores.items():
        auroc = roc_auc_score(defective, score)
        assert max(auroc, 1.0 - auroc) < 0.75, (name, auroc)


@pytest.mark.parametrize("category", CATEGORIES)
def test_clean_images_vary_but_are_alike(sample: Path, category: str) -> None:
    clean = np.stack([pixels(path) for path in sorted((sample / category / "train" / "good").iterdir())])
    means = clean.mean(axis=(1, 2, 3))
    assert means.std() > 5.0
    assert clean.std(axis=(1, 2, 3)).std() > 1.0
    assert means.min() > 80.0
    assert means.max() < 200.0
    assert ((clean == 0) | (clean == 255)).mean() < 0.01


@pytest.mark.parametrize("category", CATEGORIES)
def test_defects_stand_out_where_they_are(sample: Path, category: str) -> None:
    for image in sample_images():
        if image.category != category or image.mask_path is None:
            continue
        inside = pixels(sample / image.mask_path) == 255
        change = np.abs(pixels(sample / image.path).astype(float) - draw_image(image, clean_twin=True))
        assert change[inside].mean() > 6.0, image.path


def test_drawing_again_touches_only_what_is_wrong(sample: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(sample, root)
    for path in root.rglob("*"):
        if path.is_file():
            os.utime(path, ns=(1_000, 1_000))
    wrong, missing = root / "fabric/test/stain/001.png", root / "gasket/ground_truth/dent/003_mask.png"
    wrong.write_bytes(b"not a picture")
    missing.unlink()
    mine = [root / "fabric/train/good/060.png", root / "bottle/train/good/000.png", root / "fabric/notes.txt"]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
        os.utime(path, ns=(2_000, 2_000))

    paths = draw_sample(root)

    assert [path.relative_to(root) for path in paths] == sorted(
        path.relative_to(sample) for path in sample.rglob("*.png")
    )
    for path in paths:
        assert path.read_bytes() == (sample / path.relative_to(root)).read_bytes()
        assert (path.stat().st_mtime_ns == 1_000) == (path not in (wrong, missing)), path
    for path in mine:
        assert (path.read_bytes(), path.stat().st_mtime_ns) == (b"mine", 2_000)
    assert {path for path in root.rglob("*") if path.is_file()} == {*paths, *mine}


@pytest.mark.parametrize("place", ["data", "data/fabric", "data/fabric/train"])
def test_a_file_in_the_way(tmp_path: Path, place: str) -> None:
    blocker = tmp_path / place
    blocker.parent.mkdir(parents=True, exist_ok=True)
    blocker.write_text("mine")
    with pytest.raises(AescError) as caught:
        draw_sample(tmp_path / "data")
    assert (caught.value.where, caught.value.found) == (str(blocker), "is a file")
    assert caught.value.allowed
    assert caught.value.todo
    assert blocker.read_text() == "mine"


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    blocker = tmp_path / "fabric/train/good/000.png"
    blocker.mkdir(parents=True)
    with pytest.raises(AescError, match="is a folder") as caught:
        draw_sample(tmp_path)
    assert caught.value.where == str(blocker)


@pytest.fixture
def read_only() -> Iterator[Path]:
    """An empty folder that may not be written; for root too, who here steps down to nobody."""
    outer = Path(tempfile.mkdtemp())
    folder = outer / "data"
    folder.mkdir()
    outer.chmod(0o755)
    folder.chmod(0o555)
    root = os.name == "posix" and os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(outer)


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_a_read_only_folder(read_only: Path) -> None:
    with pytest.raises(AescError) as caught:
        draw_sample(read_only)
    assert caught.value.where.startswith(str(read_only))
    assert "Permission denied" in caught.value.found
    assert caught.value.todo
    assert list(read_only.iterdir()) == []


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tmp_path / "fabric/train/good/000.png"
    first.parent.mkdir(parents=True)
    first.write_bytes(b"old")

    def half_written(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half_written)
    with pytest.raises(AescError, match="No space left"):
        draw_sample(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [first]
    assert first.read_bytes() == b"old"


@pytest.mark.parametrize("shape", [(3, 5), (4, 7, 3), (256, 255), (300, 400, 3)])
def test_png_round_trip(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = np.random.Generator(np.random.PCG64(1)).integers(0, 256, shape).astype(np.uint8)
    path = tmp_path / "image.png"
    path.write_bytes(encode_png(image))
    assert (pixels(path) == image).all()
