"""Which server a read goes to: the primary, or a streaming replica that is fresh enough.

`ReadRouter` owns the pools. It looks at the replicas every few seconds, and gives each request a `StaleReads`, which
stays on one replica (so that one answer shows one state of the record) and goes to the primary when that one fails.
Without replicas a request's reads are the primary's, and nothing is watched. The REST door is next.

Lag is the age of the newest sample of the primary's log position that the replica has replayed: the replica shows at
least what the primary showed then. An idle primary repeats its position, so nothing seems to lag; a replica that is cut
off stands still while the primary's position goes on, whatever it believes itself.
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

SHARE = 0.5
"""Part of `statement_timeout` that a replica may use up: the rest is for asking the primary."""
SETTLE = 0.1
"""Seconds between a sample and the look at the replicas, for the log to get there."""
_SAMPLES = 2000


@dataclass(frozen=True, slots=True)
class WalHistory:
    """Positions can be compared within one of these alone: a server's, a timeline's, a database's."""

    system: str
    timeline: int
    database: str

    def differs(self, other: WalHistory) -> str:
        """What is different in `other`; "" if nothing is."""
        if self.system != other.system:
            return "it belongs to another system"
        if self.timeline != other.timeline:
            return f"it is on timeline {other.timeline}, the primary on {self.timeline}"
        return "" if self.database == other.database else "it is another database"


@dataclass(slots=True, eq=False)
class Replica:
    """One replica as it was found last. Times are monotonic seconds."""

    name: str
    pool: Pool
    since: float = field(default_factory=time.monotonic)
    trouble: str = "it was not looked at yet"
    """Why it can't be read from, lag apart; "" when it can."""
    replayed: int = 0
    fresh_at: float = -math.inf
    """It shows at least what the primary showed then."""
    looked_at: float = -math.inf
    look: asyncio.Task[None] | None = None
    asking: asyncio.Task[int] | None = None
    told: str = ""

    def usable(self, most_lag: float) -> bool:
        """Whether what it shows is at most `most_lag` seconds old, for certain."""
        return not self.trouble and time.monotonic() - self.fresh_at <= most_lag

    def lag(self, every: float) -> float:
        """Seconds behind: as of the last look, or now if that is overdue. Never fresh: since it is watched."""
        now = time.monotonic()
        at = self.looked_at if not self.trouble and now - self.looked_at < 2 * every else now
        return max(0.0, at - max(self.fresh_at, self.since))


class StaleReads(Reads):
    """Reads of one request that may show the record as it was up to `max_replica_lag` ago."""

    def __init__(self, way: _Way) -> None:
        super().__init__(way)
        self._way = way

    async def get_workload(self, id_: str) -> WorkloadRow | None:
        """One row; None: the primary has none either."""
        found = await super().get_workload(id_)
        if found is None and self._way.leave("missing"):
            found = await super().get_workload(id_)
        return found


