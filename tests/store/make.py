"""Short ways to make intakes and to bring rows into a phase."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

from niyanta.lifecycle import Event, Phase
from niyanta.store.rows import Change, Intake, WorkloadRow
from niyanta.store.state import StateManager

ROADS: dict[Phase, tuple[Event, ...]] = {
    Phase.PENDING: (),
    Phase.HELD: (Event.HOLD,),
    Phase.SUSPENDED: (Event.SUSPEND,),
    Phase.SCHEDULED: (Event.PLACE,),
    Phase.RUNNING: (Event.PLACE, Event.START),
    Phase.SUCCEEDED: (Event.PLACE, Event.START, Event.SUCCEED),
    Phase.FAILED: (Event.FAIL,),
    Phase.CANCELLED: (Event.CANCEL,),
}
"""A legal way from Pending to each phase."""


def intake(**changes: Any) -> Intake:
    first = Intake(
        id=str(uuid.uuid4()),
        door="kubernetes",
        namespace="team",
        name="job",
        customer="acme",
        type="render",
        labels={"app": "x"},
        generation=1,
        spec={"priority": 10},
        class_id="class-a",
        replicas=1,
        priority=10,
        tier_weight=10,
    )
    return replace(first, **changes)


def change(row: WorkloadRow, event: Event, **more: Any) -> Change:
    """A change that `row` allows as far as version and workers are concerned."""
    if event is Event.PLACE:
        more = {"workers": ("w1",) * row.replicas, "pool": "pool-a", "score": 73.33, **more}
    return Change(id=row.id, version=row.version, event=event, **more)


async def move(state: StateManager, row: WorkloadRow, event: Event, *, epoch: int, **more: Any) -> WorkloadRow:
    """One transition that must succeed."""
    result = await state.update_workload_status_batch([change(row, event, **more)], epoch=epoch)
    assert (result.stale, result.illegal) == ([], [])
    (moved,) = result.applied
    return moved


async def arrive(state: StateManager, *, epoch: int, phase: Phase = Phase.PENDING, **changes: Any) -> WorkloadRow:
    """A new workload, brought into `phase`."""
    (row,) = await state.take_in([intake(**changes)], epoch=epoch)
    for event in ROADS[phase]:
        row = await move(state, row, event, epoch=epoch)
    return row
