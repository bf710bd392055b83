"""Judging arrivals: every reason, the order of the checks, and the gate of a champion that was trained for it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from PIL import Image, ImageFilter

from aesc.bands import Band
from aesc.detector import Detector
from aesc.gate import alarms
from aesc.image_statistics import measure
from aesc.images import read_image_bytes
from aesc.params import Params
from aesc.params_file import load_params
from tasks import judging
from tasks.acceptance import accepted_name
from tasks.judging import Reference, judge, load_reference
from tasks.settings import Settings
from tests.arrivals import sha256, staged_table
from tests.categories import draw_category
from tests.detectors import train_detector
from tests.repositories import ROOT

CATEGORY = "widget"
SIDE = 64
SMALL = ("data.image_size=64", "data.train=0.5", "data.validation=0.1", "data.calibration=0.4")
SHORT = ("training.epochs=3", "training.images_per_epoch=64", "training.batch_size=8", "training.learning_rate=0.004")
SAME = ("training.device=cpu", "training.precision=float32", "detection.passes=4", "detection.strategy=residual")
Pixels = npt.NDArray[np.uint8]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(ROOT / "params.yaml", preset="ablation", overrides=[*SMALL, *SHORT, *SAME])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with the category's accepted and test images."""
    folder = tmp_path_factory.mktemp("judging")
    draw_category(folder / "data", CATEGORY, train=60, test_good=4)
    return folder


@pytest.fixture(scope="module")
def settings(root: Path) -> Settings:
    return Settings(root=root, home=root / "state")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """New images of the same product, clean and with a spot, by name."""
    folder = draw_category(tmp_path_factory.mktemp("fresh"), train=20, test_good=0, defects={"spot": 6}, seed=5)
    found = {f"{path.parent.name} {path.stem}.png": path.read_bytes() for path in sorted(folder.glob("*/t*/*/*.png"))}
    assert len(found) == 26
    return found


@pytest.fixture(scope="module")
def detector(root: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """The champion: trained on the accepted images."""
    return train_detector(root / "data", CATEGORY, params=params, folder=tmp_path_factory.mktemp("detector"))


@pytest.fixture
def reference(root: Path, params: Params, settings: Settings) -> Reference:
    return load_reference(root / "data", CATEGORY, params=params, settings=settings)


class Judge:
    """Judges arrivals, given as content by key."""

    def __init__(self, folder: Path, params: Params) -> None:
        self.folder = folder
        self.params = params

    def __call__(
        self,
        arrivals: Mapping[str, bytes],
        reference: Reference,
        *,
        detector: Detector | None = None,
        taken_in: set[str] | None = None,
        rejected: Mapping[str, str] | None = None,
    ) -> pd.DataFrame:
        staged = staged_table(arrivals, self.folder)
        table = judge(
            staged,
            self.folder,
            category=CATEGORY,
            params=self.params,
            reference=reference,
            detector=detector,
            taken_in=taken_in or set(),
            rejected=rejected,
        )
        assert list(table["key"]) == list(arrivals)
        return table.set_index("key")


@pytest.fixture
def judged(tmp_path: Path, params: Params) -> Judge:
    return Judge(tmp_path / "files", params)


def pixels_of(content: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(content)))


