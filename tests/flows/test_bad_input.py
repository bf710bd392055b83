"""What bad input gets: one clear error, with file, what was found, what is allowed and what to do."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.categories import draw_category
from tests.commands import Project
from tests.servers import Server

PIXELS = np.random.default_rng(9).integers(60, 190, (64, 64, 3), dtype=np.uint8)
FIRST = "train/good/000.png"


def _cut(category: Path) -> None:
    content = (category / FIRST).read_bytes()
    (category / FIRST).write_bytes(content[: len(content) // 2])


def _bomb(category: Path) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(100_000)))
    (category / FIRST).write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))


def _save(name: str, pixels: np.ndarray) -> Callable[[Path], None]:
    def save(category: Path) -> None:
        (category / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(category / name)

    return save


def _few(category: Path) -> None:
    for path in sorted((category / "train/good").iterdir())[3:]:
        path.unlink()


MASK = np.zeros((64, 64), np.uint8)
# Category: how it is spoilt, the expectation that fails, the file at fault, what is found, what is allowed.
FAULTS: dict[str, tuple[Callable[[Path], object], str, str, str, str]] = {
    "truncated": (_cut, "readable", FIRST, "truncated", "complete images"),
    "text": (lambda c: (c / FIRST).write_text("hello"), "readable", FIRST, "not an image: begins with 'hello'", "PNG"),
    "zero": (lambda c: (c / FIRST).write_bytes(b""), "readable", FIRST, "0 bytes", "complete images"),
    "bomb": (_bomb, "readable", FIRST, "40,000 x 40,000 pixels (1,600 megapixels)", "at most 100 megapixels"),
    "deep": (
        _save(FIRST, PIXELS[..., 0].astype(np.uint16) * 257),
        "same_kind",
        FIRST,
        "16-bit grey",
        "8-bit rgb, as most clean images",
    ),
    "two_sizes": (_save(FIRST, PIXELS[:48]), "same_size", FIRST, "64 x 48", "64 x 64, as most clean images"),
    "small_mask": (
        _save("ground_truth/spot/000_mask.png", MASK[:32, :32] + 255),
        "mask_fits",
        "test/spot/000.png",
        "000_mask.png is 32 x 32, the image 64 x 64",
        "the same width and height",
    ),
    "good_mask": (
        _save("ground_truth/good/000_mask.png", MASK + 255),
        "no_mask_for_good",
        "test/good/000.png",
        "a good image with the mask",
        "masks for images of defects only",
    ),
    "blank_mask": (
        _save("ground_truth/spot/000_mask.png", MASK),
        "mask_marks_defect",
        "test/spot/000.png",
        "marks nothing",
        "at least one pixel",
    ),
    "stray_mask": (
        _save("ground_truth/spot/777_mask.png", MASK + 255),
        "mask_has_image",
        "ground_truth/spot/777_mask.png",
        "mask without an image",
        "<name>_mask.png",
    ),
}


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of categories, each with one fault; `mixed` has several, `bare` lacks the masks and is fine."""
    root = tmp_path_factory.mktemp("spoilt")
    draw_category(root, "bare", train=24, test_good=2, defects={"spot": 2})
    for name, (spoil, *_) in FAULTS.items():
        shutil.copytree(root / "bare", root / name)
        spoil(root / name)
    shutil.copytree(root / "bare", root / "few")
    _few(root / "few")
    shutil.copytree(root / "truncated", root / "mixed")
    FAULTS["small_mask"][0](root / "mixed")
    shutil.rmtree(root / "bare" / "ground_truth")
    (root / "hollow" / "train" / "good").mkdir(parents=True)
    return root


@pytest.fixture(scope="module")
def judged(project: Project, spoilt: Path) -> dict[str, dict[str, Any]]:
    """What `aesc validate` says of each."""
    report = project.aesc("validate", "--data", spoilt, "--preset", "tiny", "--json", code=1).report
    assert not report["success"]
    return {category["category"]: category for category in report["categories"]}


@pytest.mark.parametrize("category", FAULTS)
def test_one_fault_is_one_failure_with_file_reason_and_remedy(judged: dict[str, dict[str, Any]], category: str) -> None:
    _, expectation, file, found, allowed = FAULTS[category]
    assert not judged[category]["success"]
    (failure,) = judged[category]["failures"]
    assert failure["expectation"] == expectation
    assert failure["files"] == [f"{category}/{file}"]
    assert found in failure["found"][0]
    assert allowed in failure["allowed"]
    assert failure["todo"]
    assert f"{category}/{file}".rpartition("/")[2] in Path(judged[category]["page"]).read_text(encoding="utf-8")


def test_three_clean_images_are_too_few_and_the_missing_are_counted(judged: dict[str, dict[str, Any]]) -> None:
    failures = {failure["expectation"]: failure for failure in judged["few"]["failures"]}
    assert "enough_train" in failures
    assert "usable clean images in all: 3" in failures["enough_train"]["observed"]
    assert "at least 8 in train" in failures["enough_train"]["allowed"]
    assert "few/train/good" in failures["enough_train"]["todo"]


