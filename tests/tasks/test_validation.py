from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from aesc.errors import AescError
from aesc.files import write_json
from aesc.manifest import save_manifest, scan_category
from aesc.params import Params
from aesc.params_file import load_params
from tasks.expectations import run_suite
from tasks.validation import Failure, ValidationReport, ensure_valid, validate_data, validate_manifest
from tasks.validation_suite import build_suite
from tasks.validation_table import profile_clean, tabulate

SIDE = 48
# Every fault once: expectation -> {file below the category: part of what is found there}.
FAULTS = {
    "placed": {"stray.png": "in the category itself"},
    "readable": {
        "train/good/cut.png": "truncated",
        "train/good/text.png": "not an image",
        "train/good/empty.png": "0 bytes",
    },
    "only_good_in_train": {"train/crack/000.png": "in train/crack"},
    "unique_content": {
        "train/good/000.png": "the same content as widget/train/good/zz_copy.png",
        "train/good/zz_copy.png": "the same content as widget/train/good/000.png",
    },
    "separate_splits": {
        "train/good/001.png": "test: widget/test/good/leak.png",
        "test/good/leak.png": "widget/train/good/001.png",
    },
    "same_size": {
        "train/good/narrow.png": "40 x 48",
        "test/good/<script>alert(1)<&script>.png": "64 x 64",
    },
    "same_kind": {"train/good/deep.png": "16-bit grey", "train/good/grey.png": "8-bit grey"},
    "not_blank": {"train/good/blank.png": "standard deviation 0.0000"},
    "not_saturated": {"train/good/over.png": "100.0% of the pixels"},
    "sharp": {"train/good/blurred.png": "of the clean images' median"},
    "mask_has_image": {"ground_truth/spot/099_mask.png": "mask without an image"},
    "mask_readable": {"test/spot/000.png": "ground_truth/spot/000_mask.png: truncated"},
    "mask_fits": {"test/spot/001.png": "24 x 24, the image 48 x 48"},
    "no_mask_for_good": {"test/good/000.png": "ground_truth/good/000_mask.png"},
    "mask_marks_defect": {"test/spot/002.png": "ground_truth/spot/002_mask.png marks nothing"},
}


