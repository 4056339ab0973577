"""The record of scaling: every decision about a pool's workers, and the workers that are on their way out.

The scaler writes an intention here before it acts, under its epoch; the next leader reads how far it came.
`StateManager` inherits these methods.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from niyanta.store import columns
from niyanta.store.leader.projections import Projections
from niyanta.store.leadership import begin as begin_writing
from niyanta.store.postgres.pool import fetch
from niyanta.store.postgres.queries import sql
from niyanta.store.row_mapping import dumps, row_mapper


class DrainStep(enum.Enum):
    """How far a removal has come."""

    CORDONED = "cordoned"
    EVICTED = "evicted"
    REMOVING = "removing"
    """The provider is (or was) asked: from here on there is no way back."""


@dataclass(frozen=True, slots=True)
class ScalingDecision:
    """One decision about a pool, for the record. `had` and `wanted` are numbers of workers where they matter."""

    pool: str
    action: str
    worker: str = ""
    instance: str = ""
    wanted: int | None = None
    had: int | None = None
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class ScalingDecisionRow:
    """A decision as it was recorded."""

    id: int
    at: datetime
    epoch: int
    pool: str
    action: str
    worker: str
    instance: str
    wanted: int | None
    had: int | None
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class DrainRow:
    """A worker on its way out. Times are microseconds of the database's clock; None: that step isn't done yet."""

    pool: str
    instance: str
    worker: str
    was_cordoned: bool
    started_at: int
    cordoned_at: int | None = None
    evicted_at: int | None = None
    removing_at: int | None = None


_decision_row = row_mapper(ScalingDecisionRow, columns.SCALING_DECISION)
_drain_row = row_mapper(DrainRow, columns.DRAIN)


class ScalingStore(Projections):
    """The part of the record that is about the number of workers. Writing methods raise StaleEpochError."""

    async def record_scaling(
        self,
        decisions: Iterable[ScalingDecision],
        *,
        epoch: int | None,
        begin: Sequence[DrainRow] = (),
        end: Sequence[DrainRow] = (),
    ) -> None:
        """Write decisions with what they begin and end, in one transaction. A drain that has begun stays as it is."""
        async with self._pool.transaction() as connection:
            await begin_writing(connection, epoch, self._settings.identity)
            records = dumps([asdict(decision) for decision in decisions])
            await connection.execute(sql("add_scaling_decisions"), {"records": records, "epoch": epoch or 0})
            if begin:
                rows = dumps([asdict(drain) for drain in begin])
                await connection.execute(sql("add_drains"), {"records": rows})
            for pool in {drain.pool for drain in end}:
                instances = [drain.instance for drain in end if drain.pool == pool]
                await connection.execute(sql("end_drains"), {"pool": pool, "instances": instances})

    async def step_drain(self, drain: DrainRow, step: DrainStep, *, epoch: int | None) -> None:
        """Note that a drain has come to `step`."""
        async with self._pool.transaction() as connection:
            await begin_writing(connection, epoch, self._settings.identity)
            params = {"pool": drain.pool, "instance": drain.instance, "step": step.value}
            await connection.execute(sql("step_drain"), params)

    async def get_drains(self) -> list[DrainRow]:
        """All workers on their way out, by pool and instance."""
        return [_drain_row(row) for row in await self._pool.fetch("drains")]

    async def last_scaled(self, actions: Iterable[str]) -> dict[tuple[str, str], int]:
        """(pool, action) -> when that was last decided, microseconds; pairs that never were are left out."""
        rows = await self._pool.fetch("last_scaled", {"actions": list(actions)})
        return {(pool, action): int(at) for pool, action, at in rows}

    async def get_scaling_decisions(
        self, pool: str, *, limit: int = 100, before: int | None = None
    ) -> list[ScalingDecisionRow]:
        """What was decided about a pool in the last 30 days, newest first; `before`: the id that a page ended with."""
        async with self._pool.connection() as connection:
            rows = await fetch(connection, "scaling_decisions", {"pool": pool, "limit": limit, "before": before})
        return [_decision_row(row) for row in rows]
