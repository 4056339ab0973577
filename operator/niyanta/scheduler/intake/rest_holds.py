"""REST rows that only Postgres holds: held when their Customer is gone, and released when it comes back.

`reviews` runs it in slices after changes of Customers and namespaces. Held REST rows aren't in memory, so they are
released by customer. Each is reviewed when `backlog.loader` has brought it into memory, and held again if it must be.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from niyanta.aio import Backoff
from niyanta.containment import Boundary, SharedFaultError, contained, record
from niyanta.observability import log
from niyanta.resources.ownership import HeldReason
from niyanta.scheduler.cluster_api import ClusterReads
from niyanta.scheduler.reasons import RowReason
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import Transitions
from niyanta.store.errors import ConflictError, StoreUnavailableError
from niyanta.store.rows import WorkloadRow
from niyanta.store.state import StateManager

logger = log.get(__name__)

SLICE_ROWS = 500

RULES = tuple(reason.value for reason in HeldReason if reason is not HeldReason.NAMESPACE_NOT_ENABLED)
"""Reasons that a change of Customers may remove."""

UNKNOWN_TIER = "unknown"

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 300.0
"""Range of the time after which rows of a customer that could not be moved are tried again."""


@dataclass(frozen=True, slots=True)
class _Pass:
    """Rows of one customer to look at. `namespaces` None: all."""

    customer: str
    reasons: tuple[str, ...]
    namespaces: tuple[str, ...] | None = None


class RestHolds:
    """Holds and releases the rows of one customer after the other."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        store: StateManager,
        cluster: ClusterReads,
        transitions: Transitions,
    ) -> None:
        self._state = state
        self._store = store
        self._cluster = cluster
        self._transitions = transitions
        self._customers_changed = False
        self._namespaces: set[str] = set()
        self._passes: deque[_Pass] = deque()
        self._later: dict[_Pass, float] = {}
        """Pass that failed -> monotonic time at which it is tried again."""
        self._backoffs: dict[_Pass, Backoff] = {}
        self._parked: tuple[str, ...] = (RowReason.INTERNAL_ERROR.value, RowReason.OBJECT_MISMATCH.value)
        """Reasons of parked rows, which a new leader looks at again, once."""

    def request_all(self) -> None:
        """Customers changed."""
        self._customers_changed = True

    def request_namespaces(self, namespaces: Collection[str]) -> None:
        """Labels of these namespaces may have changed."""
        self._namespaces.update(name for name in namespaces if name)

    @property
    def unfinished(self) -> bool:
        """True if work is left for `run_slice`."""
        return self._customers_changed or bool(self._namespaces) or bool(self._passes) or bool(self._due())

    async def run_slice(self) -> None:
        """Hold or release the next rows. Customers take turns, and one whose rows can't be moved waits for a growing
        time, also if Postgres gives no answer for them alone. May be repeated after an error."""
        if not self._passes and (self._customers_changed or self._namespaces):
            await self._plan()
        for following in self._due():
            del self._later[following]
            if following not in self._passes:
                self._passes.append(following)
        if not self._passes:
            return
        following = self._passes[0]
        self._passes.rotate(-1)
        try:
            move = self._release(following) if self._exists(following.customer) else self._hold(following.customer)
            count = await move
        except (StoreUnavailableError, ConflictError) as error:
            logger.warning("REST rows of a customer were not moved", customer=following.customer, error=str(error))
            self._postpone(following)
        except SharedFaultError:
            raise
        except Exception as error:
            record(Boundary.CUSTOMER, following.customer, error)
            self._postpone(following)
        else:
            self._backoffs.pop(following, None)
            if count < SLICE_ROWS:
                self._passes.remove(following)

    def _due(self) -> list[_Pass]:
        now = time.monotonic()
        return [following for following, at in self._later.items() if at <= now]

    def _postpone(self, following: _Pass) -> None:
        self._passes.remove(following)
        backoff = self._backoffs.setdefault(
            following, Backoff(first_seconds=FIRST_PAUSE_SECONDS, longest_seconds=LONGEST_PAUSE_SECONDS)
        )
        self._later[following] = time.monotonic() + backoff.next()

    async def _plan(self) -> None:
        """Choose the customers with rows that may have to move."""
        depths = (await self._store.get_queue_depth()).customers
        enabled = tuple(sorted(name for name in self._namespaces if self._cluster.namespace_enabled(name)))
        for name, depth in sorted(depths.items()):
            if self._customers_changed and (depth.held if self._exists(name) else depth.pending):
                self._passes.append(_Pass(name, (*RULES, *self._parked)))
            if enabled and depth.held:
                self._passes.append(_Pass(name, (HeldReason.NAMESPACE_NOT_ENABLED.value,), enabled))
        if self._customers_changed:
            self._parked = ()
        self._customers_changed = False
        self._namespaces.clear()

    def _exists(self, customer: str) -> bool:
        return self._cluster.customer_tier(customer) != UNKNOWN_TIER

    async def _hold(self, customer: str) -> int:
        rows = await self._store.hold_rows(
            customer,
            HeldReason.UNKNOWN_CUSTOMER.value,
            f"there is no Customer {customer}",
            epoch=self._state.epoch,
            limit=SLICE_ROWS,
        )
        self._follow(rows)
        return len(rows)

    async def _release(self, following: _Pass) -> int:
        rows = await self._store.release_rows(
            following.customer,
            epoch=self._state.epoch,
            limit=SLICE_ROWS,
            reasons=following.reasons,
            namespaces=following.namespaces,
            queue_limit=self._cluster.customer_limits(following.customer).queue_depth,
        )
        self._follow(rows)
        return len(rows)

    def _follow(self, rows: Sequence[WorkloadRow]) -> None:
        for row in rows:
            tracked = self._state.workloads.get(row.id)
            if tracked is None:
                self._state.backlog.doubt(row.customer, row.queue_class)
                continue
            with contained(Boundary.ROW, row.id):
                self._transitions.follow(tracked, row)
