"""Running counts of live workloads by pool, namespace, customer and reason, however many workloads there are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from niyanta.lifecycle import Phase
from niyanta.scheduler.memory.earliest import Earliest
from niyanta.store.rows import WorkloadRow

Account = tuple[str, str]
"""Customer and namespace."""


@dataclass(slots=True)
class NamespaceCount:
    """Workloads and their pods in one namespace."""

    waiting: int = 0
    waiting_pods: int = 0
    running: int = 0
    running_pods: int = 0

    def __bool__(self) -> bool:
        """True if it has any workload."""
        return bool(self.waiting or self.running)


class _Counted(NamedTuple):
    """Everything of a row that is counted."""

    phase: Phase
    pool: str
    customer: str
    namespace: str
    replicas: int
    queued_at: int
    reason: str

    @property
    def account(self) -> Account:
        return self.customer, self.namespace


class Tally:
    """Counts of the workloads in memory. A change costs O(log workloads)."""

    def __init__(self) -> None:
        self.bound: Counter[str] = Counter()
        """Pool -> placed and running workloads."""
        self.namespaces: dict[str, NamespaceCount] = {}
        self.pending = 0
        """Pending workloads, in the queue or not."""
        self.oldest: Earliest[Account, str] = Earliest(self._waits_since)
        """The earliest `queued_at` of pending workloads, µs."""
        self.held: Counter[str] = Counter()
        """Reason -> held workloads."""
        self._counted: dict[str, _Counted] = {}

    def note(self, row: WorkloadRow) -> None:
        """Count a workload in memory, instead of what was counted for it before."""
        reason = row.reason if row.phase is Phase.HELD else ""
        queued_at = row.queued_at_us if row.phase is Phase.PENDING else 0
        now = _Counted(row.phase, row.pool, row.customer, row.namespace, row.replicas, queued_at, reason)
        if self._counted.get(row.id) == now:
            return
        self.forget(row.id)
        self._counted[row.id] = now
        self._add(now, 1)
        if now.phase is Phase.PENDING:
            self.oldest.enter(now.account, row.id, now.queued_at)

    def forget(self, workload_id: str) -> None:
        """A workload is no longer in memory."""
        known = self._counted.pop(workload_id, None)
        if known is not None:
            self._add(known, -1)
            if known.phase is Phase.PENDING:
                self.oldest.leave(known.account)

    def _add(self, counted: _Counted, by: int) -> None:
        if counted.phase is Phase.HELD:
            self.held[counted.reason] += by
            if not self.held[counted.reason]:
                del self.held[counted.reason]
        if not counted.phase.bound and counted.phase is not Phase.PENDING:
            return
        space = self.namespaces.setdefault(counted.namespace, NamespaceCount())
        if counted.phase.bound:
            self.bound[counted.pool] += by
            space.running += by
            space.running_pods += by * counted.replicas
            if not self.bound[counted.pool]:
                del self.bound[counted.pool]
        else:
            self.pending += by
            space.waiting += by
            space.waiting_pods += by * counted.replicas
        if not space:
            del self.namespaces[counted.namespace]

    def _waits_since(self, account: Account, workload_id: str) -> int | None:
        known = self._counted.get(workload_id)
        if known is None or known.phase is not Phase.PENDING or known.account != account:
            return None
        return known.queued_at
