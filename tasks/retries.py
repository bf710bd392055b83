"""Which failures are worth another try, and how tasks that touch network or disk try again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.tasks import exponential_backoff

from aesc.errors import AescError

P = ParamSpec("P")
R = TypeVar("R")
RETRIES = 2
FIRST_DELAY = 3  # seconds, doubled each time


def not_a_mistake(task: Any, run: Any, state: Any) -> bool:
    """Retry faults of network and disk; a person's mistake stays one however often it is tried."""
    try:
        state.result()
    except Exception as error:
        return error.transient if isinstance(error, AescError) else True
    return True


def retried_task(*, task_run_name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Prefect's `task` for what may fail for a moment: tried again with growing delays, unless it is a mistake."""
    return task(
        task_run_name=task_run_name,
        retries=RETRIES,
        retry_delay_seconds=exponential_backoff(backoff_factor=FIRST_DELAY),
        retry_condition_fn=not_a_mistake,
    )
