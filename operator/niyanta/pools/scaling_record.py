"""Drains under way and the times at which each pool was last scaled, in Postgres and in memory.

`executor` writes through it before it acts; a new leader reads what the last one wrote.
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
    """Decisions on scaling; the action of a row and the reason of an Event."""

    ADOPTED = "ReplicasAdopted"
    SCALE_UP = "ScaleUp"
    SCALE_DOWN = "ScaleDown"
    """A worker was chosen to go."""
    CANCELLED = "ScaleDownCancelled"
    EVICTED = "WorkloadsEvicted"
    REMOVED = "WorkerRemoved"
    VANISHED = "WorkerVanished"
    TROUBLE = "ScalingTrouble"
    """Something stands in the way; the row's reason is that of condition Scaling."""
    RECOVERED = "ScalingRecovered"


UP = (ScalingAction.SCALE_UP,)
DOWN = (ScalingAction.SCALE_DOWN, ScalingAction.CANCELLED)


class ScalingRecord:
    """Kept by the one leader. After a write whose answer was lost it is read again before it is used."""

    def __init__(self, state: StateManager, clock: Clock, epoch: int, metrics: ScalingMetrics) -> None:
        self._metrics = metrics
        self._state = state
        self._clock = clock
        self._epoch = epoch
        self._drains: dict[tuple[str, str], DrainRow] = {}
        self._last: dict[tuple[str, str], int] = {}
        self._stale = True

    async def refresh(self) -> None:
        """Read what isn't known for sure. Raises StoreUnavailableError."""
        if self._stale:
            self._drains = {(row.pool, row.instance): row for row in await self._state.get_drains()}
            self._last = await self._state.last_scaled(action.value for action in (*UP, *DOWN))
            self._stale = False

    def pools(self) -> set[str]:
        """Pools with drains under way."""
        return {pool for pool, _ in self._drains}

    def drains(self, pool: str) -> tuple[Drain, ...]:
        """Of one pool, by instance."""
        return tuple(_drain(row) for (owner, _), row in sorted(self._drains.items()) if owner == pool)

    def last_up(self, pool: str) -> int | None:
        """Microseconds at which workers were last asked for; None: never."""
        return self._latest(pool, UP)

    def last_down(self, pool: str) -> int | None:
        """Microseconds at which a drain last began or was cancelled; None: never."""
        return self._latest(pool, DOWN)

    def not_scaled_up(self, pool: str) -> None:
        """The last order for more workers came to nothing: it may be repeated at once."""
        self._last.pop((pool, ScalingAction.SCALE_UP.value), None)

    def _latest(self, pool: str, actions: Sequence[ScalingAction]) -> int | None:
        return max((at for action in actions if (at := self._last.get((pool, action.value)))), default=None)

    async def record(
        self, decisions: Sequence[ScalingDecision], *, begin: Sequence[Drain] = (), end: Sequence[Drain] = ()
    ) -> None:
        """Write decisions of one pool, with the drains they begin and end."""
        pool = decisions[0].pool
        begun = [DrainRow(pool, drain.instance, drain.worker, drain.was_cordoned, drain.started_at) for drain in begin]
        ended = [row for drain in end if (row := self._drains.get((pool, drain.instance))) is not None]
        try:
            await self._state.record_scaling(decisions, epoch=self._epoch, begin=begun, end=ended)
        except BaseException:  # cancelled too: it may be written all the same
            self._stale = True
            raise
        self._metrics.decided(decisions)
        now = self._clock.now()
        self._last.update({(pool, decision.action): now for decision in decisions})
        self._drains.update({(pool, row.instance): row for row in begun})
        for row in ended:
            del self._drains[pool, row.instance]

    async def step(self, pool: str, drain: Drain, step: DrainStep) -> None:
        """Note how far a drain has come; nothing is written when that is known."""
        row = self._drains[pool, drain.instance]
        name = f"{step.value}_at"
        if getattr(row, name) is not None:
            return
        try:
            await self._state.step_drain(row, step, epoch=self._epoch)
        except BaseException:  # cancelled too: it may be written all the same
            self._stale = True
            raise
        self._drains[pool, drain.instance] = _stepped(row, step, self._clock.now())


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
