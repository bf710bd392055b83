"""Bringing in categories from an archive or a folder, trusting nothing that it says.

No path leaves the target, no link or device is taken, and bytes are counted as they are written, not as headers declare
them. Everything is laid out in a folder beside the target first and moved into place when all of it is fine.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from aesc.archive_members import ARCHIVE_DAMAGE, ARCHIVES, Limits, Member, members
from aesc.cache import sha256_of
from aesc.errors import AescError
from aesc.images import IMAGE_SUFFIXES
from aesc.layout import CATEGORY_NAME, CLEAN_FOLDER, MASK_FOLDER, TEST_FOLDER, TRAIN_FOLDER
from aesc.papers import LICENCES, is_paper

Note = Callable[[str], None]

_TOPS = (TRAIN_FOLDER, TEST_FOLDER, MASK_FOLDER)
_LAYOUT = f"<category>/{CLEAN_FOLDER}/<image>, with {TEST_FOLDER}/ and {MASK_FOLDER}/ beside {TRAIN_FOLDER}/"
_STAGING = ".importing"
_BLOCK = 2**20
_PAPER_BYTES = 2**20  # a licence is shorter
_PAPERS = 100


def extract_category(
    source: Path, target_root: Path, *, name: str | None, max_bytes: int, max_files: int, note: Note | None = None
) -> list[str]:
    """Lay out the categories of an archive or a folder below `target_root`. Safe to repeat.

    Args:
        source: a zip or tar archive, or a folder; it holds one category (`train`, `test`, `ground_truth`) or several,
            at any depth.
        target_root: the folder of categories; made if absent.
        name: the category's name; None takes the name of its folder, else that of the source.
        max_bytes: unpacked bytes above which the source is refused.
        max_files: files above which the source is refused.
        note: called with a line for each file that was left out, being neither image, licence nor readme.

    Returns:
        The categories' names, sorted; those that were there before with the same content included.

    Raises:
        AescError: the source is unsafe, too large, damaged or holds no category, a category of that name exists with
            other content, or the target cannot be written. Nothing is left behind.
    """
    if name is not None and not CATEGORY_NAME.fullmatch(name):
        raise AescError(f"--category {name}", "not a category's name", allowed=CATEGORY_NAME.pattern, usage=True)
    if not source.exists():
        raise AescError(source, "no such file or folder", allowed=ARCHIVES, todo="check the path", usage=True)
    if not os.access(source, os.R_OK):
        raise AescError(source, "cannot be read", todo="check its permissions")
    staging = target_root / _STAGING
    try:
        target_root.mkdir(parents=True, exist_ok=True)
        staging.mkdir()
    except OSError as error:
        if os.path.lexists(staging):
            todo = "wait for it, or delete this folder"
            raise AescError(staging, "left by an import that is running or was killed", todo=todo) from None
        raise _unwritable(target_root, error) from error
    try:
        stage = _Stage(source, staging, Limits(max_bytes=max_bytes, max_files=max_files), note or (lambda _: None))
        stage.fill()
        return _move(stage, _name_categories(stage, name), target_root)
    except ARCHIVE_DAMAGE as error:
        found = f"no archive, or a damaged one: {(str(error) or type(error).__name__).splitlines()[0]}"
        raise AescError(source, found, allowed=ARCHIVES, todo="download or copy it again") from error
    except OSError as error:
        raise _unwritable(target_root, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@dataclass
class _Stage:
    """The folder where a source is laid out first, one numbered folder for each category in it.

    Attributes:
        files: sha256 of each staged image, by the category's folder in the source and the path below it.
        papers: licences and readmes, by their folder in the source.
    """

    source: Path
    folder: Path
    limits: Limits
    note: Note
    files: dict[tuple[str, ...], dict[str, str]] = field(default_factory=dict)
    papers: dict[tuple[str, ...], dict[str, bytes]] = field(default_factory=dict)
    written: int = 0

    def fill(self) -> None:
        allowed = f"{self.limits.max_files:,} files"
        with closing(members(self.source, self.limits)) as found:
            for count, member in enumerate(found, start=1):
                if count > self.limits.max_files:
                    todo = "raise the limit if the source is genuine"
                    raise AescError(self.source, "holds more files than are allowed", allowed=allowed, todo=todo)
                self._take(member)
        if not self.files:
            raise AescError(self.source, "holds no category", allowed=_LAYOUT, todo="arrange the images so")

    def folder_of(self, prefix: tuple[str, ...]) -> Path:
        return self.folder / str(list(self.files).index(prefix))

    def _take(self, member: Member) -> None:
        parts = member.path.parts
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            return
        top = _top_index(parts)
        if top is not None and member.path.suffix.lower() in IMAGE_SUFFIXES:
            self._take_image(member, parts[:top], "/".join(parts[top:]))
        elif not (top is None and is_paper(member.path.name) and self._take_paper(member)):
            self.note(f"{member.path}: left out, neither an image in a category nor its licence or readme")

    def _take_image(self, member: Member, prefix: tuple[str, ...], relative: str) -> None:
        files = self.files.setdefault(prefix, {})
        target = self.folder_of(prefix) / relative
        if target.exists():
            todo = "rename or remove one of them"
            raise AescError(f"{self.source}: {member.path}", "a second file of this name", todo=todo)
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with target.open("xb") as stream:
            for block in self._blocks(member):
                stream.write(block)
                digest.update(block)
        files[relative] = digest.hexdigest()

    def _take_paper(self, member: Member) -> bool:
        text = b""
        for block in self._blocks(member):
            text += block
            if len(text) > _PAPER_BYTES:
                return False
        if sum(map(len, self.papers.values())) >= _PAPERS:
            return False
        self.papers.setdefault(member.path.parts[:-1], {})[member.path.name] = text
        return True

    def _blocks(self, member: Member) -> Iterator[bytes]:
        try:
            stream = member.open()
        except PermissionError:
            where = f"{self.source}: {member.path}"
            raise AescError(where, "cannot be read", todo="check its permissions") from None
        with stream:
            while block := stream.read(_BLOCK):
                self.written += len(block)
                if self.written > self.limits.max_bytes:
                    raise self.limits.too_large(self.source)
                yield block


def _top_index(parts: tuple[str, ...]) -> int | None:
    """Where `train`, `test` or `ground_truth` stands in a path: third from the end if it can, else the first one."""
    if len(parts) > 2 and parts[-3] in _TOPS:
        return len(parts) - 3
    return next((index for index, part in enumerate(parts[:-1]) if part in _TOPS), None)


def _name_categories(stage: _Stage, name: str | None) -> dict[str, tuple[str, ...]]:
    """Category name to its folder in the source."""
    source = stage.source
    if name is not None and len(stage.files) > 1:
        found = f"{source} holds several categories: " + ", ".join("/".join(prefix) or "." for prefix in stage.files)
        raise AescError(f"--category {name}", found, todo="leave --category out", usage=True)
    named: dict[str, tuple[str, ...]] = {}
    for prefix, files in stage.files.items():
        category = name or (prefix[-1] if prefix else _stem(source))
        if not CATEGORY_NAME.fullmatch(category):
            raise AescError(
                source, f"a category named {category!r}", allowed=CATEGORY_NAME.pattern, todo="give a --category"
            )
        if category in named:
            raise AescError(
                source, f"two categories named {category}", todo="import them one at a time, with --category"
            )
        if not any(path.startswith(f"{CLEAN_FOLDER}/") for path in files):
            raise AescError(source, f"no images in {category}/{CLEAN_FOLDER}", allowed=_LAYOUT, todo="add clean images")
        named[category] = prefix
    return named


def _stem(source: Path) -> str:
    name = source.resolve().name
    return name if source.is_dir() else re.sub(r"(\.tar)?\.[A-Za-z0-9]+$", "", name)


def _move(stage: _Stage, named: dict[str, tuple[str, ...]], target_root: Path) -> list[str]:
    fresh: dict[Path, Path] = {}
    for category, prefix in named.items():
        staged = stage.folder_of(prefix)
        for paper, text in _papers_of(stage, prefix).items():
            (staged / paper).write_bytes(text)
        target = target_root / category
        if not os.path.lexists(target):
            fresh[staged] = target
        elif _content(target) != stage.files[prefix]:
            raise AescError(
                target,
                "exists with other content",
                allowed="a new category, or the same content again",
                todo="remove the folder first, or import under another --category",
            )
    moved: list[Path] = []
    try:
        for staged, target in fresh.items():
            staged.rename(target)
            moved.append(target)
    except BaseException:
        for target in moved:
            shutil.rmtree(target, ignore_errors=True)
        raise
    return sorted(named)


def _papers_of(stage: _Stage, prefix: tuple[str, ...]) -> dict[str, bytes]:
    """A category's own, and those beside its folder where none of its own is a licence."""
    own = stage.papers.get(prefix, {})
    licensed = any(name.lower().startswith(LICENCES) for name in own)
    return own if licensed or not prefix else stage.papers.get(prefix[:-1], {}) | own


def _content(folder: Path) -> dict[str, str]:
    images = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in images}


def _unwritable(target_root: Path, error: OSError) -> AescError:
    reason = (error.strerror or str(error)).lower()
    todo = "free space, or choose a folder that can be written"
    return AescError(target_root, f"cannot be written: {reason}", todo=todo)
