"""The supervisor of the local stack: supervisord, asked over a Unix socket that only its owner can open.

It starts the parts again when they end, keeps their output in logs of bounded size, and stops each with everything
that it started. When and in what order parts start is said by `aesc up`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from aesc.errors import AescError
from tasks import launch
from tasks.stack import ELSEWHERE, MARK, SERVERS, Stack

_UP = {"RUNNING", "STARTING"}
_START_SECONDS = 60
_SERVER_SECONDS, _WORKER_SECONDS = 15, 30  # from the wish to stop to a kill; a worker first ends its runs
_STRAY_SECONDS = 10


class Process(NamedTuple):
    """What the supervisor says of a part."""

    state: str
    pid: int
    since: float

    @property
    def is_up(self) -> bool:
        """Whether there is a process."""
        return self.state in _UP and self.pid > 0

    @property
    def has_given_up(self) -> bool:
        """Whether the supervisor will not start it again by itself."""
        return self.state in {"FATAL", "UNKNOWN"}


def configuration(stack: Stack) -> str:
    """supervisord.conf: names and paths, no secret.

    Its paths are relative to the state's folder where they can be: supervisord expands some values twice, so that a %
    in a path cannot be escaped.

    Raises:
        AescError: the path of the state cannot be written into it.
    """
    python, launcher = sys.executable, str(Path(launch.__file__).resolve())
    for path in (python, launcher, str(stack.folder), str(stack.sockets)):
        if any(sign in path for sign in ("\n", " ;", " #", "\t;", "\t#")):
            raise AescError(path, "a path with ; or # after a space cannot be handed to the supervisor")
    root = ["user=root"] if os.geteuid() == 0 else []  # without it supervisord warns that it runs as root
    lines = [
        "[supervisord]",
        "logfile=supervisord.log",
        "logfile_maxbytes=5MB",
        "logfile_backups=1",
        "pidfile=supervisord.pid",
        "childlogdir=logs",
        *root,
        "[unix_http_server]",
        f"file={_escape(os.path.relpath(_socket(stack), stack.folder) if _is_inside(stack) else _socket(stack))}",
        "chmod=0700",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
    ]
    # Groups stop one after the other, the highest priority first: workers can still tell the servers what they end.
    groups = {"servers": list(SERVERS), "workers": list(stack.workers)}
    for priority, (group, names) in enumerate(groups.items(), start=1):
        lines += [f"[group:{group}]", f"programs={','.join(names)}", f"priority={priority}"]
    for name in stack.names:
        lines += [
            f"[program:{name}]",
            f"command={_escape(shlex.join([python, launcher]))} parts/{name}.json",
            "autostart=false",
            "autorestart=true",
            "startsecs=10",
            "startretries=3",
            f"stopwaitsecs={_WORKER_SECONDS if name in stack.workers else _SERVER_SECONDS}",
            "stopasgroup=true",
            "killasgroup=true",
            "redirect_stderr=true",
            f"stdout_logfile=logs/{name}.log",
            "stdout_logfile_maxbytes=10MB",
            "stdout_logfile_backups=2",
        ]
    return "\n".join(lines) + "\n"


def start_supervisor(stack: Stack) -> None:
    """Start supervisord, which then runs in the background; no part runs yet.

    Raises:
        AescError: it does not start.
    """
    sockets = _private_folder(stack.sockets)
    configured = stack.folder / "supervisord.conf"
    configured.write_text(configuration(stack), encoding="utf-8")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ELSEWHERE)}
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(configured)],
        cwd=stack.folder,  # the paths of the configuration are relative to it
        env=kept | {MARK: str(stack.folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C in the terminal is for `aesc up`
        check=False,
    )
    end = time.monotonic() + _START_SECONDS
    while done.returncode == 0 and time.monotonic() < end:
        if is_supervised(stack):
            return
        time.sleep(0.1)
    log = stack.folder / "supervisord.log"
    raise AescError(
        "supervisord", f"did not start: {done.stdout.strip() or tail(log)}", todo=f"see {log} and {sockets}"
    )


def is_supervised(stack: Stack) -> bool:
    """Whether the stack's supervisor answers."""
    try:
        with _supervisor(stack) as supervisor:
            supervisor.getState()
    except (OSError, HTTPException):
        return False
    return True


