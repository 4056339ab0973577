"""Between Postgres and rows.py: tuples in the order of the SQL fragments become rows, rows become JSON records."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from niyanta.lifecycle import Door, Phase
from niyanta.store.rows import AttemptRow, CustomerRow, EventRow, WorkloadIntake, WorkloadRow

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_PHASES = {phase.name: phase for phase in Phase}
_DOORS = {door.value: door for door in Door}


def to_us(moment: datetime) -> int:
    """Microseconds since 1970, exact."""
    return (moment - EPOCH) // _MICROSECOND


def from_us(us: int) -> datetime:
    """The inverse of `to_us`."""
    return EPOCH + timedelta(microseconds=us)


def checked_id(text: str) -> str:
    """`text` as Postgres writes a UUID; ValueError if it is none."""
    return str(uuid.UUID(text))


def phase_of(name: str) -> Phase:
    """The phase of a `status` column."""
    return _PHASES[name]


def workload_row(record: tuple[Any, ...]) -> WorkloadRow:
    """A tuple in the order of the SQL fragment `row`."""
    values = list(record)
    values[1] = _DOORS[values[1]]
    values[11] = _PHASES[values[11]]
    values[25] = tuple(values[25])
    if values[29]:
        values[29] = {worker: datetime.fromisoformat(until) for worker, until in values[29].items()}
    return WorkloadRow(*values)


def event_row(record: tuple[Any, ...]) -> EventRow:
    """A tuple in the order of `events_of`."""
    values = list(record)
    values[4] = None if values[4] is None else _PHASES[values[4]]
    values[5] = _PHASES[values[5]]
    values[7] = tuple(values[7])
    return EventRow(*values)


def customer_row(row: tuple[Any, ...]) -> CustomerRow:
    """A row of the table customers."""
    name, tier, limits, spaces, generation, deleted, accounts, secrets, scope = row
    return CustomerRow(name, tier, limits, tuple(spaces), generation, deleted, tuple(accounts), tuple(secrets), scope)


def attempt_row(record: tuple[Any, ...]) -> AttemptRow:
    """A tuple in the order of `attempts_of`."""
    values = list(record)
    values[2] = tuple(values[2])
    return AttemptRow(*values)


def state_record(row: WorkloadRow) -> dict[str, Any]:
    """The columns of workload_state that a transition or an edit may write."""
    return {
        "id": row.id,
        "class_id": row.class_id,
        "status": row.phase.name,
        "version": row.version,
        "priority": row.priority,
        "tier_weight": row.tier_weight,
        "queue_key": row.queue_key,
        "queued_at": from_us(row.queued_at_us),
        "attempt": row.attempt,
        "failures": row.failures,
        "rejections": row.rejections,
        "not_before": row.not_before,
        "wake_at": row.wake_at,
        "paused_at": row.paused_at,
        "scheduled_at": row.scheduled_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "pool": row.pool,
        "workers": row.workers,
        "score": row.score,
        "reason": row.reason,
        "message": row.message,
        "excluded": row.excluded,
    }


def spec_record(row: WorkloadRow) -> dict[str, Any]:
    """The columns of workloads."""
    return {
        "id": row.id,
        "door": row.door.value,
        "namespace": row.namespace,
        "name": row.name,
        "customer_id": row.customer,
        "type": row.type,
        "labels": row.labels,
        "generation": row.generation,
        "spec": row.spec,
        "class_id": row.class_id,
        "replicas": row.replicas,
        "created_at": row.created_at,
    }


def new_row(intake: WorkloadIntake, now_us: int, queue_key: int) -> WorkloadRow:
    """The first row of a workload that was never seen before."""
    now = from_us(now_us)
    waits_outside = intake.phase in (Phase.HELD, Phase.SUSPENDED)
    return WorkloadRow(
        id=intake.id,
        door=intake.door,
        namespace=intake.namespace,
        name=intake.name,
        customer=intake.customer,
        type=intake.type,
        labels=dict(intake.labels),
        generation=intake.generation,
        spec=dict(intake.spec),
        class_id=intake.class_id,
        replicas=intake.replicas,
        phase=intake.phase,
        version=1,
        priority=intake.priority,
        tier_weight=intake.tier_weight,
        queued_at_us=now_us,
        queue_key=queue_key,
        reason=intake.reason,
        message=intake.message,
        wake_at=None if intake.wake_in_seconds is None else now + timedelta(seconds=intake.wake_in_seconds),
        finished_at=now if intake.phase.terminal else None,
        created_at=now,
        paused_at=now if waits_outside else None,
    )


def dumps(value: Any) -> str:
    """JSON text that jsonb takes: NUL characters, which Postgres can't store, become U+FFFD."""
    data = orjson.dumps(value)
    if b"\\u0000" in data:
        data = orjson.dumps(_without_nul(value))
    return data.decode()


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, Mapping):
        return {_without_nul(key): _without_nul(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nul(item) for item in value]
    return value
