"""Capacity taken on each worker, from two sources: committed rows and live pods.

A committed placement takes its capacity before its pods exist, and a pod keeps taking it after its row moved on: the
charge stands while either source has it. `cache` fills this; the engine's snapshots get the differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from niyanta.engine.types import Charge, Requirements, Subject


@dataclass(slots=True)
class _Entry:
    charge: Charge
    from_row: bool
    """The charge was made from a row: it knows the anti terms and the exact subject, which a pod's labels don't."""
    row: bool
    pods: set[str] = field(default_factory=set)


class UsageIndex:
    """Charges by key. `on_change(key, charge)` is told each difference; None: released."""

    def __init__(self, on_change: Callable[[str, Charge | None], None]) -> None:
        self._on_change = on_change
        self._entries: dict[str, _Entry] = {}
        self._claims: dict[tuple[str, int], list[str]] = {}

    def charges(self) -> Iterable[Charge]:
        """All that stand."""
        return (entry.charge for entry in self._entries.values())

    def get(self, key: str) -> Charge | None:
        """The charge under that key, if it stands."""
        entry = self._entries.get(key)
        return entry.charge if entry else None

    def claim(
        self, workload_id: str, attempt: int, *, workers: Sequence[str], requirements: Requirements, subject: Subject
    ) -> None:
        """A committed placement: one charge per worker, in index order. Claiming again replaces."""
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
        """The attempt is over; indexes below `keep` are about to be claimed again and aren't released in between."""
        for index, key in enumerate(self._claims.pop((workload_id, attempt), ())):
            if index >= keep:
                entry = self._entries[key]
                entry.row = False
                self._release_if_done(key, entry)

    def pod(self, uid: str, charge: Charge) -> None:
        """A live pod that takes `charge`. What a row said about it stands, unless the pod is on another worker."""
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
        """The pod takes nothing any more."""
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
