"""Drains in progress and the times at which each pool was last scaled, in Postgres and in memory.

`executor` writes through it before it acts; a new leader reads the rows of the last one.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from niyanta.pools.actions import Drain
from niyanta.pools.metrics import ScalingMetrics
from niyanta.store.leader.scaling import DrainRow, DrainStep, ScalingDecision
from niyanta.store.postgres.clock import Clock
from niyanta.store.state import StateManager


class ScalingAction(enum.Enum):
    """Scaling decisions: the action of a row and the reason of an Event."""

    ADOPTED = "ReplicasAdopted"
    SCALE_UP = "ScaleUp"
    SCALE_DOWN = "ScaleDown"
    """A worker was chosen for removal."""
    CANCELLED = "ScaleDownCancelled"
    EVICTED = "WorkloadsEvicted"
    REMOVED = "WorkerRemoved"
    VANISHED = "WorkerVanished"
    TROUBLE = "ScalingTrouble"
    """Scaling is blocked; the row's reason is that of condition Scaling."""
    RECOVERED = "ScalingRecovered"


UP = (ScalingAction.SCALE_UP,)
DOWN = (ScalingAction.SCALE_DOWN, ScalingAction.CANCELLED)


class ScalingRecord:
    """The leader's record of scaling. After a write whose answer was lost, it is read again before it is used."""

    def __init__(self, state: StateManager, clock: Clock, epoch: int, metrics: ScalingMetrics) -> None:
        self._metrics = metrics
        self._state = state
        self._clock = clock
        self._epoch = epoch
        self._drains: dict[tuple[str, str], DrainRow] = {}
        self._last: dict[tuple[str, str], int] = {}
        self._stale = True

    async def refresh(self) -> None:
        """Read the record from Postgres if it isn't certain. Raises StoreUnavailableError."""
        if self._stale:
            self._drains = {(row.pool, row.instance): row for row in await self._state.get_drains()}
            self._last = await self._state.last_scaled(action.value for action in (*UP, *DOWN))
            self._stale = False

    def pools(self) -> set[str]:
        """Pools with drains in progress."""
        return {pool for pool, _ in self._drains}

    def drains(self, pool: str) -> tuple[Drain, ...]:
        """Drains of one pool, sorted by instance."""
        return tuple(_drain(row) for (owner, _), row in sorted(self._drains.items()) if owner == pool)

    def last_up(self, pool: str) -> int | None:
        """Time of the last order for workers, microseconds; None: never."""
        return self._latest(pool, UP)

    def last_down(self, pool: str) -> int | None:
        """Time at which a drain last began or was cancelled, microseconds; None: never."""
        return self._latest(pool, DOWN)

    def not_scaled_up(self, pool: str) -> None:
        """The last order for workers failed: it may be repeated without a cooldown."""
        self._last.pop((pool, ScalingAction.SCALE_UP.value), None)

    def _latest(self, pool: str, actions: Sequence[ScalingAction]) -> int | None:
        return max((at for action in actions if (at := self._last.get((pool, action.value)))), default=None)

    async def record(
        self, decisions: Sequence[ScalingDecision], *, begin: Sequence[Drain] = (), end: Sequence[Drain] = ()
    ) -> None:
        """Write decisions of one pool, and the drains that begin and end with them."""
        pool = decisions[0].pool
        begun = [DrainRow(pool, drain.instance, drain.worker, drain.was_cordoned, drain.started_at) for drain in begin]
        ended = [row for drain in end if (row := self._drains.get((pool, drain.instance))) is not None]
        try:
            await self._state.record_scaling(decisions, epoch=self._epoch, begin=begun, end=ended)
        except BaseException:  # after a cancellation too, the row may have been written
            self._stale = True
            raise
        self._metrics.decided(decisions)
        now = self._clock.now()
        self._last.update({(pool, decision.action): now for decision in decisions})
        self._drains.update({(pool, row.instance): row for row in begun})
        for row in ended:
            del self._drains[pool, row.instance]

    async def step(self, pool: str, drain: Drain, step: DrainStep) -> None:
        """Record a step of a drain, unless it is recorded already."""
        row = self._drains[pool, drain.instance]
        if _stepped_at(row, step) is not None:
            return
        try:
            await self._state.step_drain(row, step, epoch=self._epoch)
        except BaseException:  # after a cancellation too, the row may have been written
            self._stale = True
            raise
        self._drains[pool, drain.instance] = _stepped(row, step, self._clock.now())


def _stepped_at(row: DrainRow, step: DrainStep) -> int | None:
    match step:
        case DrainStep.CORDONED:
            return row.cordoned_at
        case DrainStep.EVICTED:
            return row.evicted_at
        case DrainStep.REMOVING:
            return row.removing_at


def _stepped(row: DrainRow, step: DrainStep, at: int) -> DrainRow:
    return DrainRow(
        row.pool,
        row.instance,
        row.worker,
        row.was_cordoned,
        row.started_at,
        cordoned_at=at if step is DrainStep.CORDONED else row.cordoned_at,
        evicted_at=at if step is DrainStep.EVICTED else row.evicted_at,
        removing_at=at if step is DrainStep.REMOVING else row.removing_at,
    )


def _drain(row: DrainRow) -> Drain:
    return Drain(
        instance=row.instance,
        worker=row.worker,
        was_cordoned=row.was_cordoned,
        started_at=row.started_at,
        cordoned_at=row.cordoned_at,
        evicted_at=row.evicted_at,
        removing_at=row.removing_at,
    )
