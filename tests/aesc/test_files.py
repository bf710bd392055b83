from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from aesc.errors import AescError
from aesc.files import read_json, write_atomically, write_json

WEIGHTS = {"weights": torch.zeros(300_000)}


def only(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def put(path: Path, text: str) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def test_a_new_and_an_old_file_are_written_whole_with_nothing_left_beside_them(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file.txt"
    put(path, "first")
    put(path, "second")
    assert path.read_text(encoding="utf-8") == "second"
    assert only(path.parent) == ["file.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_the_old_file_is_there_while_the_new_one_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    put(path, "old")
    seen: list[str] = []

    def write(temporary: Path) -> None:
        assert temporary.parent == path.parent, "moving between file systems is not atomic"
        assert temporary.suffix == path.suffix, "writers that go by the suffix would choke"
        temporary.write_text("new", encoding="utf-8")
        seen.append(path.read_text(encoding="utf-8"))

    with path.open(encoding="utf-8") as reader:
        write_atomically(path, write)
        assert reader.read() == "old", "the old file was changed under its reader, not replaced"
    assert seen == ["old"]
    assert path.read_text(encoding="utf-8") == "new"


@pytest.mark.parametrize("fault", [ValueError("bug"), RuntimeError("bug"), KeyboardInterrupt()])
def test_a_writer_s_own_fault_is_passed_on_and_the_old_file_kept(tmp_path: Path, fault: BaseException) -> None:
    path = tmp_path / "file.txt"
    put(path, "old")

    def write(temporary: Path) -> None:
        temporary.write_text("half", encoding="utf-8")
        raise fault

    with pytest.raises(type(fault)):
        write_atomically(path, write)
    assert path.read_text(encoding="utf-8") == "old"
    assert only(tmp_path) == ["file.txt"]


def test_a_fault_while_another_one_is_handled_is_not_taken_for_the_disk_s(tmp_path: Path) -> None:
    try:
        raise FileNotFoundError("something else")
    except FileNotFoundError:
        with pytest.raises(ValueError, match="JSON"):
            write_json(tmp_path / "x.json", math.nan)


def save_text(temporary: Path) -> None:
    temporary.write_text("x" * 1_000_000, encoding="utf-8")


def save_torch(temporary: Path) -> None:
    with temporary.open("wb") as file:
        torch.save(WEIGHTS, file)


def save_safetensors(temporary: Path) -> None:
    save_file(WEIGHTS, temporary)


@pytest.mark.parametrize("write", [save_text, save_torch, save_safetensors])
@pytest.mark.parametrize("limit", [10_000, 500_000])
def test_a_full_disk_keeps_the_old_file(tmp_path: Path, write: Callable[[Path], None], limit: int) -> None:
    # A real limit of the operating system: what is written beyond it fails as it does on a full disk.
    resource = pytest.importorskip("resource", reason="file size limits are a thing of Unix")
    path = tmp_path / "file.bin"
    path.write_text("old", encoding="utf-8")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # Python ignores SIGXFSZ
    try:
        with pytest.raises(AescError) as caught:
            write_atomically(path, write)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.where == str(path)
    assert "too large" in caught.value.found, "the operating system's own words are missing"
    assert "free some space" in caught.value.todo
    assert path.read_text(encoding="utf-8") == "old"
    assert only(tmp_path) == ["file.bin"]


def test_a_file_where_a_folder_should_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(AescError, match=r"taken.*could not be written"):
        put(tmp_path / "taken" / "file.txt", "text")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(AescError, match="could not be written"):
            put(tmp_path / "file.txt", "text")
    finally:
        tmp_path.chmod(0o755)


def test_json_comes_back_as_it_went(tmp_path: Path) -> None:
    value = {"name": "Größe", "list": [1, 2.5, None, True], "nested": {"b": 1, "a": 0.1 + 0.2}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert list(json.loads(text)) == ["list", "name", "nested"]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_json_holds_finite_numbers_only(tmp_path: Path, number: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"auroc": number})
    assert only(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"\xff\xfe\x00", None])
def test_damaged_and_missing_json_is_said(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AescError) as caught:
        read_json(path)
    assert caught.value.where == str(path)
    assert caught.value.todo
