"""REST rows that only Postgres holds: held when their Customer is gone, and released when it comes back.

`reviews` runs it in slices after changes of Customers and namespaces. Held REST rows aren't in memory, so they are
released by customer. Each is reviewed when `refill` has brought it into memory, and held again if it must be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from niyanta.resources.ownership import HeldReason
from niyanta.scheduler.cluster_api import ClusterReads
from niyanta.scheduler.reasons import RowReason
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import Transitions
from niyanta.store.state import StateManager

SLICE_ROWS = 500

RULES = tuple(reason.value for reason in HeldReason)
"""Reasons that a change of Customers or namespaces may remove."""

UNKNOWN_TIER = "unknown"


class RestHolds:
    """Holds and releases the rows of one customer after the other."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        store: StateManager,
        cluster: ClusterReads,
        transitions: Transitions,
        on_released: Callable[[], None],
    ) -> None:
        """`on_released` is called when Postgres has pending rows that aren't in memory."""
        self._state = state
        self._store = store
        self._cluster = cluster
        self._transitions = transitions
        self._on_released = on_released
        self._requested = False
        self._customers: deque[str] = deque()
        self._first = True
        """A new leader looks at parked rows again, once."""

    def request(self) -> None:
        """Customers or namespaces changed."""
        self._requested = True

    @property
    def unfinished(self) -> bool:
        """True if customers are left."""
        return self._requested or bool(self._customers)

    async def run_slice(self) -> None:
        """Hold or release the next rows. May be repeated after an error."""
        if not self._customers and self._requested:
            depths = (await self._store.get_queue_depth()).customers
            self._customers.extend(sorted(name for name, depth in depths.items() if depth.held or depth.pending))
            self._requested = False
        if not self._customers:
            self._first = False
            return
        customer = self._customers[0]
        exists = self._cluster.customer_tier(customer) != UNKNOWN_TIER
        count = await (self._release(customer) if exists else self._hold(customer))
        if count < SLICE_ROWS:
            self._customers.popleft()

    async def _hold(self, customer: str) -> int:
        rows = await self._store.hold_rows(
            customer,
            HeldReason.UNKNOWN_CUSTOMER.value,
            f"there is no Customer {customer}",
            epoch=self._state.epoch,
            limit=SLICE_ROWS,
        )
        for row in rows:
            tracked = self._state.workloads.get(row.id)
            if tracked is not None:
                self._transitions.follow(tracked, row)
        return len(rows)

    async def _release(self, customer: str) -> int:
        reasons = (*RULES, RowReason.OBJECT_MISMATCH.value, *((RowReason.INTERNAL_ERROR.value,) if self._first else ()))
        rows = await self._store.release_rows(
            customer,
            epoch=self._state.epoch,
            limit=SLICE_ROWS,
            reasons=reasons,
            queue_limit=self._cluster.customer_limits(customer).queue_depth,
        )
        for row in rows:
            tracked = self._state.workloads.get(row.id)
            if tracked is not None:
                self._transitions.follow(tracked, row)
        if rows:
            self._on_released()
        return len(rows)
