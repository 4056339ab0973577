"""Deletions of Workload objects that kopf's watch missed, found by a list."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError
from niyanta.cluster.api.kinds import WORKLOADS
from niyanta.containment import Boundary, contained
from niyanta.observability import log

logger = log.get(__name__)

LONGEST_INTERVAL_SECONDS = 600.0
"""Longest time until a deletion that kopf missed is found, if kopf lists nothing meanwhile."""

SETTLE_SECONDS = 1.0
"""Time in which kopf passes on the events of a list."""


class DeletedWorkloads:
    """Compares the Workload objects with the live rows after each list by kopf, and at least every 10 minutes."""

    def __init__(self, client: ApiClient, *, on_deleted: Callable[[str], None]) -> None:
        """Needs a running event loop. `on_deleted` gets the UID of each live workload without an object."""
        self._client = client
        self._on_deleted = on_deleted
        self._loop = asyncio.get_running_loop()
        self._listed = asyncio.Event()

    def kopf_listed(self) -> None:
        """kopf has listed the Workloads again: its watch broke and may have missed deletions. Safe from any thread."""
        if not self._listed.is_set():
            self._loop.call_soon_threadsafe(self._listed.set)

    async def run(self, live: Callable[[], set[str]]) -> None:
        """Compare until cancelled. `live`: UIDs of the objects of unfinished workloads."""
        self._listed.clear()  # the recovery of a new leader has a list of its own
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LONGEST_INTERVAL_SECONDS):
                    await self._listed.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            self._listed.clear()
            with contained(Boundary.LISTENER, "deletions of workloads"):
                try:
                    await self._compare(live())
                except ApiError as error:
                    logger.warning("workloads were not listed", error=str(error))
                    self._listed.set()

    async def _compare(self, expected: set[str]) -> None:
        listed = await self._client.list_uids(WORKLOADS)
        # Objects that can't be read are left out of the list: the leader reads an object again before it cancels.
        for uid in expected - listed:
            with contained(Boundary.OBJECT, uid):
                self._on_deleted(uid)
