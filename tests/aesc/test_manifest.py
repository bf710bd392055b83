from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import aesc.manifest
from aesc.errors import AescError
from aesc.manifest import (
    COLUMNS,
    category_channels,
    content_digest,
    list_categories,
    load_manifest,
    save_manifest,
    scan_category,
)
from aesc.params import Data

DATA = Data(image_size=64, channels="auto", train=0.6, validation=0.2, calibration=0.2, max_megapixels=100.0)


def scan(root: Path, category: str = "widget", data: Data = DATA) -> pd.DataFrame:
    return scan_category(root, category, data=data, cache_folder=root.parent / "cache")


def row_of(manifest: pd.DataFrame, path: str) -> pd.Series:
    rows = manifest[manifest["path"] == f"widget/{path}"]
    assert len(rows) == 1, manifest["path"].tolist()
    return rows.iloc[0]


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_columns_order_and_rows(make_category) -> None:
    manifest = scan(make_category(train=10, test_good=2, defects={"spot": 2, "dent": 1}))
    assert list(manifest.columns) == list(COLUMNS)
    assert manifest["path"].is_monotonic_increasing
    assert manifest["path"].is_unique
    assert manifest["folder"].value_counts().to_dict() == {
        "train/good": 10, "test/good": 2, "test/spot": 2, "test/dent": 1,
    }  # fmt: skip
    assert (manifest["error"] == "").all()
    assert set(manifest.loc[manifest["folder"] == "train/good", "split"]) <= {"train", "validation", "calibration"}
    assert set(manifest.loc[manifest["folder"] != "train/good", "split"]) == {"test"}
    defective = manifest["defect"] != "good"
    assert (manifest["label"] == defective.astype(int)).all()
    assert (manifest["mask_path"].notna() == defective).all()
    assert manifest["width"].tolist() == [64] * 15
    spot = row_of(manifest, "test/spot/001.png")
    assert spot["mask_path"] == "widget/ground_truth/spot/001_mask.png"
    assert (spot["mask_width"], spot["mask_height"]) == (64, 64)


def test_statistics_are_those_of_the_pixels(make_category) -> None:
    root = make_category(train=1, test_good=0)
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 255, (50, 40), dtype=np.uint8)
    pixels[:5] = 0
    pixels[5:10] = 255
    save(pixels, root / "widget/train/good/known.png")
    row = row_of(scan(root), "train/good/known.png")
    grey = pixels / 255
    assert row["mean"] == pytest.approx(grey.mean())
    assert row["std"] == pytest.approx(grey.std())
    assert row["saturated"] == pytest.approx(0.2)
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    assert row["sharpness"] == pytest.approx(laplacian.var())
    assert row["sha256"] == hashlib.sha256((root / "widget/train/good/known.png").read_bytes()).hexdigest()
    assert (row["width"], row["height"], row["mode"], row["bit_depth"]) == (40, 50, "grey", 8)


