"""Routing of reads: to the primary, or to a streaming replica that is fresh enough.

`ReadRouter` owns the pools. It checks the replicas every few seconds and gives each request a `StaleReads`, which stays
on one replica (so that one response shows one state) and goes to the primary when that replica fails. Without replicas
a request reads from the primary, and no checks run. The REST door uses it.

Lag is the age of the newest sample of the primary's log position that the replica has replayed: the replica has at
least the data that the primary had then. An idle primary repeats its position, so no lag shows. The position of a
disconnected replica does not advance while the primary's does, even if the replica reports no lag.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from niyanta import lsn
from niyanta.observability import log
from niyanta.settings import Settings
from niyanta.store.errors import StoreError, StoreUnavailableError, too_slow
from niyanta.store.postgres.pool import Pool, open_pool
from niyanta.store.reads.metrics import ON_PRIMARY, PRIMARY, READS, ReplicaHealth, unwatch, watch
from niyanta.store.reads.reads import Reads
from niyanta.store.rows import WorkloadRow

logger = log.get(__name__)

REPLICA_TIMEOUT_SHARE = 0.5
"""Part of `statement_timeout` for the replica; the rest is for a second try on the primary."""
SETTLE_SECONDS = 0.1
"""Time between a sample and the checks of the replicas, in which the log reaches them."""
_MAX_SAMPLES = 2000


@dataclass(frozen=True, slots=True)
class WalHistory:
    """Identity of a WAL history. Positions can be compared only within the same system, timeline and database."""

    system: str
    timeline: int
    database: str

    def differs(self, other: WalHistory) -> str:
        """Description of the difference in `other`; "" when both are the same history."""
        if self.system != other.system:
            return "it belongs to another system"
        if self.timeline != other.timeline:
            return f"it is on timeline {other.timeline}, the primary on {self.timeline}"
        return "" if self.database == other.database else "it is another database"


@dataclass(slots=True, eq=False)
class Replica:
    """A replica and the result of its last check. Times are monotonic seconds."""

    name: str
    pool: Pool
    since: float = field(default_factory=time.monotonic)
    problem: str = "it was not checked yet"
    """Reason, other than lag, why the replica can't be used; "" when it can."""
    replayed: int = 0
    fresh_at: float = -math.inf
    """The replica has at least the data that the primary had then."""
    checked_at: float = -math.inf
    check: asyncio.Task[None] | None = None
    replay_query: asyncio.Task[int] | None = None
    logged_problem: str = ""

    def usable(self, most_lag: float) -> bool:
        """True when its data is known to be at most `most_lag` seconds old."""
        return not self.problem and time.monotonic() - self.fresh_at <= most_lag

    def lag(self, every: float) -> float:
        """Seconds behind the primary at the last check, or now if that is overdue; since `since` if never fresh."""
        now = time.monotonic()
        at = self.checked_at if not self.problem and now - self.checked_at < 2 * every else now
        return max(0.0, at - max(self.fresh_at, self.since))


class StaleReads(Reads):
    """Reads of one request, whose data may be up to `max_replica_lag` old."""

    def __init__(self, route: _RequestRoute) -> None:
        super().__init__(route)
        self._route = route

    async def get_workload(self, id_: str) -> WorkloadRow | None:
        """One row; None when the primary has no such row either."""
        found = await super().get_workload(id_)
        if found is None and self._route.leave_replica("missing"):
            found = await super().get_workload(id_)
        return found