class Drawer:
    """Writes small noisy images; no two alike."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rng = np.random.default_rng(0)

    def pixels(self, width: int = SIDE, height: int = SIDE) -> np.ndarray:
        return self._rng.integers(60, 190, (height, width, 3), dtype=np.uint8)

    def save(self, name: str, pixels: np.ndarray | None = None) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self.pixels() if pixels is None else pixels).save(path)
        return path

    def copy(self, source: str, target: str) -> None:
        shutil.copy(self.folder / source, self.folder / target)

    def category(self, *, train: int = 40, masks: int = 4) -> None:
        for index in range(train):
            self.save(f"train/good/{index:03d}.png")
        for index in range(4):
            self.save(f"test/good/{index:03d}.png")
            self.save(f"test/spot/{index:03d}.png")
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[10:20, 10:20] = 255
        for index in range(masks):
            self.save(f"ground_truth/spot/{index:03d}_mask.png", mask)

    def faults(self) -> None:
        self.save("stray.png")
        whole = self.save("train/good/cut.png")
        whole.write_bytes(whole.read_bytes()[:2000])
        (self.folder / "train/good/text.png").write_text("no image")
        (self.folder / "train/good/empty.png").write_bytes(b"")
        self.save("train/crack/000.png")
        self.copy("train/good/000.png", "train/good/zz_copy.png")
        self.copy("train/good/001.png", "test/good/leak.png")
        self.save("train/good/narrow.png", self.pixels(width=40))
        self.save("test/good/<script>alert(1)<&script>.png", self.pixels(64, 64))
        self.save("train/good/deep.png", self.pixels()[:, :, 0].astype(np.uint16) * 257)
        self.save("train/good/grey.png", self.pixels()[:, :, 0])
        self.save("train/good/blank.png", np.full((SIDE, SIDE, 3), 90, np.uint8))
        self.save("train/good/over.png", np.repeat((self.pixels()[:, :, :1] > 120) * np.uint8(255), 3, axis=2))
        ramp = np.linspace(20, 230, SIDE).astype(np.uint8)
        self.save("train/good/blurred.png", np.tile(ramp[:, None], (SIDE, 1, 3)))
        self.copy("ground_truth/spot/003_mask.png", "ground_truth/spot/099_mask.png")
        (self.folder / "ground_truth/good").mkdir()
        self.copy("ground_truth/spot/003_mask.png", "ground_truth/good/000_mask.png")
        broken = self.folder / "ground_truth/spot/000_mask.png"
        broken.write_bytes(broken.read_bytes()[:60])
        self.save("ground_truth/spot/001_mask.png", np.full((24, 24), 255, np.uint8))
        self.save("ground_truth/spot/002_mask.png", np.zeros((SIDE, SIDE), np.uint8))


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(Path(__file__).parents[2] / "params.yaml", preset="demo")


def scan(root: Path, params: Params, name: str = "widget") -> pd.DataFrame:
    return scan_category(root, name, data=params.data, cache_folder=root.parent / "cache")


def validate(root: Path, params: Params, name: str = "widget") -> ValidationReport:
    manifest = scan(root, params, name)
    return validate_manifest(manifest, category=name, params=params, data_root=root, folder=root.parent / "validation")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, params: Params) -> ValidationReport:
    root = tmp_path_factory.mktemp("broken") / "data"
    drawer = Drawer(root / "widget")
    drawer.category()
    drawer.faults()
    return validate(root, params)


@pytest.fixture
def drawer(tmp_path: Path) -> Drawer:
    return Drawer(tmp_path / "data" / "widget")


def failure_of(report: ValidationReport, expectation: str) -> Failure:
    return next(failure for failure in report.failures if failure.expectation == expectation)


@pytest.mark.parametrize("expectation", FAULTS)
def test_each_fault_is_reported_once_with_its_file_and_reason(broken: ValidationReport, expectation: str) -> None:
    failure = failure_of(broken, expectation)
    wanted = {f"widget/{path}": text for path, text in FAULTS[expectation].items()}

    assert set(failure.files) == set(wanted)
    for path, found in zip(failure.files, failure.found, strict=True):
        assert wanted[path] in found
    assert failure.allowed
    assert failure.todo


def test_nothing_else_fails(broken: ValidationReport) -> None:
    failed = [check.name for check in broken.checks if not check.success]

    assert not broken.success
    assert failed == [failure.expectation for failure in broken.failures]
    assert set(failed) == set(FAULTS)


def test_copies_stand_beside_their_original(broken: ValidationReport) -> None:
    assert failure_of(broken, "unique_content").files == ("widget/train/good/000.png", "widget/train/good/zz_copy.png")


def test_the_error_names_files_findings_limits_remedies_and_the_page(broken: ValidationReport) -> None:
    with pytest.raises(AescError) as caught:
        ensure_valid(broken)

    text = str(caught.value)
    assert text.startswith(f"{broken.data_root}/widget: 15 of 18 checks of the images failed")
    assert "widget/train/good/cut.png: truncated" in text
    assert "8-bit rgb, as most clean images" in caught.value.allowed
    assert "copy or export these files again" in caught.value.todo
    assert broken.page in caught.value.todo


def test_the_page_shows_offenders_and_needs_nothing_from_outside(broken: ValidationReport) -> None:
    page = Path(broken.page).read_text(encoding="utf-8")

    assert page.count("data:image/jpeg;base64,") >= 15
    assert "not fit for training: 15 of 18" in page
    assert "train/<wbr>good/<wbr>cut.png" in page
    for outside in ("http://", "https://", 'src="//', "url(", "<link", "@import"):
        assert outside not in page


def test_file_names_cannot_become_markup(broken: ValidationReport) -> None:
    page = Path(broken.page).read_text(encoding="utf-8")

    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;&amp;script&gt;.png" in page


def test_the_result_is_strict_json_with_great_expectations_own_result(broken: ValidationReport) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    result = json.loads(Path(broken.result).read_text(encoding="utf-8"), parse_constant=refuse)

    assert result["success"] is False
    assert result["failures"][0]["files"] == ["widget/stray.png"]
    assert result["great_expectations"]["meta"]["great_expectations_version"]
    types = {each["expectation_config"]["type"] for each in result["great_expectations"]["results"]}
    assert {"expect_column_values_to_be_unique", "expect_table_row_count_to_be_between"} <= types


def test_a_sound_category_passes_in_silence(drawer: Drawer, params: Params, capfd: pytest.CaptureFixture[str]) -> None:
    drawer.category()

    report = validate(drawer.folder.parent, params)
    ensure_valid(report)

    assert report.success
    assert not report.notes
    assert report.n_images == 48
    assert report.counts["test"] == 8
    assert sum(report.counts.values()) == 48
    page = Path(report.page).read_text(encoding="utf-8")
    assert "fit for training" in page
    assert "not fit" not in page
    assert "Samples of each split" in page
    assert page.count("data:image/jpeg;base64,") >= 20
    assert capfd.readouterr() == ("", "")


def test_three_images_are_too_few_and_the_error_counts(drawer: Drawer, params: Params) -> None:
    drawer.category(train=3)

    report = validate(drawer.folder.parent, params)

    assert {"enough_train", "enough_calibration"} <= {failure.expectation for failure in report.failures}
    failure = failure_of(report, "enough_train")
    assert "usable clean images in all: 3" in failure.observed
    assert failure.allowed == "at least 10 in train (validation.min_train)"
    assert "more" not in failure.files
    with pytest.raises(AescError, match=r"Too few clean images in train: \d in train; usable clean images in all: 3"):
        ensure_valid(report)
    added = int(failure.todo.split("add about ")[1].split()[0])
    assert 17 <= added <= 40
    assert f"{3 + added} in all" in failure.todo


def test_the_error_names_ten_files_and_counts_the_rest(drawer: Drawer, params: Params) -> None:
    drawer.category()
    for index in range(13):
        drawer.save(f"train/bad/{index:03d}.png")

    report = validate(drawer.folder.parent, params)

    with pytest.raises(AescError) as caught:
        ensure_valid(report)
    assert caught.value.found.count("widget/train/bad/") == 10
    assert "and 3 more" in caught.value.found
    assert caught.value.allowed == "only train/good below widget/train"


def test_more_offenders_than_thumbnails_are_listed(drawer: Drawer, params: Params) -> None:
    drawer.category()
    for index in range(30):
        drawer.save(f"train/bad/{index:03d}.png")

    page = Path(validate(drawer.folder.parent, params).page).read_text(encoding="utf-8")

    assert page.count("data:image/jpeg;base64,") == 24
    assert "<summary>6 more</summary>" in page
    assert "widget/train/bad/029.png" in page


def test_defects_without_masks_and_poor_test_images_are_notes(drawer: Drawer, params: Params) -> None:
    drawer.category(masks=3)
    drawer.save("test/hole/000.png")
    drawer.save("test/hole/001.png", np.full((SIDE, SIDE, 3), 90, np.uint8))

    report = validate(drawer.folder.parent, params)

    assert report.success
    notes = {note.text: note.files for note in report.notes}
    assert notes["pixel metrics of type hole not available: 2 of 2 images have no mask"] == (
        "widget/test/hole/000.png",
        "widget/test/hole/001.png",
    )
    assert notes["pixel metrics of type spot of 3 images only: 1 of 4 images have no mask"] == (
        "widget/test/spot/003.png",
    )
    assert notes["Blank test images: 1"] == ("widget/test/hole/001.png",)
    assert "pixel metrics of type hole not available" in Path(report.page).read_text(encoding="utf-8")


def test_no_test_images_at_all_is_allowed(drawer: Drawer, params: Params) -> None:
    drawer.category()
    shutil.rmtree(drawer.folder / "test")
    shutil.rmtree(drawer.folder / "ground_truth")

    report = validate(drawer.folder.parent, params)

    assert report.success
    assert report.counts["test"] == 0


def test_no_readable_image_at_all_is_reported_as_such(drawer: Drawer, params: Params) -> None:
    good = drawer.folder / "train/good"
    good.mkdir(parents=True)
    for index in range(3):
        (good / f"{index}.png").write_bytes(b"")

    report = validate(drawer.folder.parent, params)

    failed = {failure.expectation for failure in report.failures}
    assert failed == {"readable", "enough_train", "enough_validation", "enough_calibration"}
    assert len(failure_of(report, "readable").files) == 3


def test_a_manifest_whose_clean_splits_share_content_is_a_leak(drawer: Drawer, params: Params) -> None:
    drawer.category()
    manifest = scan(drawer.folder.parent, params)
    train = manifest.index[manifest["split"] == "train"][0]
    calibration = manifest.index[manifest["split"] == "calibration"][0]
    manifest.loc[calibration, "sha256"] = manifest.loc[train, "sha256"]

    folder = drawer.folder.parent.parent / "validation"
    report = validate_manifest(
        manifest, category="widget", params=params, data_root=drawer.folder.parent, folder=folder
    )

    assert [failure.expectation for failure in report.failures] == ["separate_splits"]
    assert set(report.failures[0].files) == {manifest.loc[train, "path"], manifest.loc[calibration, "path"]}


def test_an_expectation_that_could_not_be_evaluated_is_no_verdict_on_the_data(drawer: Drawer, params: Params) -> None:
    drawer.category()
    table = tabulate(scan(drawer.folder.parent, params), min_std=0.01)
    build = partial(build_suite, params, profile=profile_clean(table), category="widget")

    with pytest.raises(RuntimeError, match="unique_content could not be evaluated"):
        run_suite(table.drop(columns="content"), build, name="widget", index="path")


def write_run(folder: Path, root: Path, params: Params) -> None:
    write_json(folder / "params.json", params.model_dump(mode="json"))
    save_manifest(scan(root, params), folder / "manifest.parquet")


def test_the_task_returns_the_result_or_stops_the_run(drawer: Drawer, params: Params, tmp_path: Path) -> None:
    drawer.category()
    root = drawer.folder.parent
    write_run(tmp_path / "run", root, params)

    result = validate_data.fn("widget", str(root), str(tmp_path / "run"))

    assert Path(result) == tmp_path / "run" / "validation" / "result.json"
    assert (tmp_path / "run" / "validation" / "index.html").is_file()

    (drawer.folder / "train/good/000.png").write_bytes(b"")
    write_run(tmp_path / "bad run", root, params)
    with pytest.raises(AescError, match=r"000\.png: 0 bytes"):
        validate_data.fn("widget", str(root), str(tmp_path / "bad run"))
    assert (tmp_path / "bad run" / "validation" / "index.html").is_file()


@pytest.mark.real_data
@pytest.mark.parametrize("category", ["hazelnut", "bottle"])
def test_real_categories_pass_with_the_default_limits(
    real_data: Path, params: Params, tmp_path: Path, category: str
) -> None:
    root = real_data / "mvtec_256"
    manifest = scan_category(root, category, data=params.data, cache_folder=tmp_path / "cache")

    report = validate_manifest(manifest, category=category, params=params, data_root=root, folder=tmp_path / "page")

    assert report.success
    assert not report.notes
