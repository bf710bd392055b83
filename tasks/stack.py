"""The local stack: which parts it has, how each is started, and what its clients need to know.

State lives in one folder, `<AESC_HOME>/stack`:

    stack.json         ports, number of gpu workers, kind of database: what `up` chose and keeps
    keys.json          the S3 access key and secret, made at the first `up`               (mode 0600)
    s3.json            the same for the S3 server                                         (mode 0600)
    parts/*.json       command and environment of each part while the stack runs          (mode 0600)
    supervisord.*      the supervisor's configuration, log and process id
    logs/              one log a part
    s3/                the objects
    prefect/           Prefect's settings and, without PostgreSQL, its database
    mlflow.db          MLflow's database, without PostgreSQL
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aesc.errors import AescError
from aesc.files import read_json, write_json
from tasks.ports import HOST, free_ports, is_free
from tasks.postgres import Databases
from tasks.settings import QUIET, Settings

BUCKETS = ("mlflow", "dvc", "arrivals")
POOLS = ("cpu", "gpu")
S3, MLFLOW, PREFECT, CPU_WORKER, GPU_WORKER = "s3", "mlflow", "prefect", "worker-cpu", "worker-gpu"
SERVERS = (S3, MLFLOW, PREFECT)
CPU_RUNS, GPU_RUNS = 4, 1  # runs at a time: on the CPU they mostly wait for others, a GPU is not shared
MARK = "AESC_STACK"  # in the environment of every process of a stack: the folder of its state
SQLITE = "sqlite"
REGION = "us-east-1"
WEED_PORTS = ("s3.port", "master.port", "volume.port", "filer.port", "admin.port")
# What a shell may say about other servers is no concern of the stack. The rest of a shell's environment reaches the
# workers, and through them the runs: OMP_NUM_THREADS, proxies, PREFECT_LOGGING_LEVEL.
ELSEWHERE = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_PROFILE"),
    *("AWS_DEFAULT_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_IGNORE_CONFIGURED_ENDPOINT"),
    *("AESC_ARTIFACTS", "AESC_POSTGRES", "MLFLOW_TRACKING_", "MLFLOW_REGISTRY_URI", "MLFLOW_S3_"),
    *("MLFLOW_BACKEND_", "MLFLOW_DEFAULT_ARTIFACT_ROOT", "MLFLOW_ARTIFACTS_DESTINATION"),
    *("PREFECT_API_", "PREFECT_PROFILE", "PREFECT_SERVER_", "PREFECT_UI_", "PREFECT_WORK_POOL"),
)
_KEY_BYTES = 20


@dataclass(frozen=True)
class Launch:
    """How a part is started.

    Attributes:
        command: the program's path and its arguments; no secret is among them.
        env: what it finds in its environment beside what it inherits; secrets may be.
    """

    command: tuple[str, ...]
    env: dict[str, str]


@dataclass(frozen=True)
class Stack:
    """What `aesc up` chose.

    Attributes:
        folder: where the state lives.
        ports: of MLflow, Prefect, and each of `WEED_PORTS`.
        gpu_workers: how many workers serve the pool `gpu`.
        database: what the servers keep their knowledge in, without a password.
    """

    folder: Path
    ports: Mapping[str, int]
    gpu_workers: int
    database: str

    @property
    def names(self) -> tuple[str, ...]:
        """All parts, in the order in which they are started."""
        return (*SERVERS, *self.workers)

    @property
    def workers(self) -> dict[str, str]:
        """The name of each worker, and the pool that it serves."""
        many = [f"{GPU_WORKER}-{index}" for index in range(self.gpu_workers)]
        return {CPU_WORKER: POOLS[0]} | dict.fromkeys(many if self.gpu_workers > 1 else [GPU_WORKER], POOLS[1])

    @property
    def addresses(self) -> dict[str, str]:
        """Where each part is found; a worker on the page of its pool."""
        servers = {S3: self.ports["s3.port"], MLFLOW: self.ports[MLFLOW], PREFECT: self.ports[PREFECT]}
        urls = {name: f"http://{HOST}:{port}" for name, port in servers.items()}
        return urls | {name: f"{urls[PREFECT]}/work-pools/work-pool/{pool}" for name, pool in self.workers.items()}

    def log(self, name: str) -> Path:
        """What a part printed."""
        return self.folder / "logs" / f"{name}.log"

    @property
    def sockets(self) -> Path:
        """A folder for Unix sockets, whose paths must be shorter than 104 bytes."""
        inside = self.folder / "run"
        if len(os.fsencode(inside)) <= 64:
            return inside
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"aesc-{os.getuid()}-{digest}"

    def keys(self) -> dict[str, str]:
        """The S3 credentials, under the names that every S3 client looks for."""
        found: dict[str, str] = read_json(self.folder / "keys.json")
        return found

    def client_environment(self) -> dict[str, str]:
        """What a program needs to work with the stack; it holds the S3 secret."""
        urls = self.addresses
        proxies = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY", ""), HOST, "localhost"]
        no_proxy = ",".join(dict.fromkeys(part for text in proxies for part in text.split(",") if part))
        return {
            "PREFECT_API_URL": f"{urls[PREFECT]}/api",
            "MLFLOW_TRACKING_URI": urls[MLFLOW],
            "AWS_ENDPOINT_URL": urls[S3],
            "AWS_DEFAULT_REGION": REGION,
            **self.keys(),
            "AESC_DVC_REMOTE": "s3://dvc",
            "AESC_ARRIVALS": "s3://arrivals",
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
        }


def stack_folder(settings: Settings) -> Path:
    """Where a stack keeps its state."""
    return settings.state / "stack"


def find_stack(settings: Settings) -> Stack | None:
    """The stack that `aesc up` made here, whether it runs or not."""
    folder = stack_folder(settings)
    if not (folder / "stack.json").is_file():
        return None
    found = read_json(folder / "stack.json")
    return Stack(folder, found["ports"], found["gpu_workers"], found["database"])


def choose_stack(settings: Settings, *, gpu_workers: int, database: str) -> Stack:
    """A stack that can be started now: with the ports and keys of the last time, if there was one and they are free.

    Writes `stack.json` and, the first time, `keys.json`.
    """
    folder = stack_folder(settings)
    before = find_stack(settings)
    for path in (folder, folder / "logs", folder / "s3", folder / "prefect"):
        path.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    ports = {name: port for name, port in (before.ports if before else {}).items() if is_free(port)}
    missing = [name for name in (MLFLOW, PREFECT, *WEED_PORTS) if name not in ports]
    ports |= dict(zip(missing, free_ports(len(missing), taken=set(ports.values())), strict=True))
    stack = Stack(folder, ports, gpu_workers, database)
    if not (folder / "keys.json").exists():
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        write_private(folder / "keys.json", {name: secrets.token_hex(_KEY_BYTES) for name in names})
    write_json(folder / "stack.json", {"ports": ports, "gpu_workers": gpu_workers, "database": database})
    return stack


def sqlite_databases(folder: Path) -> Databases:
    """The sqlite files of both servers."""
    return Databases(
        prefect=f"sqlite+aiosqlite:///{folder / 'prefect' / 'prefect.db'}",
        mlflow=f"sqlite:///{folder / 'mlflow.db'}",
        name=SQLITE,
    )


def launches(stack: Stack, databases: Databases, gpus: Sequence[str]) -> dict[str, Launch]:
    """How every part is started; `gpus` are the devices that the gpu workers share out, none if there are none."""
    home = {"PREFECT_HOME": str(stack.folder / "prefect")}
    clients = stack.client_environment()
    s3 = {key: value for key, value in clients.items() if key.startswith("AWS_")}
    s3["MLFLOW_S3_ENDPOINT_URL"] = s3["AWS_ENDPOINT_URL"]
    port = {name: str(stack.ports[name]) for name in (MLFLOW, PREFECT)}
    no_proxy = {key: clients[key] for key in ("NO_PROXY", "no_proxy")}
    found = {
        S3: Launch(
            weed_command(
                stack.folder / "s3",
                identities=stack.folder / "s3.json",
                buckets=BUCKETS,
                ports=stack.ports,
                sockets=stack.sockets,
            ),
            {},
        ),
        MLFLOW: Launch(
            (
                *(str(executable("mlflow")), "server", "--host", HOST, "--port", port[MLFLOW], "--workers", "1"),
                *("--artifacts-destination", "s3://mlflow"),
            ),
            {**s3, **no_proxy, "MLFLOW_BACKEND_STORE_URI": databases.mlflow},
        ),
        PREFECT: Launch(
            (str(executable("prefect")), "server", "start", "--host", HOST, "--port", port[PREFECT]),
            {
                **(home | no_proxy),
                # aesc_prefect_plugin.py; what pyproject.toml says of it counts in the project's folder only.
                "PREFECT_PLUGINS_ENABLED": "true",
                "PREFECT_PLUGINS_ALLOW": "aesc",
                "PREFECT_SERVER_DATABASE_CONNECTION_URL": databases.prefect,
                # In memory, a restart of the server would leave the slots of its leases taken for ever.
                "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
                "PREFECT_SERVER_UI_API_URL": clients["PREFECT_API_URL"],  # the pages would ask port 4200
                "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            },
        ),
    }
    for index, (name, pool) in enumerate(stack.workers.items(), start=-1):
        limit = GPU_RUNS if pool == POOLS[1] else CPU_RUNS
        command = (
            *(str(executable("prefect")), "worker", "start", "--name", name, "--pool", pool, "--type", "process"),
            *("--limit", str(limit), "--install-policy", "never"),
        )
        env = home | clients
        if gpus:
            env["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)] if pool == POOLS[1] else ""
        found[name] = Launch(command, env)
    return found


def write_launches(stack: Stack, settings: Settings, parts: Mapping[str, Launch]) -> None:
    """Write what the parts are started with: private files, for secrets are among it."""
    keys = stack.keys()
    owner = s3_identity("owner", *keys.values(), actions=("Admin", "Read", "Write", "List", "Tagging"))
    write_private(stack.folder / "s3.json", {"identities": [owner]})
    # SeaweedFS keeps the options of its last start, and would take ports from there that the command does not name.
    (stack.folder / "s3" / "mini.options").unlink(missing_ok=True)
    own = {
        "AESC_ROOT": str(settings.root),
        "AESC_HOME": str(settings.state),
        "PATH": os.pathsep.join([str(executable("python").parent), os.environ.get("PATH", os.defpath)]),
    }
    for name, part in parts.items():
        write_private(
            stack.folder / "parts" / f"{name}.json",
            {
                "command": part.command,
                "cwd": str(settings.root if name in stack.workers else stack.folder),
                "forget": ELSEWHERE,
                "defaults": QUIET,
                "env": own | part.env,
            },
        )


def forget_launches(stack: Stack) -> None:
    """Remove what the parts were started with: a password of PostgreSQL stays on disk only while the stack runs."""
    for path in (stack.folder / "parts").glob("*.json"):
        path.unlink()


def weed_command(
    data: Path, *, identities: Path, buckets: Sequence[str], ports: Mapping[str, int], sockets: Path
) -> tuple[str, ...]:
    """SeaweedFS as one process on 127.0.0.1 that keeps `buckets` in the folder `data`."""
    return (
        str(executable("weed")),
        "-logtostderr",
        "mini",
        f"-dir={data}",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        f"-s3.config={identities}",
        f"-bucket={','.join(buckets)}",
        f"-s3.localSocket={sockets / 's3'}",
        f"-filer.localSocket={sockets / 'filer'}",
        *(f"-{name}={ports[name]}" for name in WEED_PORTS),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false", "-master.telemetry=false"),
    )


def s3_identity(name: str, access_key: str, secret_key: str, *, actions: Sequence[str]) -> dict[str, Any]:
    """One user of SeaweedFS, for its file of identities."""
    return {"name": name, "credentials": [{"accessKey": access_key, "secretKey": secret_key}], "actions": list(actions)}


def executable(name: str) -> Path:
    """The command `name` of the environment that runs this."""
    return Path(sys.executable).parent / name


def require_tools() -> None:
    """See that what the stack is made of is installed.

    Raises:
        AescError: something is not.
    """
    missing = [name for name in ("weed", "mlflow", "prefect", "supervisord") if not executable(name).is_file()]
    if missing:
        raise AescError(
            "aesc up",
            f"not installed beside {sys.executable}: {', '.join(missing)}",
            allowed="Linux, or macOS on Apple silicon, for which there are packages of all of them",
            todo="make setup, or: pip install --constraint constraints.txt --editable '.[stack]'",
        )


def find_gpus() -> list[str]:
    """The NVIDIA GPUs that CUDA_VISIBLE_DEVICES leaves, or all of them, by the names that this variable knows."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [part.strip() for part in named.split(",") if part.strip() and part.strip() != "-1"]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(index) for index, line in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]


def write_private(path: Path, value: Any) -> None:
    """Write JSON that only its owner can read, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # with mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
