"""The Dockerfile, as far as it can be checked where no Docker engine runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from tests.repositories import ROOT, git

DOCKERFILE = ROOT / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Name and arguments of each instruction; a line that ends in a backslash goes on."""
    lines = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in found]


def copied() -> list[str]:
    return [name for kind, rest in instructions() if kind == "COPY" for name in shlex.split(rest)[:-1]]


def test_what_is_copied_is_tracked_and_not_ignored() -> None:
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert set(copied()) == allowed
    for name in copied():
        assert git(ROOT, "ls-files", "--", name).strip(), f"{name} is not in git"


@pytest.mark.parametrize("secret", ["data", "data.dvc", ".aesc", ".dvc", ".git", ".env"])
def test_neither_data_nor_secrets_nor_history_are_sent_to_the_engine(secret: str) -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines.index("*") < min(lines.index(line) for line in lines if line.startswith("!"))
    assert f"!{secret}" not in lines


def test_it_runs_as_nobody_special_on_the_python_that_is_tested() -> None:
    found = instructions()
    assert ("FROM", "python:3.11-slim") in found
    assert [rest for kind, rest in found if kind == "USER"] == ["1000"]
    assert found[-1][0] == "CMD"
    installed = [rest for kind, rest in found if kind == "RUN" and "pip install" in rest]
    assert any("--constraint constraints.txt" in rest for rest in installed)
    assert any("TORCH_INDEX" in rest for rest in installed)


def test_its_torch_is_in_the_constraints() -> None:
    assert re.search(r"^torch==\d+\.\d+\.\d+$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_entrypoints_of_the_deployments_are_copied() -> None:
    wanted = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    for deployment in wanted:
        path = Path(deployment["entrypoint"].partition(":")[0])
        assert (ROOT / path).is_file()
        assert path.parts[0] in copied()
