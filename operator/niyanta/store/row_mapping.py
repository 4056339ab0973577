"""Mapping between Postgres and `rows`: records become rows by the names in `columns`, rows become JSON records."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from niyanta.containment import Boundary
from niyanta.containment import record as record_error
from niyanta.lifecycle import Door, Phase
from niyanta.store import columns
from niyanta.store.errors import RowEncodingError
from niyanta.store.rows import (
    AttemptRow,
    CustomerRow,
    EventRow,
    PoolRow,
    WorkerRequest,
    WorkerRow,
    WorkloadIntake,
    WorkloadRow,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
Row = TypeVar("Row", bound="DataclassInstance")
_PHASES = {phase.name: phase for phase in Phase}
_DOORS = {door.value: door for door in Door}


def to_us(moment: datetime) -> int:
    """Microseconds since 1970, exact."""
    return (moment - EPOCH) // _MICROSECOND


def from_us(us: int) -> datetime:
    """The inverse of `to_us`."""
    return EPOCH + timedelta(microseconds=us)


def checked_id(text: str) -> str:
    """`text` as Postgres writes a UUID; ValueError if it is not a UUID."""
    return str(uuid.UUID(text))


def phase_of(name: str) -> Phase:
    """The phase in a `status` column."""
    return _PHASES[name]


def row_mapper(
    kind: type[Row], columns: Mapping[str, str], **conversions: Callable[[Any], Any]
) -> Callable[[Sequence[Any]], Row]:
    """A function that makes a `kind` from a record whose first columns are `columns`, matched by name.

    `conversions`: field -> function for its value. Raises TypeError here, not at the first row, when fields
    and columns differ.
    """
    names = [field.name for field in fields(kind)]
    if set(names) != set(columns):
        raise TypeError(f"columns of {kind.__name__} that differ: {sorted(set(names) ^ set(columns))}")
    places = {name: place for place, name in enumerate(columns)}
    # Compiled, as dataclasses are: with 10,000 rows, a loop over the fields takes 1.5 times as long.
    values = (f"to_{n}(record[{places[n]}])" if n in conversions else f"record[{places[n]}]" for n in names)
    scope = {f"to_{name}": convert for name, convert in conversions.items()} | {"kind": kind}
    make: Callable[[Sequence[Any]], Row] = eval(f"lambda record: kind({', '.join(values)})", scope)  # noqa: S307
    return make


def _excluded(value: dict[str, str]) -> dict[str, Any]:
    return {worker: moment for worker, until in value.items() if (moment := _moment(until))} if value else value


def _moment(text: object) -> datetime | None:
    """The time; None for anything else, because one row must not make the reads of others fail."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo is not None else None


def _pools(value: list[str] | None) -> tuple[str, ...]:
    return tuple(value) if value else ()


def _phase_or_none(name: str | None) -> Phase | None:
    return None if name is None else _PHASES[name]


workload_row = row_mapper(
    WorkloadRow,
    columns.WORKLOAD,
    door=_DOORS.__getitem__,
    phase=_PHASES.__getitem__,
    workers=tuple,
    pools=_pools,
    excluded=_excluded,
)
_ID = tuple(columns.WORKLOAD).index("id")


def record_id(record: Sequence[Any]) -> str:
    """The id in a record of `workload_row`, which is readable also if the rest is not. Paging goes on by it."""
    return str(record[_ID])


def workload_rows(records: Iterable[Sequence[Any]]) -> list[WorkloadRow]:
    """The rows of these records. One that can't be mapped is logged, counted and left out: rows that an older release
    stored were never checked (migration 0009), and one of them must not make the reads of others fail."""
    return [row for record in records if (row := readable_row(record)) is not None]


def readable_row(record: Sequence[Any]) -> WorkloadRow | None:
    """The row of a record; None if it can't be mapped, which is logged and counted."""
    try:
        return workload_row(record)
    except Exception as error:
        record_error(Boundary.ROW, record_id(record), error)
        return None


event_row = row_mapper(EventRow, columns.EVENT, from_phase=_phase_or_none, to_phase=_PHASES.__getitem__, workers=tuple)
attempt_row = row_mapper(AttemptRow, columns.ATTEMPT, workers=tuple, pools=_pools)
worker_row = row_mapper(WorkerRow, columns.WORKER)
customer_row = row_mapper(CustomerRow, columns.CUSTOMER, namespaces=tuple, service_accounts=tuple, secrets=tuple)
pool_row = row_mapper(PoolRow, columns.POOL)
worker_request = row_mapper(WorkerRequest, columns.WORKER_REQUEST)


def state_record(row: WorkloadRow) -> dict[str, Any]:
    """The columns of workload_state that a transition or an edit writes."""
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
        "waited_us": row.waited_us,
        "waiting_since": row.waiting_since,
        "scheduled_at": row.scheduled_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "pool": row.pool,
        "workers": row.workers,
        "pools": row.pools or None,
        "score": row.score,
        "reason": row.reason,
        "message": row.message,
        "excluded": row.excluded,
    }


def spec_record(row: WorkloadRow) -> dict[str, Any]:
    """The columns of workloads. `queue_class` of the row is the base still, without the visible labels."""
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
        "queue_base": row.queue_class or None,
    }


def new_row(intake: WorkloadIntake, now_us: int, queue_key: int) -> WorkloadRow:
    """The row of a new workload."""
    now = from_us(now_us)
    is_off_queue = intake.phase in (Phase.HELD, Phase.SUSPENDED)
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
        finished_at=now if intake.phase.terminal else None,
        created_at=now,
        paused_at=now if is_off_queue else None,
        queue_class=intake.queue_class,
        waiting_since=now if intake.phase is Phase.PENDING else None,
    )


def dumps(value: Any) -> str:
    """JSON text that jsonb takes: NUL characters, which Postgres can't store, become U+FFFD.

    Raises RowEncodingError (integers over 64 bits, more than 254 levels, lone surrogates).
    """
    try:
        data = orjson.dumps(value)
    except orjson.JSONEncodeError as error:
        raise RowEncodingError(str(error)) from error
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