def test_statistics_do_not_depend_on_strips(make_category, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_category(train=3, test_good=0, defects={})
    whole = scan(root)
    monkeypatch.setattr("aesc.image_statistics._STRIP_PIXELS", 64 * 7)
    shutil.rmtree(root.parent / "cache")
    pd.testing.assert_frame_equal(scan(root), whole)


def test_blur_lowers_sharpness_and_16_bits_use_the_same_scale(make_category) -> None:
    root = make_category(train=1, test_good=0)
    sharp = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    save(sharp, root / "widget/train/good/sharp.png")
    save(np.repeat(np.repeat(sharp[::4, ::4], 4, 0), 4, 1), root / "widget/train/good/soft.png")
    save(sharp.astype(np.uint16) * 257, root / "widget/train/good/deep.png")
    manifest = scan(root)
    first, soft, deep = (row_of(manifest, f"train/good/{name}.png") for name in ("sharp", "soft", "deep"))
    assert soft["sharpness"] < first["sharpness"] / 2
    assert (deep["bit_depth"], deep["mode"]) == (16, "grey")
    for name in ("mean", "std", "saturated", "sharpness"):
        assert deep[name] == pytest.approx(first[name])


def test_mask_area_and_foreign_mask_size(make_category) -> None:
    root = make_category(train=1, defects={"spot": 2})
    mask = np.zeros((30, 20), dtype=np.uint8)
    mask[:3] = 255
    save(mask, root / "widget/ground_truth/spot/000_mask.png")
    row = row_of(scan(root), "test/spot/000.png")
    assert (row["mask_width"], row["mask_height"], row["mask_area"]) == (20, 30, pytest.approx(0.1))
    assert row["error"] == ""  # validation judges it


def test_defect_without_a_mask_and_mask_without_a_defect(make_category) -> None:
    root = make_category(train=1, test_good=1, defects={"spot": 1}, masks=False)
    save(np.full((64, 64), 255, dtype=np.uint8), root / "widget/ground_truth/good/000_mask.png")
    manifest = scan(root)
    spot = row_of(manifest, "test/spot/000.png")
    assert spot["mask_path"] is None
    assert np.isnan(spot["mask_area"])
    assert row_of(manifest, "test/good/000.png")["mask_area"] == 1.0


def test_unreadable_files_become_rows_and_do_not_raise(make_category) -> None:
    root = make_category(train=2, defects={"spot": 1})
    good = root / "widget/train/good"
    (good / "text.png").write_text("hello world")
    (good / "empty.png").touch()
    (good / "cut.png").write_bytes((good / "000.png").read_bytes()[:3000])
    (good / "film.gif").write_bytes(b"GIF89a")
    (root / "widget/ground_truth/spot/000_mask.png").write_bytes(b"junk")
    manifest = scan(root)
    errors = {path: row_of(manifest, path)["error"] for path in (
        "train/good/text.png", "train/good/empty.png", "train/good/cut.png", "train/good/film.gif", "test/spot/000.png",
    )}  # fmt: skip
    assert errors["train/good/text.png"].startswith("not an image: begins with 'hello wo'; allowed: PNG")
    assert errors["train/good/empty.png"].startswith("0 bytes")
    assert errors["train/good/cut.png"].startswith("truncated")
    assert errors["train/good/film.gif"].startswith("not an image: suffix .gif; allowed: .png")
    assert errors["test/spot/000.png"].startswith("mask ground_truth/spot/000_mask.png: not an image")
    assert all("\n" not in text for text in errors.values())
    cut = row_of(manifest, "train/good/cut.png")
    assert (cut["width"], cut["height"]) == (64, 64)  # the header was readable
    assert np.isnan(cut["mean"])
    assert row_of(manifest, "train/good/text.png")["width"] is pd.NA
    assert (manifest["error"] != "").sum() == 5


def test_too_large_image_is_a_row_even_if_it_was_measured_before(make_category) -> None:
    root = make_category(train=2, test_good=0, defects={})
    assert (scan(root)["error"] == "").all()
    manifest = scan(root, data=DATA.model_copy(update={"max_megapixels": 0.004}))
    assert manifest["error"].str.startswith("64 x 64 pixels").all()
    assert manifest["width"].tolist() == [64, 64]
    assert (scan(root)["error"] == "").all()


def test_files_in_the_wrong_place(make_category) -> None:
    root = make_category(train=2, test_good=1, defects={"spot": 1})
    image = root / "widget/train/good/000.png"
    for place in ("train/spot/a.png", "train/b.png", "train/good/deep/c.png", "other/d.png", "e.png"):
        (root / "widget" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, root / "widget" / place)
    save(np.zeros((64, 64), dtype=np.uint8), root / "widget/ground_truth/spot/099_mask.png")
    save(np.zeros((64, 64), dtype=np.uint8), root / "widget/ground_truth/spot/000.bmp")
    manifest = scan(root)
    spot = row_of(manifest, "train/spot/a.png")
    assert (spot["folder"], spot["defect"], spot["label"], spot["error"]) == ("train/spot", "spot", 1, "")
    assert spot["split"] == row_of(manifest, "train/good/000.png")["split"]
    assert row_of(manifest, "train/b.png")["error"].startswith("in train; allowed: train/good")
    assert row_of(manifest, "train/good/deep/c.png")["error"].startswith("in train/good/deep;")
    assert row_of(manifest, "other/d.png")["error"].startswith("in other;")
    assert row_of(manifest, "e.png")["error"].startswith("in the category itself;")
    orphan = row_of(manifest, "ground_truth/spot/099_mask.png")
    assert (orphan["label"], orphan["split"], orphan["error"]) == (1, "test", "mask without an image")
    # 000.bmp sorts before 000_mask.png and so is the mask; the other one is the second.
    second = row_of(manifest, "ground_truth/spot/000_mask.png")
    assert second["error"].startswith("a second mask of test/spot/000.png")


def test_house_keeping_files_are_ignored(make_category) -> None:
    root = make_category(train=2, test_good=0, defects={})
    for name in ("readme.txt", "LICENSE.txt", "license", ".DS_Store", "train/good/Thumbs.db", "train/good/.x.png"):
        (root / "widget" / name).write_text("x")
    (root / "widget/.git").mkdir()
    (root / "widget/.git/a.png").write_text("x")
    assert scan(root)["path"].tolist() == ["widget/train/good/000.png", "widget/train/good/001.png"]


def test_second_scan_only_hashes(make_category, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_category()
    first = scan(root)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(aesc.manifest, "read_image", refuse)
    pd.testing.assert_frame_equal(scan(root), first)


def test_damaged_statistics_are_measured_again(make_category) -> None:
    root = make_category()
    first = scan(root)
    kept = next((root.parent / "cache").iterdir())
    kept.write_bytes(b"PAR1 damaged")
    pd.testing.assert_frame_equal(scan(root), first)


def test_images_keep_their_split_as_the_category_grows(make_category) -> None:
    before = scan(make_category(train=8, test_good=0, defects={}))
    after = scan(make_category(train=20, test_good=0, defects={}))
    both = before.merge(after, on="sha256", suffixes=("", "_after"))
    assert len(both) == 8
    assert (both["split"] == both["split_after"]).all()


def test_progress_counts_every_file(make_category) -> None:
    root = make_category(train=3, test_good=1, defects={"spot": 1})
    steps: list[tuple[int, int]] = []
    scan_category(
        root,
        "widget",
        data=DATA,
        cache_folder=root.parent / "c",
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(done, 6) for done in range(1, 7)]


def test_unknown_category_says_which_exist(make_category) -> None:
    root = make_category("nut")
    make_category("bolt")
    (root / "junk").mkdir()
    assert list_categories(root) == ["bolt", "nut"]
    for name in ("screw", "..", ".", "nut/train", ""):
        with pytest.raises(AescError) as caught:
            scan(root, name)
        assert caught.value.allowed == "bolt, nut"
        assert caught.value.usage
    with pytest.raises(AescError, match="no such folder"):
        list_categories(root / "absent")


@pytest.mark.parametrize("kind", ["no train", "empty good"])
def test_empty_category(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "data/widget" / ("test/good" if kind == "no train" else "train/good")
    folder.mkdir(parents=True)
    with pytest.raises(AescError, match="no images") as caught:
        scan(tmp_path / "data")
    assert caught.value.where.endswith("widget/train/good")


def test_read_only_cache_folder_is_an_aesc_error(make_category, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AescError, match="written"):
        scan_category(make_category(), "widget", data=DATA, cache_folder=tmp_path / "file" / "cache")


def test_digest_follows_content_and_names_but_not_the_root(make_category, tmp_path: Path) -> None:
    root = make_category()
    digest = content_digest(scan(root))
    shutil.copytree(root / "widget", tmp_path / "elsewhere" / "gadget")
    assert content_digest(scan(tmp_path / "elsewhere", "gadget")) == digest
    shuffled = scan(root).sample(frac=1, random_state=0)
    assert content_digest(shuffled) == digest
    mask = root / "widget/ground_truth/spot/000_mask.png"
    save(255 - np.asarray(Image.open(mask)), mask)
    changed = content_digest(scan(root))
    (root / "widget/train/good/000.png").rename(root / "widget/train/good/zzz.png")
    assert len({digest, changed, content_digest(scan(root))}) == 3


@pytest.mark.parametrize(("channels", "expected"), [(1, 1), (3, 3)])
def test_channels_are_what_most_clean_images_are(make_category, channels: int, expected: int) -> None:
    root = make_category(train=5, channels=channels)
    save(np.zeros((64, 64) if channels == 3 else (64, 64, 3), dtype=np.uint8), root / "widget/train/good/odd.png")
    manifest = scan(root)
    assert category_channels(manifest, DATA) == expected
    assert category_channels(manifest, DATA.model_copy(update={"channels": "grey"})) == 1
    assert category_channels(manifest, DATA.model_copy(update={"channels": "rgb"})) == 3


def test_manifest_survives_the_disk(make_category, tmp_path: Path) -> None:
    root = make_category(defects={"spot": 1})
    (root / "widget/train/good/text.png").write_text("no image")
    manifest = scan(root)
    save_manifest(manifest, tmp_path / "out" / "manifest.parquet")
    loaded = load_manifest(tmp_path / "out" / "manifest.parquet")
    pd.testing.assert_frame_equal(loaded, manifest)
    assert loaded["mask_path"].iloc[-1] is None
    (tmp_path / "bad.parquet").write_text("no parquet")
    for name, found in (("bad.parquet", "no manifest"), ("absent.parquet", "no such file")):
        with pytest.raises(AescError, match=found):
            load_manifest(tmp_path / name)


@pytest.mark.real_data
def test_real_hazelnut(real_data: Path, tmp_path: Path) -> None:
    manifest = scan_category(real_data / "mvtec_256", "hazelnut", data=DATA, cache_folder=tmp_path)
    assert len(manifest) == 60
    assert (manifest["error"] == "").all()
    assert manifest["sha256"].is_unique
    assert manifest.groupby("folder").size().to_dict() == {
        "train/good": 50, "test/good": 2, "test/crack": 2, "test/cut": 2, "test/hole": 2, "test/print": 2,
    }  # fmt: skip
    assert manifest.loc[manifest["split"] != "test", "split"].nunique() == 3
    assert (manifest["label"] == manifest["mask_path"].notna()).all()
    assert manifest.loc[manifest["label"] == 1, "mask_area"].between(0.001, 0.2).all()
    assert (manifest[["width", "height"]] == 256).all(axis=None)
    assert set(manifest["mode"]) == {"rgb"}
    assert set(manifest["bit_depth"]) == {8}
    assert manifest["std"].between(0.02, 0.3).all()
    assert (manifest["sharpness"] > 0).all()
    assert list_categories(real_data / "mvtec_256") == ["bottle", "hazelnut"]
    assert category_channels(manifest, DATA) == 3
