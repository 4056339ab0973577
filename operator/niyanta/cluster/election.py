"""Taking, keeping and losing leadership: the row in Postgres, the fence in the cluster, and the session in between."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from prometheus_client import Gauge

from niyanta import log
from niyanta.cluster import fence
from niyanta.cluster.client import ApiClient
from niyanta.cluster.errors import ApiError
from niyanta.scheduler.lease import Lease
from niyanta.scheduler.ports import LeaseLostError
from niyanta.settings import Settings
from niyanta.store.errors import StaleEpochError, StoreError, StoreUnavailableError
from niyanta.store.leadership import Leadership

logger = log.get(__name__)

IS_LEADER = Gauge("niyanta_leader", "1 while this process leads")
EPOCH = Gauge("niyanta_leader_epoch", "Epoch of this process's last leadership")

POLL = 0.25
"""Seconds between two tries to take leadership."""


class Loss(enum.Enum):
    """How a leadership ended."""

    STOPPED = "stopped"
    """This process is to stop."""
    STORE_AWAY = "Postgres did not answer for a whole lease"
    SUPERSEDED = "another process leads, or this one stalled beyond its lease"


T = TypeVar("T")

Lead = Callable[[int, bool], Awaitable[None]]
"""What to do while leading: (epoch, adopting), runs until cancelled or LeaseLostError / StaleEpochError."""


class Candidate:
    """One process's part in the election."""

    def __init__(self, *, leadership: Leadership, client: ApiClient, lease: Lease, settings: Settings) -> None:
        self._leadership = leadership
        self._client = client
        self._lease = lease
        self._settings = settings
        self.lost = asyncio.Event()

    async def run(self, lead: Lead) -> Loss:
        """Take part until leadership is lost for good; steps down and goes on when only Postgres was away."""
        while True:
            epoch, orderly = await self._acquire()
            loss = await self._hold(epoch, lead, orderly=orderly)
            logger.warning("leadership is over", epoch=epoch, cause=loss.value)
            if loss is not Loss.STORE_AWAY:
                return loss

    async def _acquire(self) -> tuple[int, bool]:
        """Returns the epoch, and whether the last leader left in good order (then nothing of it can be under way)."""
        while True:
            asked_at = time.monotonic()
            try:
                before = await self._leadership.current()
                epoch = await self._leadership.try_acquire() if before.expires_in <= 0 else None
            except StoreUnavailableError as error:
                logger.warning("Postgres does not answer; not a candidate", error=str(error))
                await asyncio.sleep(1.0)
                continue
            if epoch is not None:
                self._lease.begin(epoch, asked_at=asked_at)
                logger.info("leadership taken", epoch=epoch, after=before.holder or "nobody")
                return epoch, not before.holder
            await asyncio.sleep(POLL)

    async def _hold(self, epoch: int, lead: Lead, *, orderly: bool) -> Loss:
        self.lost.clear()
        IS_LEADER.set(1)
        work = asyncio.create_task(self._lead(epoch, lead, orderly=orderly), name="lead")
        renewal = asyncio.create_task(self._renew(epoch), name="renew")
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
            return Loss.SUPERSEDED
        finally:
            IS_LEADER.set(0)
            self._lease.end()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _renew(self, epoch: int) -> Loss:
        """Renew until that fails; returns why."""
        answered = time.monotonic()
        while True:
            await asyncio.sleep(self._settings.renew_every)
            if self._lease.stalled:
                logger.error("the leader's loop stalled; no renewal")
                if not self._lease.valid:
                    return Loss.SUPERSEDED
                continue
            asked_at = time.monotonic()
            try:
                kept = await self._leadership.renew(epoch)
            except StoreUnavailableError as error:
                logger.warning("the lease was not renewed", error=str(error))
                if not self._lease.valid:
                    return Loss.STORE_AWAY
                continue
            if not kept:
                # Nobody else may have taken it: when Postgres was away for longer than the lease, nobody could.
                silent = asked_at - answered
                return Loss.STORE_AWAY if silent > self._settings.lease else Loss.SUPERSEDED
            answered = asked_at
            self._lease.renewed(asked_at=asked_at)

    async def _lead(self, epoch: int, lead: Lead, *, orderly: bool) -> None:
        settings = self._settings
        identity = await self._patiently(self._leadership.database_identity)
        standing = await self._patiently(lambda: fence.read(self._client, settings.namespace))
        adopting = bool(standing.database) and (standing.database != identity or standing.epoch > epoch)
        if standing.epoch >= epoch:
            logger.warning("the fence is ahead of the database", fence=standing.epoch, epoch=epoch)
            epoch = await self._patiently(lambda: self._leadership.adopt_epoch(standing.epoch))
            self._lease.epoch = epoch
        EPOCH.set(epoch)
        await self._patiently(lambda: fence.raise_to(self._client, settings.namespace, epoch=epoch, database=identity))
        if standing.epoch and not orderly:
            # Whatever the old leader sent before its lease ran out has arrived, or is refused, after this.
            await self._ticking(settings.lease + settings.request_timeout)
        await lead(epoch, adopting)

    async def _ticking(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._lease.tick()
            await asyncio.sleep(min(0.2, left))

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer: both servers may be away for a while."""
        while True:
            self._lease.tick()
            try:
                return await ask()
            except (StoreUnavailableError, ApiError) as error:
                logger.warning("a new leader can't begin yet", error=str(error))
                await asyncio.sleep(0.5)

    async def release(self) -> None:
        """Give leadership back in good order (nothing of ours may be under way any more)."""
        with contextlib.suppress(StoreError):
            if self._lease.epoch:
                await self._leadership.release(self._lease.epoch)
