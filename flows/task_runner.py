"""Where the shards of large work run: on threads of this process, or on a Ray cluster; AESC_TASK_RUNNER says which."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from logging import getLogger
from typing import Any
from urllib.parse import urlsplit

from prefect import Task
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from aesc.cores import cores
from aesc.errors import AescError
from tasks.settings import Settings

LOGGER = getLogger("aesc")
ANSWER_SECONDS = 10
TRIES = 3  # of one piece of work: a worker may die, an image that kills workers must not be tried for ever
# What workers of a cluster need to know of this process. No secrets: a cluster shows these variables to whoever looks.
HANDED_ON = ("AESC_HOME", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "CUDA_VISIBLE_DEVICES")


@contextmanager
def task_runner(settings: Settings) -> Iterator[TaskRunner[Any]]:
    """The started task runner that the settings name.

    Raises:
        AescError: Ray is asked for and not installed, or its cluster does not answer.
    """
    if settings.task_runner == "threads":
        threads: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=workers(settings))
        with threads:
            yield threads
        return
    try:
        from prefect_ray import RayTaskRunner
    except ImportError as error:
        raise AescError(
            "AESC_TASK_RUNNER=ray",
            f"Ray is not installed: {error}",
            allowed="threads, or ray where the extra `cluster` is installed",
            todo="pip install -c constraints.txt -e '.[cluster]', or unset AESC_TASK_RUNNER",
            usage=True,
        ) from None
    if settings.ray_address:
        _require_answer(settings.ray_address)
    environment = {key: os.environ[key] for key in HANDED_ON if key in os.environ}
    environment |= {"AESC_ROOT": str(settings.root), "AESC_HOME": str(settings.state)}
    options = {"runtime_env": {"env_vars": environment}, "log_to_driver": False}
    runner = RayTaskRunner(address=settings.ray_address, init_kwargs=options)
    try:
        runner.__enter__()
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _away(settings.ray_address or "this machine", error) from error
    try:
        yield runner
    finally:
        runner.__exit__(None, None, None)


def _require_answer(address: str) -> None:
    """Raise an AescError where nobody listens: Ray itself would try for minutes."""
    place = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        if not place.hostname or not place.port:
            raise ValueError("no host and port")
        socket.create_connection((place.hostname, place.port), timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _away(address, error) from error


def _away(address: str, error: Exception) -> AescError:
    return AescError(
        f"Ray at {address}",
        f"no cluster answers: {str(error).splitlines()[0]}",
        allowed="host:port of a running cluster",
        todo="start it (ray start --head), or correct AESC_RAY_ADDRESS",
        transient=True,
    )


def workers(settings: Settings) -> int:
    """Pieces of work at the same time: one a core, on a GPU two, so that one reads while the other computes."""
    if settings.task_runner == "ray":
        import ray

        return max(1, int(ray.cluster_resources().get("CPU", 1)))
    import torch

    return 2 if torch.cuda.is_available() else cores()


def run_all(
    runner: TaskRunner[Any],
    task: Task[Any, Any],
    pieces: Sequence[dict[str, Any]],
    *,
    at_a_time: int,
    on_done: Callable[[], object],
) -> list[Any]:
    """Run `task` once for each of `pieces` (its arguments), a bounded number of them submitted at a time.

    A piece whose worker was killed is done again.

    Returns:
        What the task returned for each piece, in their order.

    Raises:
        AescError: what the task raised; or a piece has killed its worker again and again.
    """
    flying: deque[tuple[int, int, PrefectFuture[Any]]] = deque()
    waiting = deque((at, 1) for at in range(len(pieces)))
    found: list[Any] = [None] * len(pieces)
    try:
        while flying or waiting:
            while waiting and len(flying) < 2 * at_a_time:
                at, number = waiting.popleft()
                flying.append((at, number, runner.submit(task, parameters=pieces[at])))
            at, number, future = flying.popleft()
            piece = pieces[at]
            future.wait()
            if not future.state.is_crashed():
                found[at] = future.result()  # or raises what the task raised
                on_done()
            elif number < TRIES:
                LOGGER.warning("the worker of %s died, it is done again: %s", piece, future.state.message)
                waiting.appendleft((at, number + 1))
            else:
                raise AescError(
                    f"{task.name} {piece}",
                    f"its worker died {number} times: {future.state.message}",
                    todo="look for what kills it: too little memory?",
                )
    except BaseException:
        for *_, future in flying:
            future.wait(timeout=0)
        raise
    return found