def test_a_defect_without_a_mask_is_allowed_and_noted(judged: dict[str, dict[str, Any]]) -> None:
    assert judged["bare"]["success"]
    (note,) = judged["bare"]["notes"]
    assert note["text"] == "pixel metrics of type spot not available: 2 of 2 images have no mask"


def test_an_empty_category_hides_no_other(judged: dict[str, dict[str, Any]], project: Project, spoilt: Path) -> None:
    (failure,) = judged["hollow"]["failures"]
    assert (failure["reason"], failure["observed"]) == (str(spoilt / "hollow/train/good"), "no images")
    assert set(judged) == {*FAULTS, "few", "bare", "mixed", "hollow"}
    error = project.aesc("validate", "--data", spoilt, "--category", "hollow", "--json", code=1).error
    assert (error["where"], error["found"]) == (str(spoilt / "hollow/train/good"), "no images")
    assert error["allowed"].startswith("clean images: PNG")


@pytest.mark.parametrize("command", ["retrain", "validate"])
def test_an_unknown_category_is_told_which_exist(project: Project, spoilt: Path, command: str) -> None:
    error = project.aesc(command, "--data", spoilt, "--category", "nope", "--json", code=2).error
    assert error["where"] == "category nope"
    assert error["allowed"] == ", ".join(sorted([*FAULTS, "few", "bare", "mixed", "hollow"]))


def test_retrain_stops_before_training_and_names_every_file(
    project: Project, prefect_server: Server, spoilt: Path
) -> None:
    arguments = ("--data", spoilt, "--category", "mixed", "--preset", "tiny", "--json")
    error = project.on(prefect_server).aesc("retrain", *arguments, code=1).error
    assert error["where"] == str(spoilt / "mixed")
    assert error["found"].startswith("2 of 18 checks of the images failed")
    assert "mixed/train/good/000.png: truncated" in error["found"]
    assert "mixed/test/spot/000.png: mask mixed/ground_truth/spot/000_mask.png is 32 x 32" in error["found"]
    assert "the same width and height" in error["allowed"]
    assert "export these masks at the size of their images" in error["todo"]
    (folder,) = (project.state / "runs" / "mixed").iterdir()
    assert str(folder / "validation" / "index.html") in error["todo"]
    assert not (folder / "checkpoint.pt").exists()
    assert not (folder / "network").exists()


@pytest.fixture
def as_anybody(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """What to put before a command so that permissions count: root without the rights that overrule them."""
    for wrapper in ((), ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--")):
        if wrapper and not shutil.which(wrapper[0]):
            continue
        folder = tmp_path / f"probe{len(wrapper)}"
        folder.mkdir(mode=0o555)
        probe = [*wrapper, sys.executable, "-c", "import sys; open(sys.argv[1], 'w')", str(folder / "file")]
        found = subprocess.run(probe, capture_output=True, text=True, check=False)
        if "PermissionError" in found.stderr:
            yield wrapper
            return
    pytest.skip("this user writes into read-only folders, and setpriv cannot take that right away")


@pytest.fixture
def clone(project: Project, tmp_path: Path) -> Project:
    """The project without its data and history."""
    shutil.copytree(project.root, tmp_path / "clone", ignore=lambda *_: ["data", ".git"])
    return Project(tmp_path / "clone", tmp_path / "state", project.env)


def test_a_read_only_data_folder_is_named(clone: Project, tmp_path: Path, as_anybody: tuple[str, ...]) -> None:
    data = clone.root / "data"
    data.mkdir(mode=0o555)
    draw_category(tmp_path, "widget", train=1, test_good=0, defects={})
    for arguments in (("sample",), ("import", tmp_path / "widget")):
        error = clone.aesc(*arguments, "--json", code=1, wrapper=as_anybody).error
        assert error["where"].startswith(str(data))
        assert "cannot be written: permission denied" in error["found"].lower()
        assert error["todo"]
    assert list(data.iterdir()) == []


def test_an_archive_that_would_write_elsewhere_is_refused(clone: Project, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    archive = tmp_path / "evil.tar"
    with tarfile.open(archive, "w") as file:
        for name in ("evil/train/good/000.png", "evil/../../../train/good/escaped.png"):
            member = tarfile.TarInfo(name)
            member.size = buffer.tell()
            file.addfile(member, io.BytesIO(buffer.getvalue()))
    error = clone.aesc("import", archive, "--json", code=1).error
    assert "escaped.png" in error["where"] + error["found"]
    assert list(tmp_path.rglob("escaped.png")) == []
    assert list((clone.root / "data").iterdir()) == []


def test_a_category_that_exists_with_other_content_is_not_overwritten(clone: Project, tmp_path: Path) -> None:
    draw_category(clone.root / "data", "widget", train=2)
    before = (clone.root / "data/widget/train/good/000.png").read_bytes()
    draw_category(tmp_path, "widget", train=2, seed=5)
    error = clone.aesc("import", tmp_path / "widget", "--json", code=1).error
    assert error["found"] == "exists with other content"
    assert "--category" in error["todo"]
    assert (clone.root / "data/widget/train/good/000.png").read_bytes() == before
