"""Automations: a run whose process, worker or machine was killed is found by its silence, and taken up again.

A flow run sends a heartbeat every 30 seconds (PREFECT_FLOWS_HEARTBEAT_FREQUENCY in prefect.yaml). The server does the
rest, because it is there when a whole machine is not:

- A run that has fallen silent is put back into its queue, and the next worker takes it up. `retrain` finds its run
  folder by its key and goes on from the checkpoint. Ingestion, monitoring, inspection and rollback are marked as
  crashed instead: the first two come again by their schedules, the others have somebody who waits for them.
- A run that a worker took and never began, because the worker was killed in between, is put back too.

Silence is waited for even where a worker reports a crash at once: a worker with a limit dies of a run that comes back
while it still counts it ("this borrower is already holding one of this CapacityLimiter's tokens").

A run is put back once for each beginning, so one that dies before its first line is not started for ever. How often it
may begin is the flow's own rule, see `flows/starts.py`.
"""

from __future__ import annotations

from datetime import timedelta

from prefect import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

TAKEN_UP_AGAIN = ("retrain", "retrain-all", "promote")
GIVEN_UP = ("ingest", "inspect", "monitor", "rollback")
SILENCE = timedelta(minutes=5)  # ten heartbeats; a server that was away for longer takes live runs for dead ones
START = timedelta(minutes=30)  # from a worker's taking a run to its first line: a node and an image may be fetched

_HEARTBEAT = "prefect.flow-run.heartbeat"
_TAKEN = {f"prefect.flow-run.{state}" for state in ("Pending", "Submitting", "InfrastructurePending")}
_BEGUN = {f"prefect.flow-run.{state}" for state in ("Running", "Rerunning", "Retrying")}
_ENDED = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Cancelling")}
_CRASHED = "prefect.flow-run.Crashed"
_PUT_BACK = {f"prefect.flow-run.{state}" for state in ("Scheduled", "AwaitingRetry", "Late")}  # perhaps by a person


def create_automations(*, silence: timedelta = SILENCE, start: timedelta = START) -> list[str]:
    """Make the automations on the server that PREFECT_API_URL names; safe to repeat, after an upgrade too.

    One that is as it should be is not touched: a change would forget the runs that it is watching.

    Args:
        silence: a run without a heartbeat for as long was killed. Heartbeats come every 30 s.
        start: a run that a worker took, and that has not begun for as long, never will.

    Returns:
        The automations' names.
    """
    wanted = [_take_up_silent(silence), _give_up_silent(silence), _put_back_stuck(start)]
    with get_client(sync_client=True) as client:
        for automation in wanted:
            existing = client.read_automations_by_name(automation.name)
            for one in existing[1:]:
                client.delete_automation(one.id)
            if not existing:
                client.create_automation(automation)
            elif _content(existing[0]) != _content(automation):
                client.update_automation(existing[0].id, automation)
    return [automation.name for automation in wanted]


def _take_up_silent(silence: timedelta) -> AutomationCore:
    return AutomationCore(
        name="aesc: a silent run is taken up again",
        description=f"Puts a run back into its queue that has sent no heartbeat for {_seconds(silence)}.",
        # A crash that a worker reported is a silence too, and no end.
        trigger=_unless(_ENDED | _PUT_BACK | {_HEARTBEAT}, after={_HEARTBEAT}, within=silence, flows=TAKEN_UP_AGAIN),
        actions=[_put_back(f"no heartbeat for {_seconds(silence)}: its process was killed, and is started again")],
    )


def _give_up_silent(silence: timedelta) -> AutomationCore:
    message = f"no heartbeat for {_seconds(silence)}: its process was killed"
    return AutomationCore(
        name="aesc: a silent run has crashed",
        description=f"Marks a run as crashed that has sent no heartbeat for {_seconds(silence)}.",
        trigger=_unless(
            _ENDED | _PUT_BACK | {_HEARTBEAT, _CRASHED}, after={_HEARTBEAT}, within=silence, flows=GIVEN_UP
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=message)],
    )


def _put_back_stuck(start: timedelta) -> AutomationCore:
    return AutomationCore(
        name="aesc: a run that never begins is put back",
        description=f"Puts a run back that a worker took and has not begun for {_seconds(start)}.",
        trigger=_unless(
            _BEGUN | _ENDED | _PUT_BACK | {_CRASHED}, after=_TAKEN, within=start, flows=TAKEN_UP_AGAIN + GIVEN_UP
        ),
        actions=[_put_back(f"taken by a worker, but not begun for {_seconds(start)}")],
    )


def _unless(expect: set[str], *, after: set[str], within: timedelta, flows: tuple[str, ...]) -> EventTrigger:
    """Fires for each run of these flows if `within` passes after one of `after` without one of `expect`.

    An event that is in both begins a new wait.
    """
    return EventTrigger(
        after=after,
        expect=expect,
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related=[
            {"prefect.resource.role": "flow", "prefect.resource.name": list(flows)},
            {"prefect.resource.role": "deployment"},  # no other run can be given to a worker
        ],
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=within,
    )


def _put_back(message: str) -> ChangeFlowRunState:
    return ChangeFlowRunState(state=StateType.SCHEDULED, name="AwaitingRetry", message=message)


def _seconds(time: timedelta) -> str:
    return f"{time.total_seconds():.0f} s"


def _content(automation: AutomationCore) -> dict[str, object]:
    """What an automation does, without the ids that the server gave it."""
    wanted = {"name", "description", "enabled", "trigger", "actions"}
    found = automation.model_dump(mode="json", include=wanted)
    for key in ("after", "expect", "for_each"):
        found["trigger"][key] = sorted(found["trigger"][key])
    found["trigger"].pop("id", None)
    return found
