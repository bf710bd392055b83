"""The loop on the real stack: images arrive in S3, the gate holds the defective ones, the rest is retrained on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from tests.clones import make_clone
from tests.commands import Project
from tests.repositories import git
from tests.servers import executable, s3_client

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.real_data, pytest.mark.timeout(3000)]
CATEGORY, MODEL = "hazelnut", "aesc-hazelnut"
PRESET = "demo"
QUIET_SECONDS = 10  # the debounce, shortened
# One ingest at a time: where the schedule's is at work when a test asks for one, the test's is cancelled.
SCHEDULE, NEVER = "*/15 * * * *", "0 0 29 2 *"
PATIENCE = 1500
FIRST, LATER = 40, 6
DEFECTIVE = ("crack/000.png", "crack/001.png", "hole/000.png", "print/000.png")


@dataclass(frozen=True)
class Stack:
    """A running stack, and what its clients need."""

    project: Project
    env: dict[str, str]
    images: Path

    def put(self, files: dict[str, Path]) -> None:
        client = s3_client(self.env)
        for key, path in files.items():
            client.put_object(Bucket="arrivals", Key=f"{CATEGORY}/{key}", Body=path.read_bytes())

    def ask(self, path: str, **body: Any) -> Any:
        request = urllib.request.Request(  # noqa: S310
            f"{self.env['PREFECT_API_URL']}/{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return json.loads(answer.read())

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """The flow runs of a deployment for the category, the oldest first."""
        found = self.ask(
            "flow_runs/filter", deployments={"name": {"any_": [deployment]}}, sort="EXPECTED_START_TIME_ASC"
        )
        return [run for run in found if run["parameters"].get("category") == CATEGORY]

    def ingest(self) -> dict[str, Any]:
        """Run the deployment `ingest` on its worker to its end, and read the artifact that it leaves."""
        command = ["deployment", "run", "ingest/ingest", "--watch"]
        command += ["--param", f"category={CATEGORY}", "--param", f"preset={PRESET}"]
        done = subprocess.run(
            [str(executable("prefect")), *command],
            cwd=self.project.root,
            env=self.project.environment(**self.env),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        (artifact,) = self.ask("artifacts/latest/filter", artifacts={"key": {"any_": [f"ingest-{CATEGORY}"]}}, limit=1)
        found = dict(re.findall(r"^\| ([a-z ]+) \| (.+) \|$", artifact["data"], flags=re.MULTILINE))
        return {**found, "text": artifact["data"]}

    def retrained(self, count: int) -> dict[str, Any]:
        """The last of `count` retrainings of the category, when all of them have ended."""

        def ended() -> list[dict[str, Any]]:
            return [run for run in self.runs("retrain") if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED")]

        wait_for(lambda: len(ended()) >= count)
        assert [run["state_type"] for run in ended()] == ["COMPLETED"] * count
        return ended()[-1]

    @property
    def pointer(self) -> str:
        content = yaml.safe_load((self.project.root / "data.dvc").read_text(encoding="utf-8"))
        return str(content["outs"][0]["md5"])


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(2)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Iterator[Stack]:
    root = make_clone(tmp_path_factory.mktemp("loop") / "project")
    text = (root / "prefect.yaml").read_text(encoding="utf-8")
    for before, after in (("within: 300", f"within: {QUIET_SECONDS}"), (SCHEDULE, NEVER)):
        assert text.count(before) == 1
        text = text.replace(before, after)
    (root / "prefect.yaml").write_text(text, encoding="utf-8")
    git(root, "commit", "--quiet", "--all", "--message=a shorter debounce, no schedule")
    project = Project(root, root / ".aesc")
    try:
        up = project.aesc("up", "--json").report
        assert up["healthy"]
        yield Stack(project, project.aesc("env", "--json").report, real_data / "mvtec_256" / CATEGORY)
    finally:
        project.aesc("down")


@pytest.fixture(scope="module")
def first(stack: Stack) -> dict[str, Any]:
    """The first images: nothing is known of them, so the gate is open."""
    images = sorted((stack.images / "train" / "good").glob("*.png"))
    chosen = [path for number, path in enumerate(images) if number % 5 != 4]
    assert len(chosen) == FIRST
    stack.put({path.name: path for path in chosen})
    report = stack.ingest()
    run = stack.retrained(1)
    return {"report": report, "run": run, "pointer": stack.pointer}


@pytest.fixture(scope="module")
def later(stack: Stack, first: dict[str, Any]) -> dict[str, Any]:
    """Ten more, four of them defective and named like the others."""
    images = sorted((stack.images / "train" / "good").glob("*.png"))
    clean = [path for number, path in enumerate(images) if number % 5 == 4][:LATER]
    named = {f"late_{number:02d}.png": path for number, path in enumerate(clean)}
    named |= {
        f"late_{number:02d}.png": stack.images / "test" / path for number, path in enumerate(DEFECTIVE, start=LATER)
    }
    stack.put(named)
    report = stack.ingest()
    entries = stack.project.aesc("quarantine", "list", "--json", **stack.env).report["entries"]
    run = stack.retrained(2)
    return {"report": report, "run": run, "pointer": stack.pointer, "held": {one["key"]: one for one in entries}}


def test_the_first_images_come_in_through_an_open_gate(stack: Stack, first: dict[str, Any]) -> None:
    assert first["report"]["accepted"] == str(FIRST)
    assert "has no champion yet" in first["report"]["text"]
    assert len(list((stack.project.root / "data" / CATEGORY / "train" / "good").iterdir())) == FIRST


def test_the_event_starts_a_retraining_whose_version_is_champion(stack: Stack, first: dict[str, Any]) -> None:
    assert first["run"]["parameters"]["preset"] == PRESET
    assert first["run"]["work_pool_name"] == "gpu"
    tracking = MlflowClient(stack.env["MLFLOW_TRACKING_URI"], stack.env["MLFLOW_TRACKING_URI"])
    version = tracking.get_model_version(MODEL, "1")
    assert version.tags["data_version"] == first["pointer"]
    assert version.tags["synthetic_defects"] == "True"
    assert tracking.get_model_version_by_alias(MODEL, "champion").version in (1, "1")


def test_the_gate_holds_every_defective_image(later: dict[str, Any]) -> None:
    defective = {f"late_{number:02d}.png" for number in range(LATER, LATER + len(DEFECTIVE))}
    assert defective <= set(later["held"])
    assert any(later["held"][key]["reason"] == "contaminated" for key in defective)
    clean_held = set(later["held"]) - defective
    assert len(clean_held) < LATER
    assert later["report"]["accepted"] == str(LATER - len(clean_held))


def test_a_new_version_of_the_new_data_arrives(stack: Stack, first: dict[str, Any], later: dict[str, Any]) -> None:
    assert later["pointer"] != first["pointer"]
    assert later["pointer"] in git(stack.project.root, "show", "HEAD:data.dvc")
    tracking = MlflowClient(stack.env["MLFLOW_TRACKING_URI"], stack.env["MLFLOW_TRACKING_URI"])
    version = tracking.get_model_version(MODEL, "2")
    assert version.tags["data_version"] == later["pointer"]
    assert version.tags["git_commit"] == git(stack.project.root, "rev-parse", "HEAD").strip()
    keys = {
        item["Key"]
        for page in s3_client(stack.env).get_paginator("list_objects_v2").paginate(Bucket="dvc")
        for item in page.get("Contents", [])
    }
    assert any(key.endswith(f"{later['pointer'][:2]}/{later['pointer'][2:]}") for key in keys), "the remote holds it"


def test_nothing_is_missing_or_changed_at_the_source(stack: Stack, later: dict[str, Any]) -> None:
    client = s3_client(stack.env)
    listed = client.list_objects_v2(Bucket="arrivals", Prefix=f"{CATEGORY}/")["Contents"]
    assert len(listed) == FIRST + LATER + len(DEFECTIVE)
    body = client.get_object(Bucket="arrivals", Key=f"{CATEGORY}/late_{LATER:02d}.png")["Body"].read()
    assert body == (stack.images / "test" / DEFECTIVE[0]).read_bytes()


def test_no_secret_is_in_git_logs_artifacts_or_databases(stack: Stack, later: dict[str, Any]) -> None:
    secret = stack.env["AWS_SECRET_ACCESS_KEY"].encode()
    assert len(secret) >= 16
    places = {"git": git(stack.project.root, "log", "--patch", "--all").encode()}
    places["prefect.yaml"] = (stack.project.root / "prefect.yaml").read_bytes()
    for path in stack.project.root.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o077:
            places[str(path)] = path.read_bytes()
    client = s3_client(stack.env)
    for bucket in ("mlflow", "dvc"):
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for item in page.get("Contents", []):
                name = f"s3://{bucket}/{item['Key']}"
                places[name] = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
    logs = [name for name in places if name.endswith(".log")]
    assert len(logs) >= 4, "the logs of the servers and workers are among them"
    assert any("/artifacts/" in name for name in places)
    assert [name for name, content in places.items() if secret in content] == []
    readable = [path for path in (stack.project.state / "stack").rglob("*") if path.is_file()]
    assert [path for path in readable if secret in path.read_bytes() and path.stat().st_mode & 0o077] == []
    assert os.environ.get("AWS_SECRET_ACCESS_KEY") != secret.decode()
