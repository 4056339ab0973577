"""Time that a workload has waited, by the database's clock.

Only time in which it could have been placed counts: Pending and not in a backoff. Runs, Held and Suspended don't count.
While it waits, `queued_at` is the start of the waiting less the time waited before, so that its queue key is constant.
`transitions` applies these rules; `door_move` in the migrations has the same ones in SQL.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from niyanta.lifecycle import Phase
from niyanta.store.row_mapping import from_us, to_us
from niyanta.store.rows import WorkloadRow

_OFF_QUEUE = (Phase.HELD, Phase.SUSPENDED)


def waited_us(row: WorkloadRow, now_us: int) -> int:
    """µs that the row has waited until now. Rows that an earlier release moved have no times of their own."""
    since, left = row.waiting_since, row.scheduled_at or row.paused_at
    if row.phase is Phase.PENDING:
        return max(0, now_us - row.queued_at_us) if since is None else row.waited_us + max(0, now_us - to_us(since))
    if since is not None:
        return row.waited_us + (max(0, to_us(left) - to_us(since)) if left else 0)
    if row.waited_us or left is None:
        return row.waited_us
    return max(0, to_us(left) - row.queued_at_us)


def waiting(row: WorkloadRow, *, to: Phase, not_before: datetime | None, now_us: int) -> dict[str, Any]:
    """Changed fields of a row that moves to phase `to`; `not_before`: end of its backoff afterwards."""
    if to is row.phase:
        return {}
    waited = waited_us(row, now_us)
    values: dict[str, Any] = {"waited_us": waited, "waiting_since": None}
    if to is Phase.PENDING:
        start_us = max(now_us, to_us(not_before)) if not_before else now_us
        return values | {"waiting_since": from_us(start_us), "queued_at_us": start_us - waited, "paused_at": None}
    if to in _OFF_QUEUE and row.paused_at is None:
        # For code of 0013, which adds the time from `paused_at` on to `queued_at`.
        pause_us = max(now_us, to_us(row.not_before)) if row.not_before else now_us
        return values | {"paused_at": from_us(pause_us)}
    return values | {"paused_at": None} if to.terminal else values
