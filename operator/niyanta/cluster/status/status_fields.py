"""The status of a Workload, made from its row. Pure; `workload_status` writes it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from niyanta.cluster.api.status_apply import filled
from niyanta.cluster.status.conditions import MOST_MESSAGE_LENGTH, Since, conditions_of, stamp
from niyanta.engine.queue.order import QueueSettings, effective_priority
from niyanta.resources.assignments import assignments, placement_text, pods_text
from niyanta.store.rows import WorkloadRow


def status_of(row: WorkloadRow, since: Since, queue: QueueSettings, *, now: int) -> dict[str, Any]:
    """The status of a row; fields that don't apply are left out, so that applying it removes them.

    `since`: the times of its conditions (`conditions.followed`). `now` (microseconds of the database's clock) is the
    time for which effectivePriority is computed.
    """
    priority = effective_priority(row.priority, row.tier_weight, queued_at=row.queued_at_us, now=now, settings=queue)
    placed = assignments(row.name, row.id, attempt=row.attempt, workers=row.workers, pool=row.pool, pools=row.pools)
    fields = {
        "observedGeneration": row.generation,
        "phase": row.phase.value,
        "customer": row.customer or None,
        "pods": pods_text(row.phase, row.replicas),
        "placement": placement_text(row.workers) or None,
        "assignments": placed or None,
        "score": None if row.score is None else min(max(round(row.score), 0), 100),
        "effectivePriority": int(priority),
        "attempts": row.attempt,
        "queuedTime": stamp(row.queued_at_us / 1e6),
        "scheduledTime": _time(row.scheduled_at),
        "startTime": _time(row.started_at),
        "completionTime": _time(row.finished_at),
        "reason": row.reason or None,
        "message": row.message[:MOST_MESSAGE_LENGTH] or None,
        "conditions": conditions_of(row, since),
    }
    return filled(fields)


def _time(at: datetime | None) -> str | None:
    return None if at is None else stamp(at.timestamp())
