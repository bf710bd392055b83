"""Taking accepted arrivals in: into the data folder, under DVC, to the remote, into git. Bound by disk and network.

The order is: files, `dvc add`, `dvc push`, one commit of data.dvc. So no commit names data that the remote lacks, and
every step may be repeated: the files' names come from their content, and what is there already is left alone.
"""

from __future__ import annotations

import filecmp
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from aesc.errors import AescError
from aesc.files import not_written
from aesc.layout import CLEAN_FOLDER
from tasks.arrival_batch import ACCEPTED, Batch, unfinished_batch
from tasks.commits import commit_file, find_repository, last_commit, require_branch
from tasks.data_lock import DATA, hold
from tasks.dvc_repo import open_repo
from tasks.retries import retried_task
from tasks.settings import Settings
from tasks.versioning import POINTER, add_data, changed_files, is_committed, push_data

LOGGER = logging.getLogger("aesc")
_NAME_DIGITS = 20  # of the sha256: 80 bits
_UNFINISHED = ".aesc-part"


def accepted_name(sha256: str, file: str) -> str:
    """Where content of this sha256 lies below its category; `file` gives the suffix."""
    return f"{CLEAN_FOLDER}/{sha256[:_NAME_DIGITS]}{PurePosixPath(file).suffix.lower()}"


@retried_task(task_run_name="accept the arrivals of {category}")
def accept_arrivals(category: str, batch_folder: str) -> str | None:
    """Take a batch's accepted arrivals in; the new data version, None if there were none. Safe to repeat.

    Raises:
        AescError: the data folder has other changes, git cannot commit, or the remote does not answer (transient);
            nothing is committed then, and the next run goes on.
    """
    settings, batch = Settings(), Batch(batch_folder)
    targets = _targets(category, batch)
    if not targets:
        return None
    with hold(DATA, settings):
        _require_ours(settings, set(targets))
        _place(settings, targets)
        with open_repo(settings) as repo:
            version = add_data(repo, settings)
            remote = push_data(repo, version, settings)
        commit = _commit(settings, batch, version, remote, count=len(targets))
    batch.update(data_version=version, commit=commit, remote=remote)
    LOGGER.info("data version %s: %d new clean images of %s", version, len(targets), category)
    return version


def _targets(category: str, batch: Batch) -> dict[str, Path]:
    """Where each accepted arrival of a judged batch goes, below the project, and its copy."""
    verdicts = batch.verdicts()
    accepted = verdicts[verdicts["verdict"] == ACCEPTED]
    return {
        f"data/{category}/{accepted_name(sha256, file)}": batch.files / file
        for sha256, file in zip(accepted["sha256"].astype(str), accepted["file"].astype(str), strict=True)
    }


def _require_ours(settings: Settings, targets: set[str]) -> None:
    """Stop before anything is touched if somebody else's change would get into this data version."""
    if find_repository(settings.root):
        require_branch(settings.root)
    _remove_unfinished(settings)
    foreign = [path for path in changed_files(settings) if path not in targets]
    if foreign:
        more = f" and {len(foreign) - 10} more" if len(foreign) > 10 else ""
        todo = (
            f"to keep them: dvc add data && git add {POINTER} && git commit {POINTER}; to throw them away: "
            f"git checkout {POINTER} && dvc checkout data; then run the same command again"
        )
        if waiting := _left_by_others(settings, foreign):
            names = " && ".join(f"aesc ingest --category {name}" for name in waiting)
            todo = f"an interrupted ingest has left some of them: {names}; then run the same command again"
        raise AescError(
            settings.data,
            f"changes that no arrival explains: {', '.join(sorted(foreign)[:10])}{more}",
            allowed=f"exactly the files that the committed {POINTER} names",
            todo=todo,
        )


def _left_by_others(settings: Settings, foreign: list[str]) -> list[str]:
    """The categories whose interrupted batches have placed some of these files."""
    found = []
    for name in sorted({path.split("/")[1] for path in foreign}):
        batch = unfinished_batch(settings, name)
        if batch and batch.verdicts_file.is_file() and not _targets(name, batch).keys().isdisjoint(foreign):
            found.append(name)
    return found


def _remove_unfinished(settings: Settings) -> None:
    for leftover in settings.data.glob(f"*/{CLEAN_FOLDER}/*{_UNFINISHED}"):
        leftover.unlink()


def _place(settings: Settings, targets: Mapping[str, Path]) -> None:
    for name, source in targets.items():
        target = settings.root / name
        if target.is_file() and filecmp.cmp(source, target, shallow=False):
            continue
        unfinished = target.with_name(f".{target.name}{_UNFINISHED}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, unfinished)
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(target)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise not_written(target, error) from error


def _commit(settings: Settings, batch: Batch, version: str, remote: str | None, *, count: int) -> str | None:
    if find_repository(settings.root) is None:
        LOGGER.warning("%s is not in a git repository: data version %s is in no commit", settings.root, version)
        return None
    if not is_committed(settings):
        return commit_file(settings.root, POINTER, _message(batch, version, remote, count))
    return batch.state.get("commit") or last_commit(settings.root, POINTER)  # made by the run that was interrupted


def _message(batch: Batch, version: str, remote: str | None, count: int) -> str:
    state: dict[str, Any] = batch.state
    others = batch.verdicts().query("verdict != @ACCEPTED")
    reasons = others["reason"].where(others["reason"] != "", others["verdict"]).value_counts()
    held = "; not taken: " + ", ".join(f"{n} {reason}" for reason, n in reasons.items()) if len(reasons) else ""
    return (
        f"data: {count} clean {'image' if count == 1 else 'images'} of {state['category']} from {state['source']}\n\n"
        f"Accepted {count} of {len(batch.verdicts())} arrivals{held}.\n"
        f"Gate: {state.get('gate', 'not asked')}.\n"
        f"Batch {batch.name}, data version {version}, pushed to {remote or 'no remote'}.\n"
    )
