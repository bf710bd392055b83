"""The local stack on paper: names, addresses, ports, private files, and what is written into them."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aesc.errors import AescError
from tasks import launch, stack
from tasks.ports import free_ports, is_free
from tasks.settings import Settings
from tasks.stack import SQLITE, Stack, choose_stack, find_gpus, find_stack, launches, sqlite_databases, write_launches
from tasks.supervision import Process, configuration, is_supervised, processes

SECRET = "not for everybody"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("AESC_HOME", "CUDA_VISIBLE_DEVICES", "NO_PROXY", "no_proxy", "AESC_POSTGRES"):
        monkeypatch.delenv(key, raising=False)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "params.yaml").touch()
    return Settings(root=tmp_path)


def choose(settings: Settings, *, gpu_workers: int = 1) -> Stack:
    return choose_stack(settings, gpu_workers=gpu_workers, database=SQLITE)


def environments(settings: Settings, found: Stack, gpus: list[str]) -> dict[str, dict[str, str]]:
    return {name: part.env for name, part in launches(found, sqlite_databases(found.folder), gpus).items()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def listening(port: int) -> Iterator[None]:
    """Somebody else's server. As servers do, it does not mind connections of one that has just stopped there."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        yield


def test_one_gpu_worker_has_no_number_and_several_have(settings: Settings) -> None:
    assert choose(settings).names == ("s3", "mlflow", "prefect", "worker-cpu", "worker-gpu")
    several = choose(settings, gpu_workers=3)
    assert several.names[3:] == ("worker-cpu", "worker-gpu-0", "worker-gpu-1", "worker-gpu-2")
    assert several.workers["worker-gpu-2"] == "gpu"


def test_ports_and_keys_are_kept_as_long_as_they_are_free(settings: Settings) -> None:
    first = choose(settings)
    assert len(set(first.ports.values())) == len(first.ports)
    assert choose(settings).ports == first.ports
    assert find_stack(settings) == first
    with listening(first.ports["mlflow"]):
        moved = choose(settings)
    assert {name for name in first.ports if moved.ports[name] != first.ports[name]} == {"mlflow"}
    assert moved.keys() == first.keys()


def test_free_ports_are_free_and_not_among_those_taken() -> None:
    first, second = free_ports(2)
    assert first != second
    assert is_free(first)
    with listening(first):
        assert not is_free(first)


def test_running_out_of_ports_is_said() -> None:
    with pytest.raises(AescError, match="only 0 of 1 ports"):
        free_ports(1, taken=range(65536))


def test_secrets_are_in_private_files(settings: Settings) -> None:
    found = choose(settings)
    assert mode(found.folder) == 0o700
    write_launches(found, settings, launches(found, sqlite_databases(found.folder), []))
    private = [found.folder / "keys.json", found.folder / "s3.json", *(found.folder / "parts").iterdir()]
    assert [mode(path) for path in private] == [0o600] * (2 + len(found.names))
    secret = found.keys()["AWS_SECRET_ACCESS_KEY"]
    assert secret not in configuration(found)
    for path in found.folder.rglob("*"):
        if path.is_file() and path not in private:
            assert secret not in path.read_text(encoding="utf-8"), path


def test_each_part_gets_the_secrets_it_needs_only(settings: Settings) -> None:
    found = choose(settings)
    env = environments(settings, found, [])
    assert "AWS_SECRET_ACCESS_KEY" not in env["s3"] | env["prefect"]
    assert "MLFLOW_BACKEND_STORE_URI" not in env["worker-gpu"]
    assert env["worker-gpu"]["AWS_SECRET_ACCESS_KEY"] == found.keys()["AWS_SECRET_ACCESS_KEY"]
    assert env["worker-gpu"]["AESC_ARRIVALS"] == "s3://arrivals"
    assert env["worker-gpu"]["PREFECT_HOME"].startswith(str(found.folder))


