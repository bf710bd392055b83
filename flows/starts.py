"""A flow run that is killed again and again is not started for ever."""

from __future__ import annotations

from prefect.runtime import flow_run

from aesc.errors import AescError

MOST_STARTS = 6  # of one flow run: the server puts one that crashed back into its queue, see flows/automations.py


def require_few_starts(then: str = "start a new run: it takes up what is finished") -> None:
    """Fail, which ends a flow run for good, where crashing would have it started for ever; `then` says how to go on."""
    if (starts := flow_run.run_count or 0) > MOST_STARTS:
        raise AescError(
            f"flow run {flow_run.name}",
            f"its process was killed {starts - 1} times",
            allowed=f"{MOST_STARTS} starts",
            todo=f"find out what kills it (too little memory?), then {then}",
        )
