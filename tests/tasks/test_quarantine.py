"""Quarantine: entries are whole or absent, a page that is safe to open, decisions, and the way in after all."""

from __future__ import annotations

import html.parser
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aesc.detector import Detector
from aesc.errors import AescError
from aesc.params_file import load_params
from tasks import arrival_batch, quarantine
from tasks.acceptance import accept_arrivals
from tasks.arrival_batch import ACCEPTED, QUARANTINED, Batch, batches_folder, unfinished_batch
from tasks.quarantine import (
    HELD,
    REJECTED,
    decide,
    entries,
    entry_folder,
    find_entry,
    finish_release,
    quarantine_arrivals,
    quarantine_folder,
    rejected_contents,
    release,
    require_acceptable,
    require_undecided,
    write_page,
)
from tasks.settings import Settings
from tasks.versioning import track_data
from tests.arrivals import die, judged_batch, killed_in, largest_file, own_environment, sha256
from tests.categories import draw_category
from tests.detectors import train_detector
from tests.repositories import ROOT, commit_pointer, git, make_project

CATEGORY = "bottle"
HOSTILE = '<script>alert("1")</script>/"><img src=x onerror=alert(2)>.png'
SAME = "the same content as"
CONTAMINATED = {"verdict": QUARANTINED, "reason": "contaminated", "detail": "residual 2 above its threshold 1"}


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A project without a champion."""
    own_environment(monkeypatch, tmp_path)
    monkeypatch.setattr(quarantine, "open_gate", lambda *_: (None, "open"))  # the registry has a test of its own
    return Settings()


def quarantined(settings: Settings, arrivals: dict[str, bytes], **decision: Any) -> list[dict[str, Any]]:
    """The entries of a batch whose arrivals are all held, in the arrivals' order."""
    held = {**CONTAMINATED, "residual": 2.0, "uncertainty": 0.5, **decision}
    batch = judged_batch(settings, CATEGORY, arrivals, decisions=dict.fromkeys(arrivals, held))
    assert keep(batch) == len(arrivals)
    batch.update(finished=True)
    batch.discard_files()
    found = {record["key"]: record for record in entries(settings) if record["batch"] == batch.name}
    return [found[key] for key in arrivals]


def keep(batch: Batch) -> int:
    return quarantine_arrivals.fn(CATEGORY, str(batch.path))


def page(settings: Settings) -> str:
    return (quarantine_folder(settings, CATEGORY) / "index.html").read_text(encoding="utf-8")


# Entries


def test_an_entry_keeps_image_picture_and_reason(settings: Settings) -> None:
    content = picture(0)
    (record,) = quarantined(settings, {"line/1.PNG": content}, twin="test/good/1.png")
    folder = entry_folder(settings, record)
    assert {path.name for path in folder.iterdir()} == {"image.PNG", "preview.png", "reason.json"}
    assert (folder / record["image"]).read_bytes() == content
    assert Image.open(folder / record["picture"]).size == (256, 256)
    assert json.loads((folder / "reason.json").read_text()) == record
    expected = {
        "status": HELD,
        "category": CATEGORY,
        "source": "s3://station/clean",
        "key": "line/1.PNG",
        "sha256": sha256(content),
        "reason": "contaminated",
        "detail": CONTAMINATED["detail"],
        "twin": "test/good/1.png",
        "residual": 2.0,
        "uncertainty": 0.5,
        "gate": "open",
        "decisions": [],
    }
    assert {key: record[key] for key in expected} == expected


def test_only_what_is_held_gets_an_entry(settings: Settings) -> None:
    arrivals = {f"{number}.png": picture(number) for number in range(3)}
    batch = judged_batch(settings, CATEGORY, arrivals, decisions={"1.png": CONTAMINATED, "2.png": {"verdict": "known"}})
    assert keep(batch) == 1
    assert [record["key"] for record in entries(settings)] == ["1.png"]


def test_an_unreadable_arrival_is_kept_as_it_came(settings: Settings) -> None:
    (record,) = quarantined(settings, {"a.png": b"no image"}, reason="unreadable", residual=None, uncertainty=None)
    assert (record["picture"], record["residual"]) == (None, None)
    assert (entry_folder(settings, record) / record["image"]).read_bytes() == b"no image"
    assert "not readable as an image" in page(settings)