def processes(stack: Stack) -> dict[str, Process]:
    """What the supervisor says of every part; nothing if it does not run."""
    try:
        with _supervisor(stack) as supervisor:
            told = supervisor.getAllProcessInfo()
    except (OSError, HTTPException):
        return {}
    return {one["name"]: Process(one["statename"], one["pid"], float(one["start"])) for one in told}


def start_parts(stack: Stack, names: Iterable[str]) -> list[str]:
    """Start those of the parts that do not run, without waiting for them; their names."""
    started = []
    known = processes(stack)
    with _supervisor(stack) as supervisor:
        for name in names:
            if not known[name].is_up:
                # Somebody may have been quicker, or the supervisor itself.
                with suppress(xmlrpc.client.Fault):
                    supervisor.startProcess(f"{_group(stack, name)}:{name}", False)
                started.append(name)
    return started


def stop_stack(stack: Stack) -> tuple[list[str], int]:
    """Stop the supervisor, and with it workers, then servers, and whatever they left behind.

    Returns:
        The names of the parts that ran, and how many processes outlived the supervisor.
    """
    ran = [name for name, process in processes(stack).items() if process.is_up]
    with suppress(OSError, HTTPException, xmlrpc.client.Fault), _supervisor(stack) as supervisor:
        supervisor.shutdown()
    import psutil

    # A socket that something removed, or a supervisor that was killed, must not keep the stack alive.
    psutil.wait_procs(_of_stack(stack, "supervisord"), timeout=_WORKER_SECONDS + _SERVER_SECONDS + 15)
    strays = stop_strays(stack)
    if not _is_inside(stack):
        shutil.rmtree(stack.sockets, ignore_errors=True)
    return ran, strays


def stop_strays(stack: Stack) -> int:
    """Stop processes of the stack that have no supervisor, as after a kill of it; how many there were."""
    import psutil

    strays = _of_stack(stack)
    for stop in (psutil.Process.terminate, psutil.Process.kill):
        for process in strays:
            with suppress(psutil.Error):
                stop(process)
        _, strays_left = psutil.wait_procs(strays, timeout=_STRAY_SECONDS)
        if not strays_left:
            break
    return len(strays)


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return "(there is no log)"


def _of_stack(stack: Stack, program: str = "") -> list[Any]:
    """Processes that carry the stack's mark and have `program` in their command line; this one and its parents not."""
    import psutil

    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid in mine or process.environ().get(MARK) != str(stack.folder):
                continue
            if any(program in word for word in process.cmdline()):
                found.append(process)
    return found


def _group(stack: Stack, name: str) -> str:
    return "workers" if name in stack.workers else "servers"


def _is_inside(stack: Stack) -> bool:
    return stack.sockets.parent == stack.folder


def _socket(stack: Stack) -> Path:
    return stack.sockets / "supervisord"


@contextmanager
def _supervisor(stack: Stack) -> Iterator[Any]:
    """The supervisor's methods.

    Raises:
        OSError, HTTPException: nothing listens, or it stopped in the middle of an answer.
    """
    from supervisor.xmlrpc import SupervisorTransport

    transport = SupervisorTransport(serverurl=f"unix://{_socket(stack)}")
    try:
        yield xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor
    finally:
        transport.close()


def _escape(text: object) -> str:
    return str(text).replace("%", "%%")


def _private_folder(path: Path) -> Path:
    """Make a folder that nobody else can enter; it may lie in a folder that everybody can write to.

    Raises:
        AescError: it is somebody else's.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode):
        raise AescError(path, "is not this user's own folder", todo="remove it, or set TMPDIR to another folder")
    path.chmod(0o700)
    return path
