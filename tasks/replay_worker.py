"""Trains as a recorded run did: a replay starts `python -m tasks.replay_worker FILE` in a clone of the run's commit.

FILE is JSON: `category`, `data_root`, `run_folder` (which holds the run's params.json), `most_steps` (null for a whole
training) and `answer`, the file to write. The answer has `weights_sha256`, `device` and `code`, or `error`; losses.npy,
and after a whole training metrics.json, are in the run folder. Replays of later commits depend on this protocol: keep
what it has, and add only what may be left out.

Nothing here knows Prefect's server, MLflow, DVC or git.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aesc.errors import AescError
from aesc.files import read_json, write_json
from tasks.run_folder import RunFolder
from tasks.settings import Settings, prepare_environment


def main() -> None:
    """Read the request, train, write the answer; exit code 1 after an error that a person can read."""
    request = read_json(Path(sys.argv[1]))
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("aesc").setLevel(logging.INFO)
    prepare_environment(Settings())
    try:
        answer = train(request)
    except AescError as error:
        answer = {"error": error.to_dict()}
    write_json(Path(request["answer"]), answer)
    sys.exit("error" in answer)


def train(request: dict[str, Any]) -> dict[str, Any]:
    """Do what the request asks for; the answer."""
    import aesc
    from aesc.manifest import content_digest, save_manifest, scan_category
    from tasks.training import train_run

    category, data_root, run = request["category"], Path(request["data_root"]), RunFolder(request["run_folder"])
    try:
        params = run.params()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise AescError(
            "the recorded parameters",
            f"do not fit the code of the run's commit: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            todo="the run was made by other code than its commit's: nothing can be trained from it",
        ) from None
    manifest = scan_category(data_root, category, data=params.data, cache_folder=Settings().cache)
    save_manifest(manifest, run.manifest_file)
    version = {"kind": "content", "version": content_digest(manifest)}
    run.update(key="replay", category=category, finished=False, data_version=version)
    weights = train_run(run, data_root=data_root, most_steps=request["most_steps"])
    if weights:
        from tasks.calibration import calibrate_threshold
        from tasks.evaluation import evaluate_detector

        evaluate_detector.fn(category, str(data_root), str(run.path))
        calibrate_threshold.fn(category, str(run.path))
    return {"weights_sha256": weights, "device": run.state["device"], "code": str(Path(aesc.__file__).parent)}


if __name__ == "__main__":
    main()