class _RequestRoute:
    """The server of one request's statements, chosen with the first statement."""

    def __init__(self, router: ReadRouter, position: int) -> None:
        self._router = router
        self._position = position
        self._chosen = False
        self._replica: Replica | None = None

    def leave_replica(self, reason: str) -> bool:
        """Continue on the primary; False when the request was on the primary already."""
        if self._replica is None:
            return False
        self._replica = None
        ON_PRIMARY.labels(reason).inc()
        return True

    async def fetch(self, name: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """All rows of one named statement, within `statement_timeout` even if two servers are tried."""
        started = time.monotonic()
        if not self._chosen:
            self._replica, reason = await self._router.choose(self._position)
            self._chosen = True
            if self._replica is None:
                ON_PRIMARY.labels(reason).inc()
        if (replica := self._replica) is not None:
            try:
                rows = await replica.pool.fetch(name, params)
            except StoreError as error:
                if too_slow(error):
                    raise
                self._router.failed(replica, error)
                self.leave_replica("failed")
            else:
                READS.labels(replica.name).inc()
                return rows
        READS.labels(PRIMARY).inc()
        left = self._router.statement_timeout - (time.monotonic() - started)
        return await self._router.primary.fetch(name, params, patience=max(0.0, left))


class ReadRouter:
    """The pools of the primary and the replicas. Made by `open_router`."""

    def __init__(self, primary: Pool, replicas: Iterable[Replica], settings: Settings) -> None:
        self.primary = primary
        self.replicas = tuple(replicas)
        self.statement_timeout = settings.statement_timeout
        self._most_lag = settings.max_replica_lag
        self._every = settings.replica_check_interval
        self._of_primary = Reads(primary)
        self._turn = itertools.count()
        self._history: WalHistory | None = None
        self._samples: deque[tuple[float, int]] = deque(maxlen=_MAX_SAMPLES)
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def start(self) -> None:
        """Start checking the replicas, if there are any."""
        if self.replicas:
            watch(self.health)
            self._watching = asyncio.create_task(self._watch(), name="replica-watch")

    async def close(self) -> None:
        """Close all pools; idempotent."""
        checks = [replica.check for replica in self.replicas]
        tasks = [task for task in (self._watching, *checks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._watching = None
        unwatch(self.health)
        for replica in self.replicas:
            await replica.pool.close()
        await self.primary.close()

    def health(self) -> list[ReplicaHealth]:
        """State of each replica at its last check, for metrics."""
        return [
            ReplicaHealth(replica.name, not replica.problem, replica.usable(self._most_lag), replica.lag(self._every))
            for replica in self.replicas
        ]

    # --- For requests ------------------------------------------------------------------------------------------------

    def reads(self, position: int = 0) -> Reads:
        """Reads for one request, which see everything committed up to `position`."""
        return StaleReads(_RequestRoute(self, position)) if self.replicas else self._of_primary

    async def position(self) -> int | None:
        """A position after everything committed so far; None without replicas. Instead of raising StoreError after a
        successful commit, it returns `lsn.UNKNOWN`.
        """
        if not self.replicas:
            return None
        try:
            ((text,),) = await self.primary.fetch("position")
        except StoreError:
            return lsn.UNKNOWN
        return lsn.parse(text)

    async def choose(self, position: int) -> tuple[Replica | None, str]:
        """The next usable replica that has replayed up to `position`, or None and the reason."""
        usable = [replica for replica in self.replicas if replica.usable(self._most_lag)]
        if not usable:
            return None, "no_replica"
        first = next(self._turn) % len(usable)
        in_turn = usable[first:] + usable[:first]
        for replica in in_turn:
            if replica.replayed >= position:
                return replica, ""
        # The known positions are up to a check interval old: the next replica has probably replayed it by now.
        if position != lsn.UNKNOWN and await self._replayed(in_turn[0]) >= position:
            return in_turn[0], ""
        return None, "position"

    def failed(self, replica: Replica, error: StoreError) -> None:
        """Record a failed statement. An unreachable replica is not used until it passes a check."""
        if isinstance(error, StoreUnavailableError):
            replica.problem = "it does not answer"
        self._log_change(replica)
        logger.info("a read failed on a replica and is repeated on the primary", replica=replica.name, error=str(error))

    async def _replayed(self, replica: Replica) -> int:
        """Query a replica's replayed position; concurrent callers share one query. 0 when it fails."""
        if replica.replay_query is None or replica.replay_query.done():
            replica.replay_query = asyncio.create_task(self._query_replayed(replica))
        return await asyncio.shield(replica.replay_query)

    async def _query_replayed(self, replica: Replica) -> int:
        try:
            ((text,),) = await replica.pool.fetch("replayed")
        except StoreError as error:
            self.failed(replica, error)
            return 0
        replica.replayed = max(replica.replayed, lsn.parse(text)) if text else replica.replayed
        return replica.replayed

    # --- Watching ----------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            started = time.monotonic()
            await self._sample()
            await asyncio.sleep(min(SETTLE_SECONDS, self._every / 4))
            for replica in self.replicas:
                # A replica that hangs must not delay the checks of the others.
                if replica.check is None or replica.check.done():
                    replica.check = asyncio.create_task(self._check(replica), name="replica-check")
            await asyncio.sleep(max(0.0, started + self._every - time.monotonic()))

    async def _sample(self) -> None:
        """Sample the primary's log position. Without samples, the replicas count as lagging."""
        asked_at = time.monotonic()
        try:
            ((system, database, timeline, text),) = await self.primary.fetch("primary_state")
        except (StoreError, ValueError):
            return
        history = WalHistory(system, timeline, database)
        if history != self._history:
            # After a failover older positions are void: the old primary may have continued to write.
            self._history = history
            self._samples.clear()
            for replica in self.replicas:
                replica.fresh_at = -math.inf
        self._samples.append((asked_at, lsn.parse(text)))

    async def _check(self, replica: Replica) -> None:
        try:
            ((standby, system, database, timeline, text),) = await replica.pool.fetch("replica_state")
        except (StoreError, ValueError) as error:
            replica.problem = f"it does not answer: {error}"
        else:
            replica.problem = self._problem(standby, WalHistory(system, timeline, database))
            replica.replayed = lsn.parse(text) if standby and text else 0
            shown = (at for at, position in reversed(self._samples) if position <= replica.replayed)
            replica.fresh_at = next(shown, -math.inf)
            replica.checked_at = time.monotonic()
        self._log_change(replica)

    def _problem(self, standby: bool, history: WalHistory) -> str:
        if not standby:
            return "it is not a replica: it accepts writes"
        if self._history is None:
            return "the primary has not answered yet"
        return self._history.differs(history)

    def _log_change(self, replica: Replica) -> None:
        """Log when a replica becomes unusable or usable."""
        state = replica.problem or ("" if replica.usable(self._most_lag) else "it lags")
        if state and not replica.logged_problem:
            logger.warning("replica is not used for reads", replica=replica.name, why=state)
        elif replica.logged_problem and not state:
            logger.info("replica is used for reads", replica=replica.name)
        replica.logged_problem = state


async def open_router(settings: Settings) -> ReadRouter:
    """Open the pools on the primary and on the replicas. Servers that are down are no error here.

    Raises ValueError for an invalid connection string, without its text, which may contain a password.
    """
    names = replica_names(settings.replicas)
    primary = await open_pool(settings)
    replicas = []
    for name, dsn in zip(names, settings.replicas, strict=True):
        override = {"dsn": dsn, "statement_timeout": settings.statement_timeout * REPLICA_TIMEOUT_SHARE}
        replicas.append(Replica(name, await open_pool(settings.model_copy(update=override), standby=True)))
    router = ReadRouter(primary, replicas, settings)
    router.start()
    return router


def replica_names(dsns: Iterable[str]) -> list[str]:
    """host:port of each connection string, for logs and metrics; a number is appended when that isn't unique."""
    names: list[str] = []
    for number, dsn in enumerate(dsns, start=1):
        try:
            given = conninfo_to_dict(dsn)
        except ProgrammingError:
            raise ValueError(f"NIYANTA_REPLICA_DSNS: number {number} is not a connection string") from None
        name = f"{given.get('host') or given.get('hostaddr') or 'localhost'}:{given.get('port') or 5432}"
        names.append(name if name not in names else f"{name}#{number}")
    return names