def stored(pixels: npt.NDArray[np.generic] | Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def brighter(content: bytes, by: int = 1) -> bytes:
    """Another file, and the same picture to the eye."""
    return stored(np.clip(pixels_of(content).astype(int) + by, 0, 255).astype(np.uint8))


def reasons(table: pd.DataFrame) -> dict[str, str]:
    return {str(key): row["reason"] or row["verdict"] for key, row in table.iterrows()}


def accepted_image(root: Path, name: str = "train/good/000.png") -> bytes:
    return (root / "data" / CATEGORY / name).read_bytes()


def statistic(content: bytes, name: str) -> float:
    return float(getattr(measure(read_image_bytes(content, "image", max_megapixels=1)), name))


# What is known of a category


def test_the_yardstick_is_what_was_accepted(reference: Reference) -> None:
    assert (reference.size, reference.kind, reference.n) == ("64 x 64", "8-bit rgb", 60)
    assert {band.n for band in reference.bands.values()} == {60}
    assert len(reference.by_content) == len(reference.copies) == 60 + 4 + 3


def test_nothing_is_known_of_a_new_category(root: Path, params: Params, settings: Settings) -> None:
    (root / "data" / "empty" / "train" / "good").mkdir(parents=True, exist_ok=True)
    (root / "data" / "empty" / "train" / "good" / ".DS_Store").write_bytes(b"")
    for name in ("nothing", "empty"):
        found = load_reference(root / "data", name, params=params, settings=settings)
        assert (found.size, found.kind, found.n) == ("", "", 0)
        assert not found.bands
        assert not found.by_content
        assert found.copies.nearest(np.zeros(4, np.uint64)) is None


@pytest.mark.parametrize("lacks", ["clean images", "a whole mask", "a readable file"])
def test_test_images_are_known_whatever_the_category_lacks(
    tmp_path: Path, params: Params, settings: Settings, lacks: str
) -> None:
    data = draw_category(tmp_path / "data", CATEGORY, train=3, test_good=1, defects={"spot": 1}, seed=9)
    folder = data / CATEGORY
    if lacks == "clean images":
        shutil.rmtree(folder / "train")
    elif lacks == "a whole mask":
        (folder / "ground_truth/spot/000_mask.png").write_bytes(b"")
    else:
        (folder / "test/spot/000.png").write_bytes(b"damaged")
    found = load_reference(data, CATEGORY, params=params, settings=settings)
    for name in ("test/spot/000.png", "test/good/000.png"):
        assert found.by_content[sha256((folder / name).read_bytes())] == name
    assert not any(path.startswith("ground_truth") for path in found.by_content.values())
    assert found.n == (0 if lacks == "clean images" else 3)
    assert found.size == "64 x 64"


def test_content_in_train_and_test_is_a_test_image(tmp_path: Path, params: Params, settings: Settings) -> None:
    data = draw_category(tmp_path / "data", CATEGORY, train=3, test_good=1, seed=9)
    shutil.copy(data / CATEGORY / "train/good/001.png", data / CATEGORY / "test/good/zz.png")
    found = load_reference(data, CATEGORY, params=params, settings=settings)
    assert found.by_content[sha256((data / CATEGORY / "train/good/001.png").read_bytes())] == "test/good/zz.png"


# Form and statistics


def test_new_clean_images_are_accepted(judged: Judge, reference: Reference, fresh: dict[str, bytes]) -> None:
    clean = {name: content for name, content in fresh.items() if name.startswith("good")}
    table = judged(clean, reference)
    assert set(reasons(table).values()) == {"accepted"}
    assert table["residual"].isna().all()  # no champion was asked
    assert list(table["mean"]) == pytest.approx([statistic(content, "mean") for content in clean.values()])


def test_every_fault_of_form_has_its_reason(judged: Judge, reference: Reference, fresh: dict[str, bytes]) -> None:
    good = fresh["good 000.png"]
    pixels = pixels_of(good)
    centred = pixels.astype(float) - pixels.mean()
    arrivals = {
        "empty.png": b"",
        "text.png": b"no image",
        "cut.png": good[: len(good) // 2],
        "notes.txt": good,
        "no suffix": good,
        "small.png": stored(pixels[:48, :48]),
        "grey.png": stored(np.asarray(Image.fromarray(pixels).convert("L"))),
        "deep.png": stored(pixels[..., 0].astype(np.uint16) * 257),
        "alpha.png": stored(Image.fromarray(pixels).convert("RGBA")),
        "bright.png": brighter(good, 110),
        "dark.png": brighter(good, -110),
        "flat.png": stored(np.clip(pixels.mean() + 0.3 * centred, 0, 255).astype(np.uint8)),
        "blurred.png": stored(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1))),
        "grainy.png": stored(
            np.clip(pixels + np.random.default_rng(0).normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
        ),
        "good.png": good,
    }
    table = judged(arrivals, reference)
    assert reasons(table) == {
        **dict.fromkeys(["empty.png", "text.png", "cut.png", "notes.txt", "no suffix"], "unreadable"),
        "small.png": "other_size",
        **dict.fromkeys(["grey.png", "deep.png", "alpha.png"], "other_format"),
        **dict.fromkeys(["bright.png", "dark.png"], "brightness"),
        "flat.png": "contrast",
        **dict.fromkeys(["blurred.png", "grainy.png"], "sharpness"),
        "good.png": "accepted",
    }
    detail = table["detail"]
    assert detail["small.png"] == "48 x 48; allowed: 64 x 64"
    assert detail["alpha.png"] == "8-bit rgba; allowed: 8-bit rgb"
    assert detail["empty.png"].startswith("0 bytes; allowed: complete images")
    band = reference.bands["mean"]
    found = f"brightness {statistic(arrivals['bright.png'], 'mean'):.4g}"
    assert (
        detail["bright.png"] == f"{found}; allowed: {band.low:.4g} to {band.high:.4g}, the band of 60 accepted images"
    )


def test_saturation_has_its_reason(judged: Judge, reference: Reference, fresh: dict[str, bytes]) -> None:
    pixels = pixels_of(fresh["good 000.png"]).copy()
    pixels[:8, :8] = 255
    arrivals = {"lamp.png": stored(pixels), "good.png": fresh["good 001.png"]}
    only = replace(reference, bands={"saturated": reference.bands["saturated"]})
    table = judged(arrivals, only)
    assert reasons(table) == {"lamp.png": "saturated_share", "good.png": "accepted"}
    assert "saturated share 0.01562" in table["detail"]["lamp.png"]


@pytest.mark.parametrize("edge", ["low", "high"])
def test_the_edges_of_a_band_are_inside(
    judged: Judge, reference: Reference, fresh: dict[str, bytes], edge: str
) -> None:
    at = statistic(fresh["good 000.png"], "mean")
    beyond = np.nextafter(at, np.inf if edge == "low" else -np.inf)
    for limit, wanted in ((at, "accepted"), (beyond, "brightness")):
        band = Band(low=limit, high=9.0, n=9) if edge == "low" else Band(low=-9.0, high=limit, n=9)
        table = judged({"a.png": fresh["good 000.png"]}, replace(reference, bands={"mean": band}))
        assert reasons(table) == {"a.png": wanted}


def test_too_few_accepted_images_leave_the_bands_open(
    judged: Judge, reference: Reference, fresh: dict[str, bytes]
) -> None:
    table = judged({"bright.png": brighter(fresh["good 000.png"], 110)}, replace(reference, bands={}))
    assert reasons(table) == {"bright.png": "accepted"}


def test_no_arrival_or_no_readable_one_is_no_fault(judged: Judge, reference: Reference) -> None:
    columns = ["key", "tag", "size", "modified", "sha256", "file"]
    nothing = judge(
        pd.DataFrame([], columns=columns),
        judged.folder,
        category=CATEGORY,
        params=judged.params,
        reference=reference,
        detector=None,
        taken_in=set(),
    )
    assert len(nothing) == 0
    assert {"verdict", "reason", *columns} <= set(nothing.columns)
    unreadable = {"a.png": b"", "b.png": b"no image"}
    assert set(reasons(judged(unreadable, reference)).values()) == {"unreadable"}
    assert set(reasons(judged(unreadable, empty_reference(judged))).values()) == {"unreadable"}


# Copies


def test_copies_have_their_reason_and_their_twin(
    judged: Judge, reference: Reference, root: Path, fresh: dict[str, bytes]
) -> None:
    train, test = accepted_image(root), accepted_image(root, "test/good/001.png")
    arrivals = {
        "duplicate.png": train,
        "duplicate.bmp": train,
        "leak.png": test,
        "near.png": brighter(train),
        "near leak.png": brighter(test),
        "fresh.png": fresh["good 000.png"],
    }
    table = judged(arrivals, reference)
    assert reasons(table) == {
        "duplicate.png": "duplicate",
        "duplicate.bmp": "duplicate",
        "leak.png": "leak",
        "near.png": "near_duplicate",
        "near leak.png": "leak",
        "fresh.png": "accepted",
    }
    twins = {"leak.png": "test/good/001.png", "near leak.png": "test/good/001.png", "fresh.png": ""}
    assert dict(table["twin"]) == {key: twins.get(key, "train/good/000.png") for key in arrivals}
    assert table["detail"]["leak.png"].startswith("the same content as test/good/001.png, a test image")
    assert "of 256 bits" in table["detail"]["near leak.png"]
    assert "test image" in table["detail"]["near leak.png"]


def test_a_defective_test_image_is_a_leak_too(judged: Judge, reference: Reference, root: Path) -> None:
    table = judged({"a.png": accepted_image(root, "test/spot/000.png")}, replace(reference, bands={}))
    assert reasons(table) == {"a.png": "leak"}


@pytest.mark.parametrize("chunk", [1, 64])
def test_copies_within_the_arrivals(
    judged: Judge, reference: Reference, fresh: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(judging, "CHUNK", chunk)
    one, other = fresh["good 000.png"], fresh["good 001.png"]
    arrivals = {"1.png": one, "2.png": one, "3.png": other, "4.png": brighter(one), "5.png": one, "6.bmp": one}
    table = judged(arrivals, reference)
    assert reasons(table) == {
        "1.png": "accepted",
        "2.png": "duplicate",
        "3.png": "accepted",
        "4.png": "near_duplicate",
        "5.png": "duplicate",
        "6.bmp": "duplicate",
    }
    assert set(table["twin"]) == {"", accepted_name(sha256(one), "1.png")}


def test_a_copy_of_a_rejected_arrival_may_be_the_good_one(
    judged: Judge, reference: Reference, fresh: dict[str, bytes]
) -> None:
    """What was not accepted is no original: its copies are judged as itself, not as copies of it."""
    dark = brighter(fresh["good 000.png"], -110)
    table = judged({"1.png": dark, "2.png": dark, "3.png": fresh["good 000.png"]}, reference)
    assert reasons(table) == {"1.png": "brightness", "2.png": "brightness", "3.png": "accepted"}


def test_what_an_unrecorded_run_has_taken_in_is_known_not_a_duplicate(
    tmp_path: Path, judged: Judge, params: Params, settings: Settings, fresh: dict[str, bytes]
) -> None:
    data = draw_category(tmp_path / "data", CATEGORY, train=3, seed=9)
    content = fresh["good 000.png"]
    (data / CATEGORY / accepted_name(sha256(content), "a.png")).write_bytes(content)
    reference = load_reference(data, CATEGORY, params=params, settings=settings)
    assert reasons(judged({"a.png": content}, reference)) == {"a.png": "known"}
    assert reasons(judged({"a.png": content}, reference, taken_in={sha256(content)})) == {"a.png": "duplicate"}


def test_what_a_person_rejected_does_not_come_in_by_arriving_again(
    judged: Judge, reference: Reference, fresh: dict[str, bytes]
) -> None:
    content = fresh["good 000.png"]
    table = judged({"a.png": content}, reference, rejected={sha256(content): "rejected by Ada: a scratch"})
    assert reasons(table) == {"a.png": "rejected_before"}
    assert "rejected by Ada: a scratch" in table["detail"]["a.png"]


# The champion


def test_the_champion_s_alarms_are_quarantined_and_nothing_else(
    judged: Judge, reference: Reference, fresh: dict[str, bytes], detector: Detector
) -> None:
    table = judged(fresh, replace(reference, bands={}), detector=detector)
    raised = {file: alarms(detector.predict(judged.folder / file), detector.operating_point) for file in table["file"]}
    for key, row in table.iterrows():
        found = raised[row["file"]]
        assert (row["reason"] or row["verdict"]) == ("contaminated" if found else "accepted"), key
        assert row["detail"] == "; ".join(map(str, found))
        scores = detector.predict(judged.folder / row["file"]).scores
        assert row["residual"] == pytest.approx(scores["residual"], rel=1e-4)
        assert row["uncertainty"] == pytest.approx(scores["uncertainty"], rel=1e-4)
    spots = [key for key in fresh if key.startswith("spot")]
    assert set(table.loc[spots, "reason"]) == {"contaminated"}
    assert (table["verdict"] == "accepted").sum() >= 10
    kinds = {tuple(alarm.strategy for alarm in found) for found in raised.values()}
    assert {("residual",), ("uncertainty",)} <= kinds  # each of the two has held something back


def test_the_first_fault_counts_in_the_order_of_the_checks(
    judged: Judge, reference: Reference, root: Path, fresh: dict[str, bytes], detector: Detector
) -> None:
    spot = accepted_image(root, "test/spot/000.png")
    open_bands = replace(reference, bands={})
    table = judged(
        {"spot.png": fresh["spot 000.png"], "leak.png": spot, "near.png": brighter(spot)}, open_bands, detector=detector
    )
    assert reasons(table) == {"spot.png": "contaminated", "leak.png": "leak", "near.png": "leak"}
    assert table["residual"].notna().to_dict() == {"spot.png": True, "leak.png": False, "near.png": False}
    small = stored(pixels_of(spot)[:48, :48])
    other_size = replace(open_bands, by_content={**open_bands.by_content, sha256(small): "test/spot/000.png"})
    assert reasons(judged({"a.png": small}, other_size, detector=detector)) == {"a.png": "other_size"}
    dark = brighter(spot, -110)
    leaking = replace(reference, by_content={**reference.by_content, sha256(dark): "test/spot/000.png"})
    assert reasons(judged({"a.png": dark}, leaking, detector=detector)) == {"a.png": "brightness"}


def test_a_champion_that_computes_no_number_takes_nothing_in(
    judged: Judge, reference: Reference, fresh: dict[str, bytes], detector: Detector, tmp_path: Path
) -> None:
    detector.save(tmp_path / "champion")
    broken = Detector.load(tmp_path / "champion", device="cpu")
    with torch.no_grad():
        next(broken._network.parameters()).fill_(torch.nan)
    table = judged({"a.png": fresh["good 003.png"]}, reference, detector=broken)
    assert reasons(table) == {"a.png": "contaminated"}


# A new category


def empty_reference(judged: Judge) -> Reference:
    nowhere = judged.folder.parent / "nowhere"
    return load_reference(nowhere, CATEGORY, params=judged.params, settings=Settings(root=nowhere))


def test_a_new_category_is_measured_by_what_most_of_its_arrivals_are(judged: Judge, fresh: dict[str, bytes]) -> None:
    good = list(fresh.values())[:4]
    arrivals = {
        **{f"{number}.png": content for number, content in enumerate(good)},
        "small.png": stored(pixels_of(good[0])[:48, :48]),
        "grey.png": stored(np.asarray(Image.fromarray(pixels_of(good[1])).convert("L"))),
        "twin.png": good[2],
        "cut.png": good[3][:100],
    }
    table = judged(arrivals, empty_reference(judged))
    assert reasons(table) == {
        **dict.fromkeys(["0.png", "1.png", "2.png", "3.png"], "accepted"),
        "small.png": "other_size",
        "grey.png": "other_format",
        "twin.png": "duplicate",
        "cut.png": "unreadable",
    }
