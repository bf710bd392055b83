"""Taking arrivals in, interrupted, refused or repeated at any step: the same command mends it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import acceptance
from tasks.settings import Settings
from tests.arrivals import die, judged_batch, killed_in, largest_file
from tests.repositories import git, write
from tests.taking_in import ARRIVALS, CATEGORY, NAMES, OLD, accept, assert_taken_in, copied, images, log, refusal


@pytest.fixture
def settings(tracked_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return copied(tracked_project, tmp_path / "project", monkeypatch)


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
    assert len(images(settings)) == OLD + 4
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
