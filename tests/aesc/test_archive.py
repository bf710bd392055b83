from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

import aesc.archive
from aesc.archive import extract_category
from aesc.errors import AescError

IMAGE = b"\x89PNG image " + bytes(200)
CATEGORY = {
    "train/good/000.png": IMAGE + b"0",
    "train/good/001.png": IMAGE + b"1",
    "test/good/000.png": IMAGE + b"2",
    "test/cut/000.png": IMAGE + b"3",
    "ground_truth/cut/000_mask.png": IMAGE + b"4",
}
PACKERS = ("zip", "tar", "tar.gz", "tgz", "tar.xz", "folder")


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """An archive or a folder, by the path's suffix."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    elif ".t" in path.name:
        mode = {".gz": "w:gz", ".tgz": "w:gz", ".xz": "w:xz"}.get(path.suffix, "w")
        with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    else:
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    return path


def below(prefix: str, files: dict[str, bytes] = CATEGORY) -> dict[str, bytes]:
    return {f"{prefix}/{name}": data for name, data in files.items()}


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def extract(source: Path, target: Path, **options: object) -> list[str]:
    settings: dict[str, object] = {"name": None, "max_bytes": 10**6, "max_files": 1000} | options
    return extract_category(source, target, **settings)  # type: ignore[arg-type]


def refused(source: Path, target: Path, **options: object) -> AescError:
    """The error; and nothing is left behind."""
    before = content(target) if target.exists() else {}
    with pytest.raises(AescError) as caught:
        extract(source, target, **options)
    assert caught.value.found
    assert (content(target) if target.exists() else {}) == before
    assert not target.exists() or not (target / ".importing").exists()
    return caught.value


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.mark.parametrize("packer", PACKERS)
def test_one_category_takes_the_name_of_its_source(tmp_path: Path, target: Path, packer: str) -> None:
    source = pack(tmp_path / ("nut" if packer == "folder" else f"nut.{packer}"), CATEGORY)
    assert extract(source, target) == ["nut"]
    assert content(target) == below("nut")


@pytest.mark.parametrize("packer", PACKERS)
def test_several_categories_with_licences(tmp_path: Path, target: Path, packer: str) -> None:
    files = {path: data for name in ("nut", "bolt", "pin") for path, data in below(f"mvtec/{name}").items()}
    files |= {"mvtec/nut/LICENSE": b"its own", "mvtec/pin/readme.md": b"its own"}
    files |= {"mvtec/readme.md": b"of all", "mvtec/licence.rst": b"of all", "license.txt": b"of none"}
    source = pack(tmp_path / ("set" if packer == "folder" else f"set.{packer}"), files)
    assert extract(source, target) == ["bolt", "nut", "pin"]
    papers = {"nut/LICENSE": b"its own", "bolt/readme.md": b"of all", "bolt/licence.rst": b"of all"}
    papers |= {"pin/readme.md": b"its own", "pin/licence.rst": b"of all"}
    assert content(target) == below("nut") | below("bolt") | below("pin") | papers


def test_name_renames_one_category_and_refuses_several(tmp_path: Path, target: Path) -> None:
    assert extract(pack(tmp_path / "a.zip", below("nut")), target, name="washer") == ["washer"]
    assert content(target) == below("washer")
    error = refused(pack(tmp_path / "b.zip", below("nut") | below("bolt")), target, name="washer")
    assert "several categories: nut, bolt" in error.found
    assert error.usage
    for name in ("../up", "a/b", ".hidden", ""):
        assert refused(tmp_path / "a.zip", target, name=name).usage


def test_other_files_are_left_out_and_named(tmp_path: Path, target: Path) -> None:
    extra = {"nut/train/good/run.sh": b"x", "nut/model.pkl": b"x", "top.png": b"x", "nut/train/good/readme.txt": b"x"}
    junk = {"nut/.DS_Store": b"x", "__MACOSX/nut/train/good/._000.png": b"x"}
    notes: list[str] = []
    extract(pack(tmp_path / "a.zip", below("nut") | extra | junk), target, note=notes.append)
    assert content(target) == below("nut")
    assert sorted(note.split(":")[0] for note in notes) == sorted(extra)


def test_a_defect_type_named_like_a_folder(tmp_path: Path, target: Path) -> None:
    files = CATEGORY | {"test/test/000.png": IMAGE}
    assert extract(pack(tmp_path / "a.zip", below("test/nut", files)), target) == ["nut"]
    assert content(target) == below("nut", files)


@pytest.mark.parametrize("packer", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize(
    "name",
    ["../train/good/x.png", "train/../../x/train/good/x.png", "/etc/train/good/x.png", "..\\train\\good\\x.png",
     "C:/train/good/x.png", "train/good/a\nb.png"],
)  # fmt: skip
def test_paths_that_lead_outside(tmp_path: Path, target: Path, packer: str, name: str) -> None:
    source = pack(tmp_path / f"evil.{packer}", CATEGORY | {name: IMAGE})
    error = refused(source, target)
    assert error.found in ("a path that leads outside", "a name with unprintable characters")
    assert {path.name for path in tmp_path.iterdir()} <= {"data", source.name}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar(tmp_path: Path, target: Path, kind: bytes) -> None:
    source = pack(tmp_path / "evil.tar", CATEGORY)
    with tarfile.open(source, "a") as archive:
        info = tarfile.TarInfo("train/good/link.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    assert refused(source, target).found == "a link or a device"


def test_write_through_a_linked_folder_in_a_tar(tmp_path: Path, target: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    source = tmp_path / "evil.tar"
    with tarfile.open(source, "w") as archive:
        link = tarfile.TarInfo("nut/train/good")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        archive.addfile(link)
        info = tarfile.TarInfo("nut/train/good/x.png")
        info.size = len(IMAGE)
        archive.addfile(info, io.BytesIO(IMAGE))
    assert refused(source, target).found == "a link or a device"
    assert not list(outside.iterdir())


def test_link_in_a_zip(tmp_path: Path, target: Path) -> None:
    source = pack(tmp_path / "evil.zip", CATEGORY)
    with zipfile.ZipFile(source, "a") as archive:
        info = zipfile.ZipInfo("train/good/link.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert refused(source, target).found == "a link or a device"


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("name", ["train/good/link.png", "train/linked"])
def test_links_in_a_folder(tmp_path: Path, target: Path, name: str) -> None:
    source = pack(tmp_path / "nut", CATEGORY)
    (source / name).symlink_to(tmp_path / "nut" / "test")
    assert refused(source, target).found == "a link or a device"


@pytest.mark.parametrize("packer", ["zip", "tar.gz", "tar.xz"])
def test_bombs_stop_at_the_limit(tmp_path: Path, target: Path, packer: str) -> None:
    source = pack(tmp_path / f"bomb.{packer}", CATEGORY | {"train/good/bomb.png": bytes(5_000_000)})
    assert source.stat().st_size < 100_000
    error = refused(source, target)
    assert error.found == "unpacks to more bytes than are allowed"
    assert error.allowed == "1,000,000 bytes"


def test_bomb_whose_header_lies(tmp_path: Path, target: Path) -> None:
    source = pack(tmp_path / "bomb.zip", CATEGORY | {"train/good/bomb.png": bytes(5_000_000)})
    data = source.read_bytes()
    lie = (5_000_000).to_bytes(4, "little")
    assert data.count(lie) >= 2
    source.write_bytes(data.replace(lie, (10).to_bytes(4, "little")))
    refused(source, target)  # by the limit or by the checksum


def test_bomb_in_a_file_that_is_left_out(tmp_path: Path, target: Path) -> None:
    source = pack(tmp_path / "bomb.tar.gz", CATEGORY | {"train/good/bomb.bin": bytes(5_000_000)})
    assert refused(source, target, max_files=100).found == "unpacks to more bytes than are allowed"


def test_exactly_at_the_limits(tmp_path: Path, target: Path) -> None:
    source = pack(tmp_path / "nut.zip", CATEGORY)
    total = sum(map(len, CATEGORY.values()))
    refused(source, target, max_bytes=total - 1)
    assert refused(source, target, max_files=len(CATEGORY) - 1).found == "holds more files than are allowed"
    assert extract(source, target, max_bytes=total, max_files=len(CATEGORY)) == ["nut"]


def test_encrypted_zip(tmp_path: Path, target: Path) -> None:
    source = pack(tmp_path / "nut.zip", CATEGORY)
    data = bytearray(source.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags of local and central headers
        position = -1
        while (position := data.find(signature, position + 1)) >= 0:
            data[position + offset] |= 1
    source.write_bytes(data)
    assert refused(source, target).found == "encrypted"


@pytest.mark.parametrize("packer", ["zip", "tar", "tar.gz", "tar.xz"])
def test_truncated_archives(tmp_path: Path, target: Path, packer: str) -> None:
    source = pack(tmp_path / f"nut.{packer}", CATEGORY)
    data = source.read_bytes()
    for share in (0.1, 0.3, 0.5):  # half a tar is all its members, but not its end
        source.write_bytes(data[: int(len(data) * share)])
        assert "damaged" in refused(source, target).found


def test_corrupt_zip_member(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "nut.zip"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_STORED) as archive:
        for name, data in CATEGORY.items():
            archive.writestr(name, data)
    source.write_bytes(source.read_bytes().replace(IMAGE + b"3", IMAGE + b"9"))
    assert "damaged" in refused(source, target).found


@pytest.mark.parametrize("data", [b"", b"hello world", b"\x1f\x8bnot gzip at all", bytes(5000)])
def test_no_archive_at_all(tmp_path: Path, target: Path, data: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    error = refused(tmp_path / "a.zip", target)
    assert "archive" in error.found or error.found == "holds no category"


def test_sources_without_a_usable_category(tmp_path: Path, target: Path) -> None:
    assert refused(tmp_path / "absent.zip", target).usage
    assert refused(pack(tmp_path / "a.zip", {"photos/a.png": IMAGE}), target).found == "holds no category"
    no_clean = {name: data for name, data in CATEGORY.items() if not name.startswith("train")}
    assert refused(pack(tmp_path / "b.zip", below("nut", no_clean)), target).found == "no images in nut/train/good"
    assert "named 'my nut!'" in refused(pack(tmp_path / "c.zip", below("my nut!")), target).found
    twice = below("a/nut") | below("b/nut")
    assert refused(pack(tmp_path / "d.zip", twice), target).found == "two categories named nut"


def test_a_file_that_is_there_twice(tmp_path: Path, target: Path) -> None:
    source = pack(tmp_path / "nut.tar", CATEGORY)
    with tarfile.open(source, "a") as archive:
        info = tarfile.TarInfo("./train/good/000.png")
        archive.addfile(info, io.BytesIO())
    assert refused(source, target).found == "a second file of this name"


def test_again_is_fine_and_other_content_is_refused(tmp_path: Path, target: Path) -> None:
    source = pack(tmp_path / "nut.zip", CATEGORY)
    extract(source, target)
    mark = (target / "nut/train/good/000.png").stat().st_mtime_ns
    assert extract(source, target) == ["nut"]
    assert (target / "nut/train/good/000.png").stat().st_mtime_ns == mark
    other = pack(tmp_path / "other.zip", below("nut", CATEGORY | {"train/good/002.png": IMAGE}) | below("bolt"))
    error = refused(other, target)
    assert error.where == str(target / "nut")
    assert error.found == "exists with other content"
    assert not (target / "bolt").exists()


def test_importing_a_category_onto_itself(target: Path) -> None:
    pack(target / "nut", CATEGORY)
    assert extract(target, target) == ["nut"]
    assert content(target) == below("nut")


def test_failure_while_moving_takes_back_what_was_moved(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pack(tmp_path / "two.zip", below("nut") | below("bolt"))
    rename = Path.rename

    def fail(path: Path, goal: Path) -> Path:
        if goal.name == "bolt":
            raise OSError(28, "No space left on device")
        return rename(path, goal)

    monkeypatch.setattr(Path, "rename", fail)
    assert refused(source, target).found == "cannot be written: no space left on device"


def test_interrupt_leaves_nothing(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(aesc.archive, "_move", interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract(pack(tmp_path / "nut.zip", CATEGORY), target)
    assert list(target.iterdir()) == []


def test_left_over_or_running_import(tmp_path: Path, target: Path) -> None:
    (target / ".importing").mkdir(parents=True)
    with pytest.raises(AescError, match="left by an import") as caught:
        extract(pack(tmp_path / "nut.zip", CATEGORY), target)
    assert "delete this folder" in caught.value.todo
    assert (target / ".importing").is_dir()  # it may be another's


def test_target_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pack(tmp_path / "nut.zip", CATEGORY)
    (tmp_path / "file").touch()
    with pytest.raises(AescError, match="cannot be written"):
        extract(source, tmp_path / "file" / "data")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(AescError, match="cannot be written: permission denied"):
        extract(source, tmp_path / "data")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes into all folders")
def test_read_only_target(tmp_path: Path, target: Path) -> None:
    source = pack(tmp_path / "nut.zip", CATEGORY)
    target.mkdir(mode=0o500)
    assert "permission denied" in refused(source, target).found


@pytest.mark.real_data
def test_real_category_from_its_folder(real_data: Path, target: Path) -> None:
    source = real_data / "mvtec_original" / "bottle"
    assert extract(source, target, max_bytes=10**8) == ["bottle"]
    assert content(target / "bottle") == content(source)
