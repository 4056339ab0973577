"""Taking, keeping and losing leadership: the row in Postgres, the fence in the cluster, and the session in between."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from prometheus_client import Gauge

from niyanta.aio import Backoff, retry
from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError
from niyanta.cluster.leadership import fence
from niyanta.observability import log
from niyanta.observability.gauges import LeaderGauge
from niyanta.scheduler.cluster_api import LeaseLostError
from niyanta.scheduler.lease import Lease
from niyanta.settings import Settings
from niyanta.store.errors import StaleEpochError, StoreError, StoreUnavailableError
from niyanta.store.leadership import Leadership

logger = log.get(__name__)

IS_LEADER = Gauge("niyanta_leader", "1 while this process leads")
EPOCH = LeaderGauge("niyanta_leader_epoch", "Epoch of this process's leadership")

GUARD_INTERVAL_SECONDS = 5.0
"""Seconds between two looks at the fence: without it the API server refuses every pod of ours."""

ACQUIRE_INTERVAL_SECONDS = 0.25
"""Seconds between two tries to take leadership."""


RETRY_SECONDS = 0.5
"""Longest pause before a new leader repeats a request without an answer."""


class Loss(enum.Enum):
    """Causes of the end of a leadership."""

    STOPPED = "stopped"
    """This process is to stop."""
    STORE_AWAY = "Postgres did not answer for a whole lease"
    SUPERSEDED = "another process leads, or this one stalled beyond its lease"


T = TypeVar("T")

Settled = Callable[[], Awaitable[None]]
Lead = Callable[[int, bool, Settled], Awaitable[None]]
"""What to do while leading: (epoch, adopting, settled), runs until cancelled or LeaseLostError / StaleEpochError.
`settled` is to be awaited once rows and pods agree."""


class Candidate:
    """One process's part in the election."""

    def __init__(self, *, leadership: Leadership, client: ApiClient, lease: Lease, settings: Settings) -> None:
        self._leadership = leadership
        self._client = client
        self._lease = lease
        self._settings = settings
        self.lost = asyncio.Event()
        self._store_away = False
        """The last renewal found Postgres not answering."""

    async def run(self, lead: Lead) -> Loss:
        """Take part until leadership is lost for good; steps down and goes on when only Postgres was away."""
        while True:
            epoch, orderly = await self._acquire()
            loss = await self._hold(epoch, lead, orderly=orderly)
            logger.warning("leadership is over", epoch=epoch, cause=loss.value)
            if loss is not Loss.STORE_AWAY:
                return loss

    async def _acquire(self) -> tuple[int, bool]:
        """Returns the epoch, and whether the last leader left in good order."""
        while True:
            try:
                before = await self._leadership.current()
                asked_at = time.monotonic()
                epoch = await self._leadership.try_acquire() if before.expires_in <= 0 else None
            except StoreUnavailableError as error:
                logger.warning("Postgres does not answer; not a candidate", error=str(error))
                await asyncio.sleep(1.0)
                continue
            if epoch is not None:
                self._lease.begin(epoch, asked_at=asked_at)
                logger.info("leadership taken", epoch=epoch, after=before.holder or "nobody")
                return epoch, before.expires_in == 0
            await asyncio.sleep(ACQUIRE_INTERVAL_SECONDS)

    async def _hold(self, epoch: int, lead: Lead, *, orderly: bool) -> Loss:
        self.lost.clear()
        IS_LEADER.set(1)
        work = asyncio.create_task(self._lead(epoch, lead, orderly=orderly), name="lead")
        renewal = asyncio.create_task(self._renew(), name="renew")
        told = asyncio.create_task(self.lost.wait(), name="lost")
        tasks: list[asyncio.Task[object]] = [work, renewal, told]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if renewal.done() and not renewal.cancelled():
                return renewal.result()
            if work.done() and (error := work.exception()) is not None:
                if not isinstance(error, StaleEpochError | LeaseLostError | fence.FenceRaisedError):
                    raise error
                logger.warning("the leader's work ended", error=str(error))
            return await self._cause()
        finally:
            IS_LEADER.set(0)
            EPOCH.clear()
            self._lease.end()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _renew(self) -> Loss:
        """Renew until that fails; returns why."""
        self._store_away = False
        while True:
            await asyncio.sleep(self._settings.renew_every)
            if self._lease.stalled:
                logger.error("the leader's loop stalled; no renewal")
                if not self._lease.valid:
                    return await self._cause()
                continue
            asked_at = time.monotonic()
            try:
                kept = await self._leadership.renew(self._lease.epoch)
            except StoreUnavailableError as error:
                self._store_away = True
                logger.warning("the lease was not renewed", error=str(error))
                if not self._lease.valid:
                    return Loss.STORE_AWAY
                continue
            if not kept:
                return await self._cause()
            self._store_away = False
            self._lease.renewed(asked_at=asked_at)

    async def _cause(self) -> Loss:
        """Why leadership ended. When Postgres was away for the whole lease, nobody else can have taken it meanwhile."""
        try:
            now = await self._leadership.current()
        except StoreUnavailableError:
            return Loss.STORE_AWAY
        return Loss.STORE_AWAY if self._store_away and now.epoch == self._lease.epoch else Loss.SUPERSEDED

    async def _lead(self, epoch: int, lead: Lead, *, orderly: bool) -> None:
        settings = self._settings
        identity = await self._until_answered(self._leadership.database_identity)
        found = await self._until_answered(lambda: fence.read(self._client, settings.namespace))
        adopting = bool(found.database) and (found.database != identity or found.epoch > epoch)
        if found.epoch >= epoch:
            logger.warning("the fence is ahead of the database", fence=found.epoch, epoch=epoch)
            epoch = await self._until_answered(lambda: self._leadership.adopt_epoch(found.epoch))
            self._lease.epoch = epoch
        EPOCH.set(epoch)

        async def fence_off(database: str) -> None:
            await self._until_answered(
                lambda: fence.raise_to(self._client, settings.namespace, epoch=epoch, database=database)
            )

        # Until rows were rebuilt from pods the fence goes on naming the database they were made from: a leader that
        # dies on the way is followed by one that adopts as well.
        await fence_off(found.database if adopting else identity)
        if found.epoch:
            # Whatever the old leader sent has arrived, or is refused, after this. One that left in good order sent
            # nothing after it gave its lease back.
            await self._ticking(settings.request_timeout + (0.0 if orderly else settings.lease))

        async def settled() -> None:
            if adopting:
                await fence_off(identity)

        guard = asyncio.create_task(self._guard(epoch, found.database if adopting else identity), name="fence")
        try:
            await lead(epoch, adopting, settled)
        finally:
            guard.cancel()

    async def _guard(self, epoch: int, database: str) -> None:
        """Put the fence up again when somebody takes it down; give up when it is beyond us."""
        while True:
            await asyncio.sleep(GUARD_INTERVAL_SECONDS)
            try:
                found = await fence.read(self._client, self._settings.namespace)
                if found.epoch > epoch:
                    self.lost.set()
                elif found.epoch < epoch:
                    logger.error("the fence was taken down; raising it again", found=found.epoch, epoch=epoch)
                    await fence.raise_to(self._client, self._settings.namespace, epoch=epoch, database=database)
            except fence.FenceRaisedError:
                self.lost.set()
            except ApiError as error:
                logger.warning("the fence was not looked at", error=str(error))

    async def _ticking(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._lease.tick()
            await asyncio.sleep(min(0.2, left))

    async def _until_answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer of `ask`, repeated while Postgres or the API server is away."""

        async def attempt() -> T:
            self._lease.tick()
            return await ask()

        return await retry(
            attempt,
            on=(StoreUnavailableError, ApiError),
            backoff=Backoff(first_seconds=RETRY_SECONDS, longest_seconds=RETRY_SECONDS),
            report=lambda error, _: logger.warning("a new leader can't begin yet", error=str(error)),
        )

    async def release(self) -> None:
        """Give leadership back in good order (nothing of ours may be under way any more)."""
        with contextlib.suppress(StoreError):
            if self._lease.epoch:
                await self._leadership.release(self._lease.epoch)
