"""Taking arrivals in: files, DVC, the remote, one commit; whatever is interrupted, refused or repeated on the way."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aesc.errors import AescError
from tasks import acceptance
from tasks.acceptance import accept_arrivals, accepted_name
from tasks.arrival_batch import KNOWN, QUARANTINED, Batch
from tasks.settings import Settings
from tasks.versioning import pin_data_version, pull_data, track_data
from tests.arrivals import die, judged_batch, killed_in, largest_file, own_environment, sha256
from tests.repositories import commit_pointer, git, make_project, write

CATEGORY = "bottle"
ARRIVALS = {"line/1.png": b"first", "line/2.PNG": b"second", "3.jpg": b"third"}
NAMES = {f"data/bottle/{accepted_name(sha256(content), key)}": content for key, content in ARRIVALS.items()}
_OLD = 3  # images that were there before


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose data is tracked, committed and pushed."""
    with pytest.MonkeyPatch.context() as patch:
        settings = make_project(tmp_path_factory.mktemp("template"), images=_OLD)
        own_environment(patch, settings.root)
        track_data(settings)
        commit_pointer(settings)
        pin_data_version(settings.data, CATEGORY, "", settings=settings)
    return settings.root


@pytest.fixture
def settings(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    root = tmp_path / "project"
    shutil.copytree(template, root)
    own_environment(monkeypatch, root)
    return Settings()


def accept(batch: Batch) -> str | None:
    return accept_arrivals.fn(CATEGORY, str(batch.path))


def refusal(batch: Batch) -> AescError:
    with pytest.raises(AescError) as caught:
        accept(batch)
    return caught.value


def log(settings: Settings) -> list[str]:
    return git(settings.root, "log", "--format=%s").splitlines()


def images(settings: Settings) -> dict[str, bytes]:
    folder = settings.data / CATEGORY / "train" / "good"
    return {str(path.relative_to(settings.root)): path.read_bytes() for path in folder.iterdir()}


def everything(settings: Settings) -> dict[str, bytes]:
    """All that an acceptance may change: data folder, pointer, HEAD, index."""
    state = {f"git {name}": git(settings.root, *name.split()).encode() for name in ("rev-parse HEAD", "diff --cached")}
    pointer = settings.root / "data.dvc"
    return images(settings) | state | {"data.dvc": pointer.read_bytes() if pointer.is_file() else b""}


def assert_taken_in(settings: Settings, version: str | None, *, old: int = _OLD) -> None:
    """The last commit is of data.dvc alone, and the remote holds all that it names."""
    assert {name: content for name, content in images(settings).items() if name in NAMES} == NAMES
    assert len(images(settings)) == old + len(NAMES)
    assert git(settings.root, "show", "--name-only", "--format=", "HEAD").split() == ["data.dvc"]
    assert f"md5: {version}\n" in git(settings.root, "show", "HEAD:data.dvc")
    digests = [hashlib.md5(content, usedforsecurity=False).hexdigest() for content in images(settings).values()]
    for digest in (*digests, str(version)):
        assert (settings.state / "dvc-remote" / "files" / "md5" / digest[:2] / digest[2:]).is_file()


def test_one_commit_of_the_pointer_after_the_push(settings: Settings) -> None:
    before = log(settings)
    batch = judged_batch(settings, CATEGORY, ARRIVALS)
    version = accept(batch)
    assert_taken_in(settings, version)
    assert log(settings)[1:] == before
    assert git(settings.root, "status", "--porcelain") == ""
    state = batch.state
    assert state["data_version"] == version
    assert state["commit"] == git(settings.root, "rev-parse", "HEAD").strip()
    assert state["remote"] == str(settings.state / "dvc-remote")
    assert pin_data_version(settings.data, CATEGORY, "", settings=settings).version == version  # ready for training
    clone = settings.root.parent / "clone"
    git(settings.root, "clone", "--quiet", str(settings.root), str(clone))
    fetched = Settings(root=clone, home=None, dvc_remote=str(settings.state / "dvc-remote"))
    assert pull_data(fetched) == version
    assert images(fetched) == images(settings)


def test_the_message_says_what_came_from_where(settings: Settings) -> None:
    more = {**ARRIVALS, **{f"bad {number}.png": f"bad {number}".encode() for number in range(4)}}
    held = {"verdict": QUARANTINED, "reason": "contaminated"}
    decisions = {"bad 0.png": held, "bad 1.png": held, "bad 2.png": {**held, "reason": "leak"}}
    batch = judged_batch(settings, CATEGORY, more, decisions={**decisions, "bad 3.png": {"verdict": KNOWN}})
    version = accept(batch)
    subject, _, body = git(settings.root, "log", "-1", "--format=%B").partition("\n\n")
    assert subject == "data: 3 clean images of bottle from s3://station/clean"
    assert "Accepted 3 of 7 arrivals; not taken: 2 contaminated, 1 leak, 1 known." in body
    assert "Gate: open." in body
    assert f"Batch {batch.name}, data version {version}, pushed to {settings.state / 'dvc-remote'}." in body
    assert_taken_in(settings, version)


def test_nothing_accepted_is_nothing_done(settings: Settings) -> None:
    before = everything(settings)
    held = {"verdict": QUARANTINED, "reason": "leak"}
    batch = judged_batch(settings, CATEGORY, {"a.png": b"a"}, decisions={"a.png": held})
    assert accept(batch) is None
    assert everything(settings) == before


def test_other_files_are_left_as_they_are_staged_unstaged_and_untracked(settings: Settings) -> None:
    root = settings.root
    write(root / "staged.py", "new")
    write(root / ".dvcignore", "changed and staged\n" + (root / ".dvcignore").read_text())
    git(root, "add", "staged.py", ".dvcignore")
    write(root / "staged.py", "and edited again")
    write(root / "params.yaml", "defaults: {a: 1}\n")
    write(root / "untracked.py", "")
    before = git(root, "status", "--porcelain"), git(root, "diff"), git(root, "diff", "--cached")
    assert before[0].count("\n") == 4
    version = accept(judged_batch(settings, CATEGORY, ARRIVALS))
    assert (git(root, "status", "--porcelain"), git(root, "diff"), git(root, "diff", "--cached")) == before
    assert_taken_in(settings, version)


def test_nobody_in_particular_may_commit(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    git(settings.root, "config", "user.useConfigOnly", "true")
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.delenv(f"GIT_{role}_NAME")
        monkeypatch.delenv(f"GIT_{role}_EMAIL")
    accept(judged_batch(settings, CATEGORY, ARRIVALS))
    assert git(settings.root, "log", "-1", "--format=%an <%ae> %cn <%ce>").strip() == (
        "aesc <aesc@localhost> aesc <aesc@localhost>"
    )
    git(settings.root, "config", "user.name", "Ada")
    git(settings.root, "config", "user.email", "ada@example.org")
    accept(judged_batch(settings, CATEGORY, {"4.png": b"fourth"}))
    assert git(settings.root, "log", "-1", "--format=%an <%ae>").strip() == "Ada <ada@example.org>"


def test_from_anywhere_and_in_a_folder_of_a_repository(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(settings.root / ".git")
    above = settings.root.parent
    git(above, "init", "--quiet", "--initial-branch=main")
    git(above, "add", "--all")
    git(above, "commit", "--quiet", "--message=all")
    monkeypatch.chdir("/")
    accept(judged_batch(settings, CATEGORY, ARRIVALS))
    assert git(above, "show", "--name-only", "--format=", "HEAD").split() == ["project/data.dvc"]
    assert set(NAMES) <= set(images(settings))


# Where no commit can be made, nothing is touched


def detach(root: Path) -> None:
    git(root, "checkout", "--quiet", "--detach")


def _branches(root: Path) -> None:
    for branch in ("other", "main"):
        if branch == "other":
            git(root, "checkout", "--quiet", "-b", branch)
        else:
            git(root, "checkout", "--quiet", branch)
        write(root / "params.yaml", f"defaults: {{{branch}: 1}}\n")
        git(root, "commit", "--quiet", "--all", f"--message={branch}")


def merge(root: Path) -> None:
    _branches(root)
    git(root, "merge", "--quiet", "--no-commit", "--strategy=ours", "other")


def cherry_pick(root: Path) -> None:
    _branches(root)
    with pytest.raises(Exception, match="cherry-pick"):
        git(root, "cherry-pick", "other")


@pytest.mark.parametrize(
    ("state", "words"),
    [(detach, "HEAD is detached"), (merge, "a merge is under way"), (cherry_pick, "a cherry-pick is under way")],
)
def test_where_git_cannot_commit_nothing_is_touched(
    settings: Settings, state: Callable[[Path], None], words: str
) -> None:
    state(settings.root)
    batch = judged_batch(settings, CATEGORY, ARRIVALS)
    before = everything(settings)
    error = refusal(batch)
    assert words in error.found
    assert "then run the same command again" in error.todo
    assert not error.transient
    assert everything(settings) == before
    if state is detach:
        git(settings.root, "switch", "--quiet", "main")
        assert_taken_in(settings, accept(batch))


def added(settings: Settings) -> None:
    write(settings.data / "bottle/train/good/mine.png", "mine")


def added_elsewhere(settings: Settings) -> None:
    write(settings.data / "apple/test/good/mine.png", "mine")


def changed(settings: Settings) -> None:
    write(settings.data / "bottle/train/good/000.png", "mine")


def deleted(settings: Settings) -> None:
    (settings.data / "bottle/train/good/000.png").unlink()


def tracked_but_not_committed(settings: Settings) -> None:
    added(settings)
    track_data(settings)


@pytest.mark.parametrize("change", [added, added_elsewhere, changed, deleted, tracked_but_not_committed])
def test_changes_of_others_in_the_data_stop_it_before_anything_is_touched(
    settings: Settings, change: Callable[[Settings], None]
) -> None:
    change(settings)
    batch = judged_batch(settings, CATEGORY, ARRIVALS)
    before = everything(settings)
    error = refusal(batch)
    name = {added_elsewhere: "data/apple/test/good/mine.png"}.get(change, "data/bottle/train/good/")
    assert f"changes that no arrival explains: {name}" in error.found
    assert "git add data.dvc && git commit data.dvc" in error.todo
    assert everything(settings) == before


def test_changes_of_others_are_seen_without_dvc_s_cache(settings: Settings) -> None:
    batch = judged_batch(settings, CATEGORY, ARRIVALS)
    for folder in (settings.root / ".dvc" / "cache", settings.state / "dvc", settings.state / "dvc-remote"):
        shutil.rmtree(folder)
    deleted(settings)
    before = everything(settings)
    assert "differs from data.dvc" in refusal(batch).found
    assert everything(settings) == before
    write(settings.data / "bottle/train/good/000.png", "image 0")  # as it was
    assert_taken_in(settings, accept(batch))


def test_what_another_category_s_interrupted_batch_left_is_told_apart(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = judged_batch(settings, "apple", {"a.png": b"apple"})
    with killed_in(monkeypatch, acceptance, "push_data", die):
        accept_arrivals.fn("apple", str(other.path))
    batch = judged_batch(settings, CATEGORY, ARRIVALS)
    error = refusal(batch)
    assert "aesc ingest --category apple" in error.todo
    assert "git checkout" not in error.todo
    accept_arrivals.fn("apple", str(other.path))
    other.update(finished=True)
    assert_taken_in(settings, accept(batch))


# Faults, and repetition


def _after(name: str) -> Callable[..., Any]:
    """Do it, then die."""
    done = getattr(acceptance, name)

    def act(*arguments: Any, **options: Any) -> None:
        done(*arguments, **options)
        raise KeyboardInterrupt

    return act


@pytest.mark.parametrize(
    ("name", "when"),
    [
        ("_place", "after"),
        ("add_data", "after"),
        ("push_data", "before"),
        ("push_data", "after"),
        ("commit_file", "after"),
        ("_commit", "after"),
    ],
)
def test_a_kill_anywhere_is_mended_by_the_same_command(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str, when: str
) -> None:
    before = log(settings)
    batch = judged_batch(settings, CATEGORY, ARRIVALS)
    with killed_in(monkeypatch, acceptance, name, die if when == "before" else _after(name)):
        accept(batch)
    committed = name in ("commit_file", "_commit")
    assert (
        log(settings) == ([f"data: {len(NAMES)} clean images of bottle from s3://station/clean"] * committed) + before
    )
    head = git(settings.root, "rev-parse", "HEAD").strip()
    if committed:  # somebody goes on working in between
        write(settings.root / "params.yaml", "defaults: {a: 1}\n")
        git(settings.root, "commit", "--quiet", "--all", "--message=work")
        version = accept(batch)
        assert batch.state["commit"] == head
        assert log(settings)[2:] == before
        git(settings.root, "reset", "--quiet", "--hard", head)
    else:
        version = accept(batch)
    assert_taken_in(settings, version)
    assert log(settings)[1:] == before
    assert accept(batch) == version
    assert log(settings)[1:] == before


def test_half_a_file_is_neither_versioned_nor_left(settings: Settings) -> None:
    batch = judged_batch(settings, CATEGORY, ARRIVALS)
    first = settings.root / next(iter(NAMES))
    write(first.with_name(f".{first.name}.aesc-part"), "fir")
    assert_taken_in(settings, accept(batch))


def test_a_damaged_file_under_an_arrival_s_name_is_replaced(settings: Settings) -> None:
    write(settings.root / next(iter(NAMES)), "fir")
    assert_taken_in(settings, accept(judged_batch(settings, CATEGORY, ARRIVALS)))


def test_a_failing_push_makes_no_commit_and_is_repeatable(settings: Settings) -> None:
    before = log(settings)
    batch = judged_batch(settings, CATEGORY, ARRIVALS)
    remote = settings.state / "dvc-remote"
    remote.rename(settings.state / "unplugged")
    write(remote, "a file where the folder should be")
    for _ in range(2):
        error = refusal(batch)
        assert "data cannot be pushed" in error.found
        assert error.transient
        assert log(settings) == before
        assert "commit" not in batch.state
    remote.unlink()
    (settings.state / "unplugged").rename(remote)
    assert_taken_in(settings, accept(batch))
    assert log(settings)[1:] == before


def test_a_full_disk_makes_no_commit_and_is_repeatable(settings: Settings) -> None:
    big = {"big.png": bytes(2 << 20)}
    batch = judged_batch(settings, CATEGORY, {**ARRIVALS, **big})
    before = log(settings)
    with largest_file(1 << 20):
        error = refusal(batch)
    assert "could not be written: File too large" in error.found
    assert log(settings) == before
    assert not list((settings.data / CATEGORY).rglob("*.aesc-part"))
    accept(batch)
    assert len(images(settings)) == _OLD + 4
    assert log(settings)[1:] == before


def test_a_commit_that_git_refuses_can_be_made_later(settings: Settings) -> None:
    before = log(settings)
    git(settings.root, "config", "commit.gpgSign", "true")
    git(settings.root, "config", "gpg.program", "false")
    batch = judged_batch(settings, CATEGORY, ARRIVALS)
    assert "gpg failed to sign" in refusal(batch).found
    assert log(settings) == before
    git(settings.root, "config", "commit.gpgSign", "false")
    assert_taken_in(settings, accept(batch))


def test_hooks_that_check_do_not_run_and_the_one_that_follows_does(settings: Settings) -> None:
    for name, line in (("pre-commit", "exit 1"), ("commit-msg", "exit 1"), ("post-commit", "touch followed")):
        hook = settings.root / ".git" / "hooks" / name
        write(hook, f"#!/bin/sh\n{line}\n")
        hook.chmod(0o755)
    accept(judged_batch(settings, CATEGORY, ARRIVALS))
    assert (settings.root / "followed").exists()


def test_another_git_at_work_is_waited_for(settings: Settings) -> None:
    lock = settings.root / ".git" / "index.lock"
    write(lock, "")
    batch = judged_batch(settings, CATEGORY, ARRIVALS)
    assert refusal(batch).transient
    lock.unlink()
    assert_taken_in(settings, accept(batch))


# The first data ever, and less than git


def test_the_first_data_version_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_project(tmp_path / "project", images=0)
    own_environment(monkeypatch, settings.root)
    assert not settings.data.exists()
    batch = judged_batch(settings, CATEGORY, ARRIVALS)
    assert_taken_in(settings, accept(batch), old=0)
    assert git(settings.root, "status", "--porcelain") == ""


def test_data_that_was_never_tracked_is_somebody_else_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_project(tmp_path / "project")
    own_environment(monkeypatch, settings.root)
    error = refusal(judged_batch(settings, CATEGORY, ARRIVALS))
    assert "changes that no arrival explains: data/bottle/train/good/000.png" in error.found
    assert not (settings.root / "data.dvc").exists()
    assert len(images(settings)) == _OLD


def test_without_git_there_is_a_version_and_no_commit(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(settings.root / ".git")
    for number in range(2):
        batch = judged_batch(settings, CATEGORY, {f"{number}.png": f"{number}".encode()})
        version = accept(batch)
        assert f"md5: {version}\n" in (settings.root / "data.dvc").read_text()
        assert batch.state["commit"] is None
        assert "not in a git repository" in caplog.text
    assert len(images(settings)) == _OLD + 2


def test_without_a_remote_it_is_said_that_this_clone_alone_has_it(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    write(settings.root / ".dvc" / "config", "[core]\n    analytics = false\n")
    batch = judged_batch(settings, CATEGORY, ARRIVALS)
    with caplog.at_level(logging.WARNING):
        accept(batch)
    assert "this clone only" in caplog.text
    assert batch.state["remote"] is None
    assert "pushed to no remote" in git(settings.root, "log", "-1", "--format=%B")


def test_without_dvc_nothing_is_placed(settings: Settings) -> None:
    shutil.rmtree(settings.root / ".dvc")
    assert "not a DVC repository" in refusal(judged_batch(settings, CATEGORY, ARRIVALS)).found
    assert len(images(settings)) == _OLD


def test_names_come_from_the_content() -> None:
    assert accepted_name("0123456789abcdef0123456789", "0000001.PNG") == "train/good/0123456789abcdef0123.png"
