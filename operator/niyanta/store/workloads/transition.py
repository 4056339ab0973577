"""One transition of one row, as a pure function: what `lifecycle.next_phase` allows, and what it does to the columns.

`commit.apply_changes` calls it between reading the locked rows and writing them back.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from niyanta.lifecycle import Event, Phase, next_phase
from niyanta.store.row_mapping import from_us, to_us
from niyanta.store.rows import RowChange, WorkloadRow
from niyanta.store.workloads.queue_key import QueueKeys

_OFF_QUEUE = (Phase.HELD, Phase.SUSPENDED)


class InvalidChangeError(ValueError):
    """A PLACE without workers, or with an attempt that is over already."""


def transition(row: WorkloadRow, change: RowChange, *, now_us: int, keys: QueueKeys) -> WorkloadRow:
    """The row after `change`. `now_us`: µs of the database clock.

    Raises IllegalTransitionError, InvalidChangeError. The caller has compared the versions.
    """
    to = next_phase(row.phase, change.event)
    now = from_us(now_us)
    values: dict[str, Any] = {
        "phase": to,
        "version": row.version + 1,
        "reason": change.reason,
        "message": change.message,
        "wake_at": None if change.wake_in_seconds is None else now + timedelta(seconds=change.wake_in_seconds),
    }
    if change.not_before_seconds is not None:
        values["not_before"] = now + timedelta(seconds=change.not_before_seconds)
    if row.excluded or change.excluded:
        values["excluded"] = {worker: until for worker, until in row.excluded.items() if until > now} | {
            worker: now + timedelta(seconds=seconds) for worker, seconds in change.excluded.items()
        }
    if change.event is Event.PLACE:
        values |= _placed(row, change) | {"scheduled_at": now}
    elif change.event is Event.START:
        values |= {"started_at": now, "rejections": 0}
    elif to.terminal:
        values |= {"finished_at": now, "paused_at": None}
    elif row.phase.bound:
        values |= {"workers": (), "pool": "", "score": None, "scheduled_at": None, "started_at": None}
    if change.event is Event.RETRY:
        values["failures"] = row.failures + 1
    elif change.event is Event.REQUEUE and change.counts:
        values["rejections"] = row.rejections + 1
    values |= _waiting(row, change, to=to, now_us=now_us)
    queued_at_us = values.get("queued_at_us", row.queued_at_us)
    values["queue_key"] = keys.key(row.priority, row.tier_weight, queued_at_us)
    return replace(row, **values)


def _placed(row: WorkloadRow, change: RowChange) -> dict[str, Any]:
    """What a placement writes. An attempt may skip numbers (pods adopted after a restore) but never goes back."""
    attempt = row.attempt + 1 if change.attempt is None else change.attempt
    if not change.workers or len(change.workers) != row.replicas:
        raise InvalidChangeError(f"{row.id}: {row.replicas} workers wanted, given {change.workers}")
    if attempt <= row.attempt:
        raise InvalidChangeError(f"{row.id}: attempt {attempt} isn't after {row.attempt}")
    return {
        "attempt": attempt,
        "workers": tuple(change.workers),
        "pool": change.pool or "",
        "score": change.score,
        "started_at": None,
        "not_before": None,
    }


def _waiting(row: WorkloadRow, change: RowChange, *, to: Phase, now_us: int) -> dict[str, Any]:
    """Keep time spent outside the queue from aging, by moving `queued_at` forward by as much.

    A backoff is known when it begins, so it is added at once; a pause that begins inside one counts from its end.
    """
    if to in _OFF_QUEUE and row.paused_at is None:
        pause_us = max(now_us, to_us(row.not_before)) if row.not_before else now_us
        return {"paused_at": from_us(pause_us)}
    if row.phase in _OFF_QUEUE and to is Phase.PENDING:
        paused_us = max(0, now_us - to_us(row.paused_at)) if row.paused_at else 0
        return {"paused_at": None, "queued_at_us": row.queued_at_us + paused_us}
    if row.phase.bound and to is Phase.PENDING and change.not_before_seconds:
        return {"queued_at_us": row.queued_at_us + round(change.not_before_seconds * 1_000_000)}
    return {}
