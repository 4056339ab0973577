"""The conditions of a Workload, made from its row, with the times at which each last changed. Pure.

A row knows the times of most changes. The others are the times at which the leader followed them (`followed`). What a
new leader can't derive from the row it takes from the object's present conditions (`shown`), as far as they agree.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from niyanta.lifecycle import Phase
from niyanta.scheduler.reasons import RowReason
from niyanta.store.rows import WorkloadRow, worker_names

ACCEPTED = "Accepted"
SCHEDULED = "Scheduled"
RUNNING = "Running"
SUSPENDED = "Suspended"
FINISHED = "Finished"
SUCCEEDED = "Succeeded"
FAILED = "Failed"

TYPES = (ACCEPTED, SCHEDULED, RUNNING, SUSPENDED, FINISHED, SUCCEEDED, FAILED)
"""Types of the conditions, in the order of a workload's life."""

MOST_MESSAGE_LENGTH = 1024
"""Characters of a message that are kept."""

_PACKED = struct.Struct(f"<2B{len(TYPES)}I")
_LATEST = 2**32 - 1


class Since(NamedTuple):
    """For each condition of TYPES whether it holds (None: unknown) and since when, in whole seconds of the epoch."""

    holds: tuple[bool | None, ...]
    at: tuple[int, ...]

    def pack(self) -> bytes:
        """A compact form, because the leader keeps one for each live workload."""
        known = sum((value is not None) << index for index, value in enumerate(self.holds))
        true = sum((value is True) << index for index, value in enumerate(self.holds))
        return _PACKED.pack(known, true, *(min(max(at, 0), _LATEST) for at in self.at))

    @classmethod
    def unpack(cls, packed: bytes) -> Since:
        """The inverse of `pack`."""
        known, true, *at = _PACKED.unpack(packed)
        holds = tuple(bool(true >> index & 1) if known >> index & 1 else None for index in range(len(TYPES)))
        return cls(holds, tuple(at))


UNKNOWN = Since((None,) * len(TYPES), (0,) * len(TYPES))
"""Conditions of an object that has none yet."""


def shown(conditions: Iterable[Mapping[str, Any]]) -> Since:
    """The conditions in the status of an object; those that are missing or can't be read are unknown."""
    found: dict[Any, tuple[bool, int]] = {}
    for condition in conditions:
        status, at = condition.get("status"), _seconds(condition.get("lastTransitionTime"))
        if status in ("True", "False") and at is not None:
            found[condition.get("type")] = status == "True", at
    both = [found.get(kind, (None, 0)) for kind in TYPES]
    return Since(tuple(holds for holds, _ in both), tuple(at for _, at in both))


def followed(row: WorkloadRow, before: Since = UNKNOWN, *, now: float) -> Since:
    """The conditions of a row that moved, or was read, at `now` (seconds); `before`: those of its last state."""
    holds = _holds(row)
    recorded = _recorded(row, now)
    at = []
    for held, was, was_at, (when, exact) in zip(holds, before.holds, before.at, recorded, strict=True):
        if exact or was is None:
            at.append(int(when))
        elif was == held:
            at.append(was_at)
        else:
            at.append(int(now))
    return Since(holds, tuple(at))


def conditions_of(row: WorkloadRow, since: Since) -> list[dict[str, Any]]:
    """The conditions as values of `status.conditions`; `since` is what `followed` returned for this row."""
    return [
        {
            "type": kind,
            "status": "True" if held else "False",
            "observedGeneration": row.generation,
            "lastTransitionTime": stamp(at),
            "reason": reason,
            "message": message[:MOST_MESSAGE_LENGTH],
        }
        for kind, held, at, (reason, message) in zip(TYPES, since.holds, since.at, _reasons(row), strict=True)
    ]


def stamped(
    conditions: Iterable[Mapping[str, Any]], before: Iterable[Mapping[str, Any]], now: int
) -> list[dict[str, Any]]:
    """Conditions with lastTransitionTime: the time of `before` if the status is the same, else `now` (microseconds)."""
    since = {(c.get("type"), c.get("status")): c.get("lastTransitionTime") for c in before}
    text = stamp(now / 1e6)
    return [{**c, "lastTransitionTime": since.get((c["type"], c["status"])) or text} for c in conditions]


def stamp(seconds: float) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _holds(row: WorkloadRow) -> tuple[bool, ...]:
    phase = row.phase
    return (
        not _refused(row),
        _placed(row),
        phase is Phase.RUNNING,
        phase is Phase.SUSPENDED,
        phase.terminal,
        phase is Phase.SUCCEEDED,
        phase is Phase.FAILED,
    )


def _refused(row: WorkloadRow) -> bool:
    """True while it may not queue, and when it failed without an attempt."""
    return row.phase is Phase.HELD or (row.phase is Phase.FAILED and row.attempt == 0)


def _placed(row: WorkloadRow) -> bool:
    """True if its last attempt has workers, or had them when the workload finished."""
    return row.phase.bound or (row.phase.terminal and row.scheduled_at is not None)


def _recorded(row: WorkloadRow, now: float) -> list[tuple[float, bool]]:
    """For each condition the time that the row tells, and whether it is certain. An uncertain one counts only for a
    workload whose earlier conditions are unknown."""
    created = now if row.created_at is None else row.created_at.timestamp()
    finished = _time(row.finished_at, created)
    paused = _time(row.paused_at, created)
    if row.phase is Phase.RUNNING:
        running = _time(row.started_at, now), True
    elif row.phase.terminal and row.started_at is not None:
        running = finished, True
    elif row.attempt == 0 or (row.attempt == 1 and _placed(row)):
        running = created, True  # it never ran
    else:
        running = now, False
    if _placed(row):
        scheduled = _time(row.scheduled_at, now), True
    else:
        scheduled = (created, True) if row.attempt == 0 else (now, False)
    over = (finished, True) if row.phase.terminal else (created, True)
    return [
        (_time(row.finished_at, paused) if _refused(row) else created, False),
        scheduled,
        running,
        (paused if row.phase is Phase.SUSPENDED else created, False),
        over,
        over if row.phase is Phase.SUCCEEDED else (created, True),
        over if row.phase is Phase.FAILED else (created, True),
    ]


def _reasons(row: WorkloadRow) -> list[tuple[str, str]]:
    """Reason and message of each condition."""
    phase = row.phase.value
    why = (row.reason or phase, row.message)
    plain = (phase, "")
    refused, placed, terminal = _refused(row), _placed(row), row.phase.terminal
    return [
        why if refused else ("Accepted", ""),
        (RowReason.PLACED.value, f"on {worker_names(row.workers)}") if placed else why,
        ("PodsRunning", "") if row.phase is Phase.RUNNING else plain,
        why if row.phase is Phase.SUSPENDED else ("NotSuspended", ""),
        (phase, row.message) if terminal else plain,
        why if row.phase is Phase.SUCCEEDED else plain,
        why if row.phase is Phase.FAILED else plain,
    ]


def _time(at: datetime | None, default: float) -> float:
    return default if at is None else at.timestamp()


def _seconds(text: Any) -> int | None:
    """Seconds of the epoch of an RFC 3339 time; None if it isn't one."""
    if not isinstance(text, str):
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return int((at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp())
