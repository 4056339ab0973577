"""Operations of the API processes besides `StateManager`: submissions, moves, rate windows. Reads are in `reads`.

They do not need leadership: row versions, unique keys and the customers' locks protect them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from niyanta.lifecycle import Event, IllegalTransitionError
from niyanta.store.errors import StoreError
from niyanta.store.postgres.pool import fetch
from niyanta.store.rest.submissions import SubmissionOutcome, SubmissionRequest, replay, submit
from niyanta.store.row_mapping import checked_id, phase_of, workload_row
from niyanta.store.rows import WorkloadRow
from niyanta.store.state import StateManager

_HINT_EVERY_SECONDS = 0.05


class RestStore(StateManager):
    """The store as the REST door uses it."""

    _hinting: asyncio.Task[None] | None = None

    # --- Submitting --------------------------------------------------------------------------------------------------

    async def submit(self, requests: Sequence[SubmissionRequest]) -> list[SubmissionOutcome]:
        """See `submissions.submit`. Sends a hint to the leader afterwards."""
        outcomes = await submit(self._pool, requests, keys=self._keys)
        self.hint()
        return outcomes

    async def find_answer(self, customer: str, key: str, body_hash: str) -> SubmissionOutcome | None:
        """The stored response to an idempotency key; None when the key was not used within 24 hours."""
        rows = await self._pool.fetch("door_answers", {"customers": [customer], "keys": [key]})
        return replay(body_hash, *rows[0][2:]) if rows else None

    async def move(self, id_: str, event: Event) -> WorkloadRow:
        """Cancel, suspend or resume a REST submission, and set `spec.suspend`; in one transaction.

        Raises LookupError, IllegalTransitionError, StoreError (a workload of the Kubernetes door).
        """
        id_ = checked_id(id_)
        async with self._pool.transaction() as connection:
            found = await fetch(connection, "door_move", {"id": id_, "event": event.value})
            if not found:
                raise LookupError(id_)
            ((status, moved),) = found
            if not moved:
                raise IllegalTransitionError(phase_of(status), event)
            ((record,)) = await fetch(connection, "rows_by_id", {"ids": [id_]})
        self.hint()
        return workload_row(record)

    def hint(self) -> None:
        """Notify listeners of the channel niyanta_changes, at most every 50 ms."""
        if self._hinting is None or self._hinting.done():
            self._hinting = asyncio.create_task(self._hint())

    async def _hint(self) -> None:
        with contextlib.suppress(StoreError):
            await self._pool.execute("hint")
        await asyncio.sleep(_HINT_EVERY_SECONDS)

    # --- Pressure ----------------------------------------------------------------------------------------------------

    async def waiting_by_customer(self) -> dict[str, int]:
        """Numbers of waiting workloads (also held and suspended ones) by customer, from counters."""
        return {customer: int(count) for customer, count in await self._pool.fetch("waiting_by_customer")}

    # --- Rate windows ------------------------------------------------------------------------------------------------

    async def rate_acquire(self, key: str, *, limit: int, expiry: int, amount: int) -> bool:
        """Add `amount` to a sliding window of `expiry` seconds; False when that would exceed `limit`."""
        params = {"key": key, "limit": limit, "expiry": expiry, "amount": amount}
        return bool((await self._pool.fetch("rate_acquire", params))[0][0])

    async def rate_window(self, key: str, *, expiry: int) -> tuple[int, float, int, float]:
        """(previous amount, seconds until it expires, current amount, seconds until it expires)."""
        ((before, left, now, rest),) = await self._pool.fetch("rate_window", {"key": key, "expiry": expiry})
        return before, left, now, rest

    async def prune(self) -> None:
        """Delete expired rate windows and idempotency keys."""
        await self._pool.execute("door_prune")