@pytest.mark.parametrize("shown", ["residual", "uncertainty"])
def test_the_champion_s_heatmap_is_that_of_the_alarm(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str
) -> None:
    detector = champion(tmp_path)
    monkeypatch.setattr(quarantine, "open_gate", lambda *_: (detector, "the champion"))
    content = picture(0)
    (record,) = quarantined(settings, {"a.png": content}, detail=f"{shown} 2 above its threshold 1")
    drawn = Image.open(entry_folder(settings, record) / record["picture"])
    assert record["picture"] == "heatmap.png"
    assert drawn.size == (128, 64)
    from tasks.heatmaps import write_heatmap

    prediction = detector.predict(entry_folder(settings, record) / record["image"])
    write_heatmap(prediction, detector, tmp_path / "expected.png", strategy=shown)  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(Image.open(tmp_path / "expected.png")))


def champion(folder: Path) -> Detector:
    small = ["data.image_size=64", "training.epochs=1", "training.images_per_epoch=8", "training.batch_size=4"]
    same = ["training.device=cpu", "training.precision=float32", "detection.passes=2", "detection.strategy=residual"]
    params = load_params(ROOT / "params.yaml", preset="ablation", overrides=[*small, *same])
    draw_category(folder / "drawn", CATEGORY, train=16, test_good=1)
    return train_detector(folder / "drawn", CATEGORY, params=params, folder=folder / "detector")


def test_the_same_arrival_has_one_entry_however_often_it_comes(settings: Settings) -> None:
    content = picture(0)
    (first,) = quarantined(settings, {"a.png": content})
    rejected = decide(settings, first, REJECTED, by="Ada", why="a scratch")
    (again,) = entries(settings)
    assert again == rejected
    batch = judged_batch(settings, CATEGORY, {"a.png": content}, decisions={"a.png": CONTAMINATED})
    assert keep(batch) == 1
    assert entries(settings) == [rejected]  # what a person decided stays
    quarantined(settings, {"b.png": content, "a.png/": picture(1)})
    assert len({record["id"] for record in entries(settings)}) == 3


