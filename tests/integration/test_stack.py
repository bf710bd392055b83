"""The whole stack on one machine, as a person lives with it: broken, mended, used, hit, stopped, started again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import servers
from tests.clones import make_clone
from tests.commands import Done, Project
from tests.servers import s3_client

pytestmark = pytest.mark.integration

PARTS = ["s3", "mlflow", "prefect", "worker-cpu", "worker-gpu"]
OBJECT = b"an image" * 1000


@dataclass
class Life:
    """What was seen of one stack, in the order of the fields."""

    project: Project
    interrupted: Done
    after_interrupt: list[str]
    failure: Done
    half: dict[str, Any]
    up: Done
    env: dict[str, str]
    exports: str
    modes: dict[str, int]
    written: dict[str, bytes]  # every file of the state's text, by its name
    command_lines: list[str]
    listening: set[str]
    pages_ask: str
    again: Done
    killed: int
    healed: dict[str, Any]
    down: Done
    after_down: list[str]
    off: Done
    up_again: Done
    env_again: dict[str, str]
    found: bytes

    @property
    def stack(self) -> Path:
        return self.project.state / "stack"


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    """A stack in a clone whose path has a space and an apostrophe, from its first start to its last stop."""
    clone = make_clone(tmp_path_factory.mktemp("stack") / "somebody's clone 100% ok")
    project = Project(clone, clone / ".aesc", {"OMP_NUM_THREADS": "1"})
    try:
        return live(project)
    finally:
        project.aesc("down")
        assert running(project) == []


def live(project: Project) -> Life:
    stack = project.state / "stack"
    interrupted = project.interrupted("up", "--json", at=(stack / "logs" / "s3.log").exists)
    project.aesc("down")
    after_interrupt = running(project)

    shutil.rmtree(stack / "s3")
    (stack / "s3").mkdir()
    (stack / "s3" / "filerldb2").touch()  # where SeaweedFS wants a folder
    failure = project.aesc("up", "--json", code=1)
    half = wait_for(lambda: status(project), lambda found: part_of(found, "prefect")["healthy"])
    (stack / "s3" / "filerldb2").unlink()
    up = project.aesc("up", "--json")

    env = project.aesc("env", "--json").report
    exports = project.aesc("env").stdout
    s3_client(env).put_object(Bucket="arrivals", Key="widget/1.png", Body=OBJECT)
    modes = {str(path.relative_to(stack)): path.stat().st_mode & 0o777 for path in files(stack)}
    written = {str(path.relative_to(stack)): path.read_bytes() for path in files(stack)}
    mine = processes(project)
    command_lines = [" ".join(process.cmdline()) for process in mine]
    listening = {
        connection.laddr.ip
        for process in mine
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    settings_page = env["PREFECT_API_URL"].removesuffix("/api") + "/ui-settings"
    with urllib.request.urlopen(settings_page, timeout=30) as answer:  # noqa: S310
        pages_ask = json.loads(answer.read())["api_url"]
    again = project.aesc("up", "--json")

    killed = part(again, "s3")["pid"]
    os.kill(killed, signal.SIGKILL)
    healed = wait_for(lambda: status(project), lambda found: found["healthy"] and part_of(found, "s3")["pid"] != killed)

    down = project.aesc("down", "--json")
    after_down = running(project)
    off = project.aesc("status", "--json", code=1)
    up_again = project.aesc("up", "--json")
    env_again = project.aesc("env", "--json").report
    found = s3_client(env).get_object(Bucket="arrivals", Key="widget/1.png")["Body"].read()
    return Life(
        project, interrupted, after_interrupt, failure, half, up, env, exports, modes, written, command_lines,
        listening, pages_ask, again, killed, healed, down, after_down, off, up_again, env_again, found,
    )  # fmt: skip


def files(folder: Path) -> list[Path]:
    """All files but the contents of S3 and Prefect's and MLflow's databases, which change while they are read."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in found if path.relative_to(folder).parts[0] != "s3" and ".db" not in path.name]


