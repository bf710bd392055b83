"""Automations: a run whose worker was killed is found by its silence, and taken up again.

A flow run sends a heartbeat every 30 seconds (PREFECT_FLOWS_HEARTBEAT_FREQUENCY in prefect.yaml). The server does the
rest, because it is there when a whole machine is not:

- A run that has fallen silent, or that a worker took and never started, is marked as crashed.
- A crashed run that had begun is put back into its queue, and the next worker takes it up. `retrain` finds its run
  folder by its key and goes on from the checkpoint.

Both only see runs of the deployments in `WATCHED`. How often one run may begin is the flow's own rule, see
`flows.retrain.MOST_STARTS`; a run that crashes before it begins is not put back at all.
"""

from __future__ import annotations

from datetime import timedelta

from prefect import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

WATCHED = ("retrain", "retrain-all", "ingest", "inspect")
TAKEN_UP_AGAIN = ("retrain", "retrain-all")
SILENCE = timedelta(minutes=3)  # six heartbeats: less would take a busy machine for a dead one
START = timedelta(minutes=15)  # from a worker's taking a run to its first line: an image may have to be fetched
FORGOTTEN = timedelta(days=30)

_HEARTBEAT = "prefect.flow-run.heartbeat"
_BEGUN = {f"prefect.flow-run.{state}" for state in ("Running", "Rerunning", "Retrying")}
_TAKEN = {"prefect.flow-run.Pending"}
_CRASHED = {"prefect.flow-run.Crashed"}
_OVER = _CRASHED | {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Cancelling")}
# Scheduled once more, by a person or by the last automation.
_PUT_BACK = {f"prefect.flow-run.{state}" for state in ("Scheduled", "AwaitingRetry", "Late")}


def create_automations(*, silence: timedelta = SILENCE, start: timedelta = START) -> list[str]:
    """Make the automations on the server that PREFECT_API_URL names; safe to repeat, after an upgrade too.

    One that is as it should be is not touched: a change would forget the runs that it is watching.

    Args:
        silence: a run without a heartbeat for as long has crashed. Heartbeats come every 30 s.
        start: a run that a worker took, and that has not begun for as long, has crashed.

    Returns:
        The automations' names.
    """
    wanted = [_mark_silent(silence), _mark_stuck(start), _take_up_again()]
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


def _mark_silent(silence: timedelta) -> AutomationCore:
    return AutomationCore(
        name="aesc: a silent run has crashed",
        description=f"Marks a run as crashed that has sent no heartbeat for {silence.total_seconds():.0f} s.",
        trigger=EventTrigger(
            # Each heartbeat begins a new wait, for the next one or for the end of the run.
            after={_HEARTBEAT},
            expect={_HEARTBEAT} | _OVER | _PUT_BACK,
            **_of(WATCHED),
            posture=Posture.Proactive,
            threshold=1,
            within=silence,
        ),
        actions=[_crash(f"no heartbeat for {silence.total_seconds():.0f} s: the worker or its machine was killed")],
    )


def _mark_stuck(start: timedelta) -> AutomationCore:
    return AutomationCore(
        name="aesc: a run that never begins has crashed",
        description=f"Marks a run as crashed that a worker took and has not begun for {start.total_seconds():.0f} s.",
        trigger=EventTrigger(
            after=_TAKEN,
            expect=_BEGUN | _OVER | _PUT_BACK,
            **_of(WATCHED),
            posture=Posture.Proactive,
            threshold=1,
            within=start,
        ),
        actions=[_crash(f"taken by a worker, but not begun for {start.total_seconds():.0f} s")],
    )


def _take_up_again() -> AutomationCore:
    return AutomationCore(
        name="aesc: a crashed run is taken up again",
        description="Puts a crashed run back into its queue; what was finished is kept, and it goes on from there.",
        trigger=EventTrigger(
            # One crash for one beginning: a run that dies before its first line would be started for ever.
            after=_BEGUN,
            expect=_CRASHED,
            **_of(TAKEN_UP_AGAIN),
            posture=Posture.Reactive,
            threshold=1,
            within=FORGOTTEN,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.SCHEDULED, name="AwaitingRetry", message="its process was killed: taken up again"
            )
        ],
    )


def _of(flows: tuple[str, ...]) -> dict[str, dict[str, str] | list[dict[str, str | list[str]]] | set[str]]:
    """Each run of these flows by itself; only a run of a deployment can be given to another worker."""
    return {
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "match_related": [
            {"prefect.resource.role": "flow", "prefect.resource.name": list(flows)},
            {"prefect.resource.role": "deployment"},
        ],
        "for_each": {"prefect.resource.id"},
    }


def _crash(message: str) -> ChangeFlowRunState:
    return ChangeFlowRunState(state=StateType.CRASHED, message=message)


def _content(automation: AutomationCore) -> dict[str, object]:
    """What an automation does, without the ids that the server gave it."""
    wanted = {"name", "description", "enabled", "trigger", "actions"}
    found = automation.model_dump(mode="json", include=wanted)
    for key in ("after", "expect", "for_each"):
        found["trigger"][key] = sorted(found["trigger"][key])
    found["trigger"].pop("id", None)
    return found
