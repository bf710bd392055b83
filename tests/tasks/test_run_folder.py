"""One folder a run: taken up again when it is the same run, and never by two processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from aesc.errors import AescError
from aesc.params_file import load_params
from tasks.run_folder import RunFolder, open_run, run_key

ROOT = Path(__file__).parents[2]


def open_(runs: Path, key: str = "k", resume: str = "auto"):
    return open_run(runs, category="widget", label="quick-s1-k", key=key, resume=resume)


def test_unfinished_run_with_the_same_key_is_taken_up_again(tmp_path: Path) -> None:
    run, lock = open_(tmp_path)
    run.update(preset="quick")
    lock.release()
    again, lock = open_(tmp_path)
    lock.release()
    assert again.path == run.path
    assert again.state["preset"] == "quick"


@pytest.mark.parametrize("case", ["finished", "other key", "off"])
def test_anything_else_starts_a_new_folder(tmp_path: Path, case: str) -> None:
    run, lock = open_(tmp_path)
    run.update(finished=case == "finished")
    lock.release()
    other, lock = open_(
        tmp_path, key="other" if case == "other key" else "k", resume="off" if case == "off" else "auto"
    )
    lock.release()
    assert other.path != run.path


def test_run_in_use_is_left_alone(tmp_path: Path) -> None:
    run, lock = open_(tmp_path)
    other, second = open_(tmp_path)
    assert other.path != run.path
    with pytest.raises(AescError, match="another process"):
        open_(tmp_path, resume=str(run.path))
    lock.release()
    second.release()


def test_named_folder_must_be_the_same_unfinished_run(tmp_path: Path) -> None:
    run, lock = open_(tmp_path)
    lock.release()
    with pytest.raises(AescError, match="other data, parameters or code"):
        open_(tmp_path, key="other", resume=str(run.path))
    run.update(finished=True)
    with pytest.raises(AescError, match="finished"):
        open_(tmp_path, resume=str(run.path))
    with pytest.raises(AescError, match="not a run folder"):
        open_(tmp_path, resume=str(tmp_path))


def test_key_changes_with_everything_that_changes_the_weights() -> None:
    params = load_params(ROOT / "params.yaml", preset="ablation")
    given = {"params": params, "category": "a", "content_digest": "d", "code": "c"}
    key = run_key(**given)
    assert run_key(**given) == key
    other = load_params(ROOT / "params.yaml", preset="ablation", overrides=["training.seed=2"])
    for change in ({"params": other}, {"category": "b"}, {"content_digest": "e"}, {"code": "f"}):
        assert run_key(**{**given, **change}) != key


def test_parameters_survive_the_way_to_disk(tmp_path: Path) -> None:
    from aesc.files import write_json

    params = load_params(ROOT / "params.yaml", preset="demo")
    run = RunFolder(tmp_path)
    write_json(run.params_file, params.model_dump(mode="json"))
    assert run.params() == params
