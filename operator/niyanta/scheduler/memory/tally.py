"""Running counts of live workloads by pool and namespace. Each change costs O(1), however many workloads there are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from niyanta.lifecycle import Phase
from niyanta.store.rows import WorkloadRow


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


class Tally:
    """Counts of the workloads in memory."""

    def __init__(self) -> None:
        self.bound: Counter[str] = Counter()
        """Pool -> placed and running workloads."""
        self.namespaces: dict[str, NamespaceCount] = {}
        self.pending = 0
        """Pending workloads, in the queue or not."""
        self.held: dict[str, None] = {}
        """Ids of held workloads."""
        self.changes = 0
        """It grows with each change of a count."""
        self._counted: dict[str, tuple[Phase, str, str, int]] = {}
        """Workload -> phase, pool, namespace and replicas as counted."""

    def note(self, row: WorkloadRow) -> None:
        """Count a workload in memory, instead of what was counted for it before."""
        now = row.phase, row.pool, row.namespace, row.replicas
        if self._counted.get(row.id) == now:
            return
        self.forget(row.id)
        self._counted[row.id] = now
        self._add(row.id, now, 1)

    def forget(self, workload_id: str) -> None:
        """A workload is no longer in memory."""
        known = self._counted.pop(workload_id, None)
        if known is not None:
            self._add(workload_id, known, -1)

    def _add(self, workload_id: str, counted: tuple[Phase, str, str, int], by: int) -> None:
        phase, pool, namespace, replicas = counted
        self.changes += 1
        if phase is Phase.HELD:
            if by > 0:
                self.held[workload_id] = None
            else:
                self.held.pop(workload_id, None)
        if not phase.bound and phase is not Phase.PENDING:
            return
        space = self.namespaces.setdefault(namespace, NamespaceCount())
        if phase.bound:
            self.bound[pool] += by
            space.running += by
            space.running_pods += by * replicas
            if not self.bound[pool]:
                del self.bound[pool]
        else:
            self.pending += by
            space.waiting += by
            space.waiting_pods += by * replicas
        if not space:
            del self.namespaces[namespace]