def processes(project: Project) -> list[psutil.Process]:
    """Every process of the project's stack."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("AESC_STACK") == str(project.state / "stack"):
                found.append(process)
        except psutil.Error:
            continue
    return found


def running(project: Project) -> list[str]:
    return servers.processes(AESC_STACK=str(project.state / "stack"))


def status(project: Project) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "status", "--json"],
        cwd=project.root,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["healthy"] else 1), done.stderr
    assert isinstance(found, dict)
    return found


def wait_for(ask: Callable[[], dict[str, Any]], good: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    end = time.monotonic() + 60
    while not good(found := ask()):
        assert time.monotonic() < end, found
        time.sleep(0.5)
    return found


def part(done: Done, name: str) -> dict[str, Any]:
    return part_of(done.report, name)


def part_of(report: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [one for one in report["parts"] if one["name"] == name]
    assert isinstance(found, dict)
    return found


def test_ctrl_c_leaves_nothing_that_down_does_not_stop(life: Life) -> None:
    assert life.interrupted.error["found"] == "interrupted"
    assert life.after_interrupt == []


def test_a_part_that_does_not_start_is_named_with_the_end_of_its_log(life: Life) -> None:
    error = life.failure.error
    assert error["where"] == "aesc up: s3"
    assert "ends again and again" in error["found"]
    assert str(life.stack / "logs/s3.log") in error["found"]
    assert "filerldb2" in error["found"]
    assert "aesc down" in error["todo"]
    assert not part_of(life.half, "s3")["healthy"]
    assert not part_of(life.half, "worker-gpu")["healthy"]


def test_up_starts_every_part_and_keeps_those_that_run(life: Life) -> None:
    report = life.up.report
    assert report["healthy"]
    assert [one["name"] for one in report["parts"]] == PARTS
    assert all(one["healthy"] and one["address"].startswith("http://127.0.0.1:") for one in report["parts"])
    assert part(life.up, "prefect")["pid"] == part_of(life.half, "prefect")["pid"]
    assert [one["pid"] for one in life.again.report["parts"]] == [one["pid"] for one in report["parts"]]


def test_up_deploys(life: Life) -> None:
    deployed = life.up.report["deployed"]
    assert "retrain/retrain" in deployed["deployments"]
    assert {"cpu", "gpu"} <= set(deployed["work_pools"])
    assert deployed["limits"] == {"aesc-data": 1}
    assert deployed["automations"]
    assert life.again.report["deployed"] == deployed


def test_prefect_s_pages_ask_prefect_s_own_server(life: Life) -> None:
    assert life.pages_ask == life.env["PREFECT_API_URL"]


def test_everything_listens_on_this_machine_only(life: Life) -> None:
    assert life.listening == {"127.0.0.1"}


def test_env_points_a_shell_at_the_stack(life: Life) -> None:
    assert life.env["MLFLOW_TRACKING_URI"] == part(life.up, "mlflow")["address"]
    assert life.env["AWS_ENDPOINT_URL"] == part(life.up, "s3")["address"]
    assert life.env["AESC_ARRIVALS"] == "s3://arrivals"
    assert life.env["AESC_DVC_REMOTE"] == "s3://dvc"
    for key, value in life.env.items():
        assert f"export {key}={value}\n" in life.exports


def test_the_secret_is_in_private_files_only(life: Life) -> None:
    secret = life.env["AWS_SECRET_ACCESS_KEY"]
    assert len(secret) >= 40
    holders = {name for name, content in life.written.items() if secret.encode() in content}
    assert holders == {
        "keys.json",
        "s3.json",
        *(f"parts/{name}.json" for name in PARTS if name not in {"s3", "prefect"}),
    }
    assert {life.modes[name] for name in holders} == {0o600}
    assert {"supervisord.conf", "supervisord.log", *(f"logs/{name}.log" for name in PARTS)} <= set(life.written)
    assert not [line for line in life.command_lines if secret in line]
    assert len(life.command_lines) > len(PARTS)
    for done in (life.failure, life.up, life.again, life.down, life.off, life.up_again):
        assert secret not in done.stdout + done.stderr


def test_a_killed_part_is_started_again(life: Life) -> None:
    assert life.healed["healthy"]
    assert part_of(life.healed, "s3")["pid"] != life.killed


def test_down_stops_everything(life: Life) -> None:
    assert sorted(life.down.report["stopped"]) == sorted(PARTS)
    assert life.down.report["strays"] == 0
    assert life.after_down == []
    assert life.off.report == life.half | {"running": False, "database": None, "parts": []}


def test_data_ports_and_keys_survive_a_restart(life: Life) -> None:
    assert life.env_again == life.env
    assert life.found == OBJECT
    assert [one["address"] for one in life.up_again.report["parts"]] == [
        one["address"] for one in life.up.report["parts"]
    ]
