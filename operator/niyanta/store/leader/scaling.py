"""Scaling decisions about pools, and drains of workers that are being removed.

The pool controller writes an intention here before it acts, under its epoch, so that the next leader can continue.
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
    """Step of a worker's removal."""

    CORDONED = "cordoned"
    EVICTED = "evicted"
    REMOVING = "removing"
    """The provider was asked to remove the worker: the drain can't be cancelled any more."""


@dataclass(frozen=True, slots=True)
class ScalingDecision:
    """A decision about a pool. `had` and `wanted` are numbers of workers, None when they don't apply."""

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
    """A recorded decision."""

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
    """A worker that is being removed. Times are microseconds of the database's clock; None: the step isn't done yet."""

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
    """Decisions and drains in Postgres. Writing methods raise StaleEpochError."""

    async def record_scaling(
        self,
        decisions: Iterable[ScalingDecision],
        *,
        epoch: int | None,
        begin: Sequence[DrainRow] = (),
        end: Sequence[DrainRow] = (),
    ) -> None:
        """Write decisions and the drains they begin and end, in one transaction. Drains that exist are not changed."""
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
        """Record that a drain has reached `step`."""
        async with self._pool.transaction() as connection:
            await begin_writing(connection, epoch, self._settings.identity)
            params = {"pool": drain.pool, "instance": drain.instance, "step": step.value}
            await connection.execute(sql("step_drain"), params)

    async def get_drains(self) -> list[DrainRow]:
        """All drains, by pool and instance."""
        return [_drain_row(row) for row in await self._pool.fetch("drains")]

    async def last_scaled(self, actions: Iterable[str]) -> dict[tuple[str, str], int]:
        """(pool, action) -> time of the last such decision in microseconds; pairs without a decision are left out."""
        rows = await self._pool.fetch("last_scaled", {"actions": list(actions)})
        return {(pool, action): int(at) for pool, action, at in rows}

    async def get_scaling_decisions(
        self, pool: str, *, limit: int = 100, before: int | None = None
    ) -> list[ScalingDecisionRow]:
        """Decisions about a pool in the last 30 days, newest first; `before`: last id of the previous page."""
        async with self._pool.connection() as connection:
            rows = await fetch(connection, "scaling_decisions", {"pool": pool, "limit": limit, "before": before})
        return [_decision_row(row) for row in rows]
