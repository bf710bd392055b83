"""Opening a run: parameters checked, images listed and hashed, a folder locked. Bound by disk and CPU."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from filelock import BaseFileLock
from prefect import task

from aesc.files import write_json
from aesc.params_file import load_params
from tasks.commits import code_version
from tasks.run_folder import open_run, run_key
from tasks.settings import Settings


# Never from a cache, which a flow run that is started again would have if results are kept: the lock must be taken.
@task(task_run_name="prepare {category}", refresh_cache=True)
def prepare_run(
    category: str,
    *,
    preset: str,
    data_root: str,
    params_file: str,
    overrides: Sequence[str],
    resume: str,
    runs: str | None = None,
) -> str:
    """Check the parameters, scan the category and open its run folder; the folder's path.

    It is made below `runs`, by default where all runs are.

    The folder stays locked until `release_run`, so that two processes never work on one run.
    """
    # Parameters first: a typo must not cost the hashing of a large data set.
    params = load_params(Path(params_file), preset=preset, category=category, overrides=overrides)

    from aesc.manifest import content_digest, save_manifest, scan_category

    settings = Settings()
    manifest = scan_category(Path(data_root), category, data=params.data, cache_folder=settings.cache)
    digest = content_digest(manifest)
    code = code_version(settings.root)
    code_digest = method_digest()
    key = run_key(params=params, category=category, content_digest=digest, code=code_digest)
    label = f"{preset}-s{params.training.seed}-{key[:8]}"
    run, lock = open_run(Path(runs) if runs else settings.runs, category=category, label=label, key=key, resume=resume)
    _held[str(run.path)] = lock
    write_json(run.params_file, params.model_dump(mode="json"))
    save_manifest(manifest, run.manifest_file)
    run.update(
        preset=preset,
        data_root=str(Path(data_root).resolve()),
        content_digest=digest,
        code_digest=code_digest,
        commit=code.commit,
        dirty=code.dirty,
        branch=code.branch,
    )
    return str(run.path)


def method_digest(folder: Path | None = None) -> str:
    """sha256 of the method's own source, the package `aesc` in `folder`: what an uncommitted edit changes too."""
    if folder is None:
        import aesc

        folder = Path(aesc.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


_held: dict[str, BaseFileLock] = {}


def release_run(run_folder: str) -> None:
    """Let others work on the run again; harmless if it is not held."""
    if lock := _held.pop(run_folder, None):
        lock.release()
