"""Leader election: takes and renews the lease in Postgres, raises the fence in the cluster, and runs the leader's work
while the lease is valid."""

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
from niyanta.cluster.leadership import fence, policies
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
"""Time between two checks of the fence: without it the API server refuses all pods of Niyanta."""

ACQUIRE_INTERVAL_SECONDS = 0.25
"""Time between two attempts to take leadership."""

STORE_AWAY_INTERVAL_SECONDS = 1.0
"""Time between two attempts to take leadership while Postgres doesn't answer."""

POLICIES_AWAY_INTERVAL_SECONDS = 2.0
"""Time between two looks for the required admission policies while some are missing."""

POLICIES_INTERVAL_SECONDS = 60.0
"""Time between two looks for the required admission policies by a leader."""

RETRY_SECONDS = 0.5
"""Longest pause before a new leader repeats a request without an answer."""

WAIT_TICK_SECONDS = 0.2
"""Time between two ticks of the lease while a new leader waits for the end of the old one's requests."""


class Loss(enum.Enum):
    """Causes of the end of a leadership."""

    STORE_AWAY = "Postgres did not answer for a whole lease"
    SUPERSEDED = "another process leads, or this one stalled beyond its lease"


T = TypeVar("T")

Settled = Callable[[], Awaitable[None]]
Lead = Callable[[int, bool, Settled], Awaitable[None]]
"""The leader's work: a coroutine of (epoch, adopting, settled) that runs until it is cancelled or raises LeaseLostError
or StaleEpochError. It awaits `settled` once rows and pods agree."""


class Candidate:
    """One process's participation in the election."""

    def __init__(self, *, leadership: Leadership, client: ApiClient, lease: Lease, settings: Settings) -> None:
        self._leadership = leadership
        self._client = client
        self._lease = lease
        self._settings = settings
        self.lost = asyncio.Event()
        self._store_away = False
        """Postgres didn't answer the last renewal."""
        self._missing: tuple[str, ...] = ()
        """Required admission policies that were missing at the last look."""

    async def run(self, lead: Lead) -> Loss:
        """Take part until leadership is lost to another process. After an outage of Postgres the process steps down and
        takes part again."""
        while True:
            epoch, orderly = await self._acquire()
            loss = await self._hold(epoch, lead, orderly=orderly)
            logger.warning("leadership is over", epoch=epoch, cause=loss.value)
            if loss is not Loss.STORE_AWAY:
                return loss

    async def _acquire(self) -> tuple[int, bool]:
        """Take leadership; returns the epoch, and True if the last leader released its lease."""
        while True:
            try:
                before = await self._leadership.current()
                if before.expires_in > 0:
                    policies.MISSING.set(0)  # the leader reports them
                elif not await self._may_lead():
                    await asyncio.sleep(POLICIES_AWAY_INTERVAL_SECONDS)
                    continue
                asked_at = time.monotonic()
                epoch = await self._leadership.try_acquire() if before.expires_in <= 0 else None
            except StoreUnavailableError as error:
                logger.warning("Postgres does not answer; not a candidate", error=str(error))
                await asyncio.sleep(STORE_AWAY_INTERVAL_SECONDS)
                continue
            if epoch is not None:
                self._lease.begin(epoch, asked_at=asked_at)
                logger.info("leadership taken", epoch=epoch, after=before.holder)
                return epoch, before.expires_in == 0
            await asyncio.sleep(ACQUIRE_INTERVAL_SECONDS)

    async def _may_lead(self) -> bool:
        """False while required admission policies are missing, or the API server can't say."""
        if not self._settings.require_policies:
            return True
        try:
            found = await policies.missing(self._client, authors=self._settings.require_authors_policy)
        except ApiError as error:
            logger.warning("the admission policies were not read; not a candidate", error=str(error))
            return False
        needed = tuple(name for name in found if name in policies.REQUIRED)
        if found and found != self._missing:
            event = "admission policies are missing; not a candidate" if needed else "admission policies are missing"
            logger.error(event, policies=found)
        self._missing = found
        return not needed

    async def _hold(self, epoch: int, lead: Lead, *, orderly: bool) -> Loss:
        self.lost.clear()
        IS_LEADER.set(1)
        work = asyncio.create_task(self._lead(epoch, lead, orderly=orderly), name="lead")
        renewal = asyncio.create_task(self._renew(), name="renew")
        lost = asyncio.create_task(self.lost.wait(), name="lost")
        tasks: list[asyncio.Task[object]] = [work, renewal, lost]
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
        """Renew the lease until that fails; returns the cause."""
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
        """Cause of the end of leadership. While Postgres is away for the whole lease, no other process can take it."""
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

        # Until rows have been rebuilt from pods, the fence names the old database, so that the next leader adopts too
        # if this one dies before.
        await fence_off(found.database if adopting else identity)
        if found.epoch:
            # After this wait, every request of the old leader has arrived or is refused. A leader that released its
            # lease sent nothing afterwards.
            await self._ticking(settings.request_timeout + (0.0 if orderly else settings.lease))

        async def settled() -> None:
            if adopting:
                await fence_off(identity)

        guard = asyncio.create_task(self._guard(epoch, found.database if adopting else identity), name="fence")
        watch = asyncio.create_task(self._watch_policies(), name="policies")
        try:
            await lead(epoch, adopting, settled)
        finally:
            guard.cancel()
            watch.cancel()

    async def _watch_policies(self) -> None:
        """Report required admission policies that vanish while this process leads. Leadership goes on: its loss would
        stop placement, and bring no policy back."""
        while self._settings.require_policies:
            await asyncio.sleep(POLICIES_INTERVAL_SECONDS)
            try:
                found = await policies.missing(self._client, authors=self._settings.require_authors_policy)
            except ApiError as error:
                logger.warning("the admission policies were not read", error=str(error))
                continue
            if found != self._missing:
                event = "admission policies are missing" if found else "the admission policies are back"
                logger.error(event, policies=found)
            self._missing = found

    async def _guard(self, epoch: int, database: str) -> None:
        """Raise the fence again if it was lowered or deleted; give up leadership if its epoch is higher."""
        while True:
            await asyncio.sleep(GUARD_INTERVAL_SECONDS)
            try:
                found = await fence.read(self._client, self._settings.namespace)
                if found.epoch > epoch:
                    self.lost.set()
                elif found.epoch < epoch:
                    logger.error("the fence was lowered or deleted; raising it again", found=found.epoch, epoch=epoch)
                    await fence.raise_to(self._client, self._settings.namespace, epoch=epoch, database=database)
            except fence.FenceRaisedError:
                self.lost.set()
            except ApiError as error:
                logger.warning("the fence was not read", error=str(error))

    async def _ticking(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._lease.tick()
            await asyncio.sleep(min(WAIT_TICK_SECONDS, left))

    async def _until_answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The result of `ask`, which is repeated while Postgres or the API server is away."""

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
        """Release the lease, so that another process can lead at once. No request of this leader may be running."""
        with contextlib.suppress(StoreError):
            if self._lease.epoch:
                await self._leadership.release(self._lease.epoch)