def test_each_gpu_worker_has_a_gpu_and_the_cpu_worker_none(settings: Settings) -> None:
    env = environments(settings, choose(settings, gpu_workers=3), ["2", "GPU-5f"])
    shown = {name: env[name].get("CUDA_VISIBLE_DEVICES") for name in env}
    assert shown == {
        **dict.fromkeys(["s3", "mlflow", "prefect"]),
        **{"worker-cpu": "", "worker-gpu-0": "2", "worker-gpu-1": "GPU-5f", "worker-gpu-2": "2"},
    }
    without = environments(settings, choose(settings), [])
    assert "CUDA_VISIBLE_DEVICES" not in without["worker-gpu"] | without["worker-cpu"]


@pytest.mark.parametrize(("named", "found"), [("2, 3", ["2", "3"]), ("", []), ("-1", []), ("GPU-5f", ["GPU-5f"])])
def test_gpus_that_the_shell_hides_are_not_used(monkeypatch: pytest.MonkeyPatch, named: str, found: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert find_gpus() == found


def test_gpus_are_counted_by_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_gpus() == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'\necho '  MIG 1g'\necho 'GPU 1: A (UUID: GPU-2)'\n")
    tool.chmod(0o755)
    assert find_gpus() == ["0", "1"]


def test_a_part_forgets_other_servers_and_keeps_the_rest_of_the_shell() -> None:
    spec = {"forget": ["AWS_SECRET", "PREFECT_API_"], "defaults": {"DO_NOT_TRACK": "1"}, "env": {"AWS_SECRET_X": "own"}}
    shell = {"AWS_SECRET_X": SECRET, "PREFECT_API_URL": "http://elsewhere", "OMP_NUM_THREADS": "4"}
    assert launch.environment(spec, shell) == {"DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "4", "AWS_SECRET_X": "own"}
    assert launch.environment(spec, {"DO_NOT_TRACK": "0"})["DO_NOT_TRACK"] == "0"


def test_a_stack_points_its_clients_at_itself(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet,localhost")
    found = choose(settings)
    env = found.client_environment()
    assert env["PREFECT_API_URL"] == f"http://127.0.0.1:{found.ports['prefect']}/api"
    assert env["NO_PROXY"] == "intranet,localhost,127.0.0.1"
    assert not any(
        key.startswith(stack.ELSEWHERE) for key in env if not key.startswith(("AWS_", "PREFECT_", "MLFLOW_"))
    )


def test_the_socket_s_path_is_short_wherever_the_project_lies(tmp_path: Path) -> None:
    near = Stack(Path("/srv/x/.aesc/stack"), {}, 1, SQLITE)
    assert near.sockets == near.folder / "run"
    far = Stack(tmp_path / ("deep/" * 30), {}, 1, SQLITE)
    assert far.sockets != near.sockets
    assert len(os.fsencode(far.sockets / "supervisord.12345")) < 104 or len(str(tmp_path)) > 80


def test_a_path_that_the_supervisor_would_cut_is_refused(settings: Settings) -> None:
    found = choose(settings)
    with pytest.raises(AescError, match="cannot be handed to the supervisor"):
        configuration(Stack(found.folder / "a #1", found.ports, 1, SQLITE))


def test_without_a_supervisor_nothing_runs(settings: Settings) -> None:
    assert find_stack(settings) is None
    found = choose(settings)
    assert not is_supervised(found)
    assert processes(found) == {}
    assert Process("RUNNING", 1, 0.0).is_up
    assert not Process("BACKOFF", 0, 0.0).is_up
    assert Process("FATAL", 0, 0.0).has_given_up


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stack.require_tools()
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(AescError, match="weed, mlflow, prefect, supervisord") as caught:
        stack.require_tools()
    assert "make setup" in caught.value.todo


def test_private_files_are_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    stack.write_private(path, {"a": 1})
    with pytest.raises(TypeError):
        stack.write_private(path, {"a": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}
    assert [one.name for one in path.parent.iterdir()] == ["file.json"]
