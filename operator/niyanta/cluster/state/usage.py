"""Capacity taken on each worker, from two sources: committed rows and live pods.

A committed placement takes capacity before its pods exist, and a pod takes it until it has ended, even after its row
moved on: a charge exists while a row or a pod holds it. `cache` feeds the index; the engine's snapshots get the
changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from niyanta.engine.types import Charge, Requirements, Subject


@dataclass(slots=True)
class _Entry:
    charge: Charge
    from_row: bool
    """The charge comes from a row, which has the anti-affinity terms and the exact subject; a pod's labels lack
    them."""
    row: bool
    pods: set[str] = field(default_factory=set)


class UsageIndex:
    """Charges by key. `on_change(key, charge)` is called for each change; `charge` is None when it is released."""

    def __init__(self, on_change: Callable[[str, Charge | None], None]) -> None:
        self._on_change = on_change
        self._entries: dict[str, _Entry] = {}
        self._claims: dict[tuple[str, int], list[str]] = {}

    def charges(self) -> Iterable[Charge]:
        """All current charges."""
        return (entry.charge for entry in self._entries.values())

    def get(self, key: str) -> Charge | None:
        """The current charge with this key; None if it doesn't exist."""
        entry = self._entries.get(key)
        return entry.charge if entry else None

    def claim(
        self, workload_id: str, attempt: int, *, workers: Sequence[str], requirements: Requirements, subject: Subject
    ) -> None:
        """Charge a committed placement: one charge per worker, in index order. A repeated claim replaces the former."""
        self.unclaim(workload_id, attempt, keep=len(workers))
        keys = self._claims[workload_id, attempt] = []
        for index, worker in enumerate(workers):
            charge = Charge(
                key=f"{workload_id}/{attempt}/{index}",
                worker=worker,
                requests=requirements.requests,
                gpu_count=requirements.gpu_count,
                host_ports=requirements.host_ports,
                subject=subject,
                anti=requirements.anti,
            )
            keys.append(charge.key)
            entry = self._entries.get(charge.key)
            if entry is None:
                self._entries[charge.key] = _Entry(charge, from_row=True, row=True)
                self._on_change(charge.key, charge)
                continue
            entry.row = True
            if not entry.pods or entry.charge.worker == worker:
                entry.from_row = True
                self._set(entry, charge)

    def unclaim(self, workload_id: str, attempt: int, *, keep: int = 0) -> None:
        """The attempt is over. Indexes below `keep` are claimed again at once and aren't released in between."""
        for index, key in enumerate(self._claims.pop((workload_id, attempt), ())):
            if index >= keep:
                entry = self._entries[key]
                entry.row = False
                self._release_if_done(key, entry)

    def pod(self, uid: str, charge: Charge) -> None:
        """Charge a live pod. A charge from a row is kept, unless the pod is on another worker."""
        entry = self._entries.get(charge.key)
        if entry is None:
            self._entries[charge.key] = _Entry(charge, from_row=False, row=False, pods={uid})
            self._on_change(charge.key, charge)
            return
        entry.pods.add(uid)
        if not entry.from_row or entry.charge.worker != charge.worker:
            entry.from_row = False
            self._set(entry, charge)

    def pod_gone(self, uid: str, key: str) -> None:
        """The pod takes no capacity any more."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.pods.discard(uid)
            self._release_if_done(key, entry)

    def _set(self, entry: _Entry, charge: Charge) -> None:
        if entry.charge != charge:
            entry.charge = charge
            self._on_change(charge.key, charge)

    def _release_if_done(self, key: str, entry: _Entry) -> None:
        if not entry.row and not entry.pods:
            del self._entries[key]
            self._on_change(key, None)