@pytest.mark.parametrize("step", ["_picture", "write_json", "write_page"])
def test_a_kill_leaves_entries_whole_or_absent_and_the_next_run_completes_them(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    arrivals = {f"{number}.png": picture(number) for number in range(3)}
    batch = judged_batch(settings, CATEGORY, arrivals, decisions=dict.fromkeys(arrivals, CONTAMINATED))
    real, calls = getattr(quarantine, step), []

    def second_time(*arguments: Any, **options: Any) -> Any:
        calls.append(step)
        return die() if len(calls) == (1 if step == "write_page" else 2) else real(*arguments, **options)

    with killed_in(monkeypatch, quarantine, step, second_time):
        keep(batch)
    found = entries(settings)
    assert len(found) == (3 if step == "write_page" else 1)
    for record in found:
        assert {path.name for path in entry_folder(settings, record).iterdir()} == {
            *("image.png", "preview.png", "reason.json")
        }
    before = {record["id"]: entry_folder(settings, record).stat().st_mtime_ns for record in found}
    assert keep(batch) == 3
    assert [record["key"] for record in sorted(entries(settings), key=lambda one: one["key"])] == list(arrivals)
    for record in found:
        assert entry_folder(settings, record).stat().st_mtime_ns == before[record["id"]]
    assert "<b>3 held</b>" in page(settings)
    assert not [path for path in quarantine_folder(settings, CATEGORY).iterdir() if path.name.startswith(".")]


def test_a_full_disk_leaves_no_entry_and_space_lets_it_go_on(settings: Settings) -> None:
    content = picture(0) + bytes(2 << 20)  # what follows the image in a PNG is not read
    batch = judged_batch(settings, CATEGORY, {"a.png": content}, decisions={"a.png": CONTAMINATED})
    with largest_file(1 << 20), pytest.raises(AescError, match="could not be written: File too large"):
        keep(batch)
    assert entries(settings) == []
    assert keep(batch) == 1
    (record,) = entries(settings)
    assert (entry_folder(settings, record) / record["image"]).read_bytes() == content


# The page


class _Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_nothing_that_arrives_or_is_typed_becomes_part_of_the_page(settings: Settings) -> None:
    (record,) = quarantined(settings, {HOSTILE: picture(0)}, detail=f"{SAME} {HOSTILE}")
    decide(settings, record, REJECTED, by=f"Ada {HOSTILE}", why=f"why {HOSTILE}")
    tags = _Tags()
    tags.feed(page(settings))
    assert "script" not in {tag for tag, _ in tags.found}
    images = [attributes for tag, attributes in tags.found if tag == "img"]
    assert [image["src"] for image in images] == [f"{record['id']}/preview.png"]
    assert not any(name.startswith("on") for _, attributes in tags.found for name in attributes)
    assert (quarantine_folder(settings, CATEGORY) / str(images[0]["src"])).is_file()
    for shown in (HOSTILE, f"Ada {HOSTILE}", f"why {HOSTILE}", record["id"], "s3://station/clean"):
        assert shown in tags.text


def test_the_page_counts_and_says_what_it_leaves_out(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "SHOWN", 2)
    records = quarantined(settings, {f"{number}.png": picture(number) for number in range(3)})
    decide(settings, records[0], REJECTED, by="Ada", why="a scratch")
    text = page(settings)
    assert "<b>2 held</b><b>0 accepted</b><b>1 rejected</b>" in text
    assert "2 of 3 are shown, those that are held first" in text
    assert text.count('class="card ') == 2


def test_a_category_s_page_has_its_own_entries_only(settings: Settings) -> None:
    quarantined(settings, {"a.png": picture(0)})
    assert entries(settings, category="apple") == []
    empty = write_page(settings, "apple").read_text()
    assert "<b>0 held</b>" in empty
    assert "a.png" not in empty


# Deciding


def test_entries_are_found_by_their_first_digits(settings: Settings) -> None:
    records = quarantined(settings, {f"{number}.png": picture(number) for number in range(2)})
    for record in records:
        assert find_entry(settings, record["id"]) == find_entry(settings, record["id"][:6]) == record
    twin = dict(records[0], id=records[0]["id"][:6] + "000000")
    shutil.copytree(entry_folder(settings, records[0]), entry_folder(settings, twin))
    with pytest.raises(AescError, match="2 entries begin like this"):
        find_entry(settings, records[0]["id"][:6])


@pytest.mark.parametrize("name", ["", "abc", "0000", "*", "../..", "ABCDEF", "0123456789abcdef", "."])
def test_what_is_no_entry_is_said(settings: Settings, name: str) -> None:
    quarantined(settings, {"a.png": picture(0)})
    with pytest.raises(AescError, match="no such entry") as caught:
        find_entry(settings, name)
    assert caught.value.usage


def test_a_decision_is_recorded_with_who_and_why_once(settings: Settings) -> None:
    (record,) = quarantined(settings, {"a.png": picture(0)})
    require_undecided(record)
    decided = decide(settings, record, REJECTED, by="Ada", why="a scratch")
    assert decided["status"] == REJECTED
    (decision,) = decided["decisions"]
    assert (decision["decision"], decision["by"], decision["why"]) == (REJECTED, "Ada", "a scratch")
    assert decide(settings, decided, REJECTED, by="Bob", why="again") == decided == find_entry(settings, record["id"])
    assert "rejected by Ada" in page(settings)
    with pytest.raises(AescError, match=r"already rejected by Ada at .*: a scratch") as caught:
        require_undecided(decided)
    assert caught.value.usage
    assert rejected_contents(settings, CATEGORY) == {record["sha256"]: "rejected by Ada: a scratch"}
    assert (entry_folder(settings, record) / record["image"]).is_file()


@pytest.mark.parametrize(
    ("reason", "detail", "allowed"),
    [
        ("contaminated", "residual 2 above its threshold 1", True),
        ("brightness", "brightness 0.9; allowed: 0.1 to 0.5", True),
        ("near_duplicate", "3 of 256 bits of the perceptual hash (a copy: at most 7) from train/good/1.png", True),
        ("rejected_before", "the same content was rejected by Ada: a scratch", True),
        ("duplicate", "the same content as train/good/1.png", False),
        ("leak", "the same content as test/good/1.png, a test image: what is learnt from cannot be tested on", False),
        ("unreadable", "0 bytes", False),
        ("other_size", "48 x 48; allowed: 64 x 64", False),
        ("other_format", "8-bit grey; allowed: 8-bit rgb", False),
    ],
)
def test_what_could_not_be_trained_on_is_not_accepted_by_anyone(
    settings: Settings, reason: str, detail: str, allowed: bool
) -> None:
    (record,) = quarantined(settings, {"a.png": picture(0)}, reason=reason, detail=detail)
    if allowed:
        require_acceptable(record)
        assert released(settings, record).staged()["key"].tolist() == ["a.png"]
        return
    for refuse in (require_acceptable, lambda one: released(settings, one)):
        with pytest.raises(AescError, match=reason.replace("_", " ")) as caught:
            refuse(record)
        assert caught.value.usage
    assert unfinished_batch(settings, CATEGORY) is None


# The way in after all


def released(settings: Settings, *records: dict[str, Any]) -> Batch:
    return release(settings, list(records), by="Ada", why="dust, cleaned since", preset="quick")


def test_a_release_is_a_batch_whose_arrivals_were_accepted(settings: Settings) -> None:
    arrivals = {"a.png": picture(0), "sub/b.jpg": picture(1)}
    records = quarantined(settings, arrivals)
    batch = released(settings, *records)
    verdicts = batch.verdicts()
    assert verdicts["verdict"].tolist() == [ACCEPTED] * 2
    assert verdicts["key"].tolist() == list(arrivals)
    assert verdicts["sha256"].tolist() == [sha256(content) for content in arrivals.values()]
    assert [(batch.files / file).read_bytes() for file in verdicts["file"]] == list(arrivals.values())
    assert batch.state["gate"] == "overruled by Ada: dust, cleaned since"
    assert batch.state["released"]
    assert {record["status"] for record in entries(settings)} == {HELD}  # until the batch has ended
    for _ in range(2):
        finish_release(settings, batch)
    for record in entries(settings):
        assert record["status"] == ACCEPTED
        assert [(one["by"], one["why"]) for one in record["decisions"]] == [("Ada", "dust, cleaned since")]
    assert "<b>2 accepted</b>" in page(settings)


@pytest.mark.parametrize("step", ["write_table", "write_json"])
def test_a_release_that_was_killed_is_made_anew(settings: Settings, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    (record,) = quarantined(settings, {"a.png": picture(0)})
    ended = len(list(batches_folder(settings, CATEGORY).iterdir()))
    with killed_in(monkeypatch, quarantine if step == "write_table" else arrival_batch, step, die):
        released(settings, record)
    assert unfinished_batch(settings, CATEGORY) is None
    assert find_entry(settings, record["id"]) == record
    batch = released(settings, record)
    assert batch.staged()["sha256"].tolist() == [record["sha256"]]
    assert len(list(batches_folder(settings, CATEGORY).iterdir())) == ended + 1


def test_content_comes_in_once_whatever_it_was_held_for(settings: Settings) -> None:
    content = picture(0)
    first, second, other = quarantined(settings, {"a.png": content, "b.jpeg": content, "c.png": picture(1)})
    with pytest.raises(AescError, match=f"the same content as quarantine entry {first['id']}"):
        released(settings, first, other, second)
    where = settings.data / CATEGORY / "test" / "good" / "mine.png"
    where.parent.mkdir(parents=True)
    where.write_bytes(content)  # held for its brightness, say: that it is a test image was never asked
    with pytest.raises(AescError, match=r"the same content as test/good/mine\.png") as caught:
        released(settings, first)
    assert caught.value.usage
    assert unfinished_batch(settings, CATEGORY) is None
    assert released(settings, other).staged()["key"].tolist() == ["c.png"]


def test_an_image_that_was_exchanged_in_quarantine_is_not_taken_in(settings: Settings) -> None:
    (record,) = quarantined(settings, {"a.png": picture(0)})
    (entry_folder(settings, record) / record["image"]).write_bytes(picture(1))
    with pytest.raises(AescError, match="no longer what arrived"):
        released(settings, record)


def test_from_quarantine_into_the_data_and_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_project(tmp_path / "project")
    own_environment(monkeypatch, settings.root)
    monkeypatch.setattr(quarantine, "open_gate", lambda *_: (None, "open"))
    track_data(settings)
    commit_pointer(settings)
    (record,) = quarantined(settings, {"a.png": picture(0)})
    batch = released(settings, record)
    version = accept_arrivals.fn(CATEGORY, str(batch.path))
    finish_release(settings, batch)
    message = git(settings.root, "log", "-1", "--format=%B")
    assert "data: 1 clean image of bottle from quarantine" in message
    assert "overruled by Ada: dust, cleaned since" in message
    assert f"data version {version}" in message
    name = f"train/good/{record['sha256'][:20]}.png"
    assert (settings.data / CATEGORY / name).read_bytes() == picture(0)
    with pytest.raises(AescError, match=f"the same content as {name}"):
        released(settings, record)
