"""Taking arrivals in: files, DVC, the remote, one commit; and where that cannot be done."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import acceptance
from tasks.acceptance import accept_arrivals, accepted_name
from tasks.arrival_batch import KNOWN, QUARANTINED
from tasks.settings import Settings
from tasks.versioning import pin_data_version, pull_data, track_data
from tests.arrivals import die, judged_batch, killed_in, own_environment
from tests.repositories import git, make_project, write
from tests.taking_in import ARRIVALS, CATEGORY, NAMES, OLD, accept, assert_taken_in, copied, images, log, refusal


@pytest.fixture
def settings(tracked_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return copied(tracked_project, tmp_path / "project", monkeypatch)


def everything(settings: Settings) -> dict[str, bytes]:
    """All that an acceptance may change: data folder, pointer, HEAD, index."""
    state = {f"git {name}": git(settings.root, *name.split()).encode() for name in ("rev-parse HEAD", "diff --cached")}
    pointer = settings.root / "data.dvc"
    return images(settings) | state | {"data.dvc": pointer.read_bytes() if pointer.is_file() else b""}


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
    assert len(images(settings)) == OLD


def test_without_git_there_is_a_version_and_no_commit(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(settings.root / ".git")
    for number in range(2):
        batch = judged_batch(settings, CATEGORY, {f"{number}.png": f"{number}".encode()})
        version = accept(batch)
        assert f"md5: {version}\n" in (settings.root / "data.dvc").read_text()
        assert batch.state["commit"] is None
        assert "not in a git repository" in caplog.text
    assert len(images(settings)) == OLD + 2


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
    assert len(images(settings)) == OLD


def test_names_come_from_the_content() -> None:
    assert accepted_name("0123456789abcdef0123456789", "0000001.PNG") == "train/good/0123456789abcdef0123.png"