class _Way:
    """Where one request's statements go: chosen with the first of them."""

    def __init__(self, router: ReadRouter, position: int) -> None:
        self._router = router
        self._position = position
        self._chosen = False
        self._replica: Replica | None = None

    def leave(self, reason: str) -> bool:
        """Go on with the primary; False: it was there before."""
        if self._replica is None:
            return False
        self._replica = None
        ON_PRIMARY.labels(reason).inc()
        return True

    async def fetch(self, name: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """All rows of one named statement, within `statement_timeout` even if two servers are asked."""
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
                self.leave("failed")
            else:
                READS.labels(replica.name).inc()
                return rows
        READS.labels(PRIMARY).inc()
        left = self._router.statement_timeout - (time.monotonic() - started)
        return await self._router.primary.fetch(name, params, patience=max(0.0, left))


class ReadRouter:
    """The primary's pool and the replicas'. Made by `open_router`."""

    def __init__(self, primary: Pool, replicas: Iterable[Replica], settings: Settings) -> None:
        self.primary = primary
        self.replicas = tuple(replicas)
        self.statement_timeout = settings.statement_timeout
        self._most_lag = settings.max_replica_lag
        self._every = settings.replica_check_interval
        self._of_primary = Reads(primary)
        self._turn = itertools.count()
        self._history: WalHistory | None = None
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def start(self) -> None:
        """Begin to look at the replicas, if there are any."""
        if self.replicas:
            watch(self.standings)
            self._watching = asyncio.create_task(self._watch(), name="replica-watch")

    async def close(self) -> None:
        """Close all pools; idempotent."""
        looks = [replica.look for replica in self.replicas]
        tasks = [task for task in (self._watching, *looks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._watching = None
        unwatch(self.standings)
        for replica in self.replicas:
            await replica.pool.close()
        await self.primary.close()

    def standings(self) -> list[ReplicaHealth]:
        """How each replica was found last, for metrics."""
        return [
            ReplicaHealth(replica.name, not replica.trouble, replica.usable(self._most_lag), replica.lag(self._every))
            for replica in self.replicas
        ]

    # --- For requests ------------------------------------------------------------------------------------------------

    def reads(self, position: int = 0) -> Reads:
        """Reads for one request: of what is committed up to `position`, and maybe of nothing that came later."""
        return StaleReads(_Way(self, position)) if self.replicas else self._of_primary

    async def position(self) -> int | None:
        """A position that everything committed so far is before; None without replicas. Never raises StoreError:
        what was committed is, and then the position is `positions.UNKNOWN`.
        """
        if not self.replicas:
            return None
        try:
            ((text,),) = await self.primary.fetch("position")
        except StoreError:
            return lsn.UNKNOWN
        return lsn.parse(text)

    async def choose(self, position: int) -> tuple[Replica | None, str]:
        """The next usable replica that has replayed up to `position`; else None and why."""
        usable = [replica for replica in self.replicas if replica.usable(self._most_lag)]
        if not usable:
            return None, "no_replica"
        first = next(self._turn) % len(usable)
        in_turn = usable[first:] + usable[:first]
        for replica in in_turn:
            if replica.replayed >= position:
                return replica, ""
        # What is known of them is up to a check interval old: the next in turn has likely got there by now.
        if position != lsn.UNKNOWN and await self._replayed(in_turn[0]) >= position:
            return in_turn[0], ""
        return None, "position"

    def failed(self, replica: Replica, error: StoreError) -> None:
        """A statement failed there. One that can't be reached is left alone until it answers a look."""
        if isinstance(error, StoreUnavailableError):
            replica.trouble = "it was lost"
        self._tell(replica)
        logger.info("the primary is asked instead", replica=replica.name, error=str(error))

    async def _replayed(self, replica: Replica) -> int:
        """Ask a replica how far it is; those who ask at the same time share the answer. 0: it didn't say."""
        if replica.asking is None or replica.asking.done():
            replica.asking = asyncio.create_task(self._ask(replica))
        return await asyncio.shield(replica.asking)

    async def _ask(self, replica: Replica) -> int:
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
            await asyncio.sleep(min(SETTLE, self._every / 4))
            for replica in self.replicas:
                # One that hangs holds up nobody but itself.
                if replica.look is None or replica.look.done():
                    replica.look = asyncio.create_task(self._look(replica), name="replica-look")
            await asyncio.sleep(max(0.0, started + self._every - time.monotonic()))

    async def _sample(self) -> None:
        """Note where the primary's log is. While it doesn't say, the replicas' data gets older, too."""
        asked_at = time.monotonic()
        try:
            ((system, database, timeline, text),) = await self.primary.fetch("primary_state")
        except (StoreError, ValueError):
            return
        history = WalHistory(system, timeline, database)
        if history != self._history:
            # After a failover older positions say nothing: the old primary may have written on.
            self._history = history
            self._samples.clear()
            for replica in self.replicas:
                replica.fresh_at = -math.inf
        self._samples.append((asked_at, lsn.parse(text)))

    async def _look(self, replica: Replica) -> None:
        try:
            ((standby, system, database, timeline, text),) = await replica.pool.fetch("replica_state")
        except (StoreError, ValueError) as error:
            replica.trouble = f"it doesn't answer: {error}"
        else:
            replica.trouble = self._trouble(standby, WalHistory(system, timeline, database))
            replica.replayed = lsn.parse(text) if standby and text else 0
            shown = (at for at, position in reversed(self._samples) if position <= replica.replayed)
            replica.fresh_at = next(shown, -math.inf)
            replica.looked_at = time.monotonic()
        self._tell(replica)

    def _trouble(self, standby: bool, history: WalHistory) -> str:
        if not standby:
            return "it is no replica: it takes writes"
        if self._history is None:
            return "the primary didn't answer yet"
        return self._history.differs(history)

    def _tell(self, replica: Replica) -> None:
        """Log when reads stop or begin to go there."""
        state = replica.trouble or ("" if replica.usable(self._most_lag) else "it lags")
        if state and not replica.told:
            logger.warning("a replica isn't read from", replica=replica.name, why=state)
        elif replica.told and not state:
            logger.info("a replica is read from", replica=replica.name)
        replica.told = state


async def open_router(settings: Settings) -> ReadRouter:
    """Open the pools on the primary and on the replicas. Servers that aren't there yet are no error.

    Raises ValueError for a connection string that is none; its text isn't shown, it may hold a password.
    """
    names = replica_names(settings.replicas)
    primary = await open_pool(settings)
    replicas = []
    for name, dsn in zip(names, settings.replicas, strict=True):
        its_own = {"dsn": dsn, "statement_timeout": settings.statement_timeout * SHARE}
        replicas.append(Replica(name, await open_pool(settings.model_copy(update=its_own), standby=True)))
    router = ReadRouter(primary, replicas, settings)
    router.start()
    return router


def replica_names(dsns: Iterable[str]) -> list[str]:
    """host:port of each, for people and metrics; a number is added where that isn't unique."""
    names: list[str] = []
    for number, dsn in enumerate(dsns, start=1):
        try:
            given = conninfo_to_dict(dsn)
        except ProgrammingError:
            raise ValueError(f"NIYANTA_REPLICA_DSNS: number {number} is no connection string") from None
        name = f"{given.get('host') or given.get('hostaddr') or 'localhost'}:{given.get('port') or 5432}"
        names.append(name if name not in names else f"{name}#{number}")
    return names
