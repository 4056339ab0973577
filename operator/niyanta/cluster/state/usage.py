"""Capacity taken on each worker, from two sources: committed rows and live pods.

A committed placement takes capacity before its pods exist, and a pod takes it until it has ended, even after its row
moved on: a charge exists while a row or a pod holds it. `cache` feeds the index; the engine's snapshots get the
changes.

Labels alone make no pod of a workload. A pod that names a key which another pod holds, or which a row holds on another
worker, is a stranger: it is charged under its own UID, beside the key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from niyanta.engine.types import Charge, Requirements, Subject


@dataclass(slots=True)
class _Held:
    """One key: `claimed` while a row holds it."""

    known: Charge | None = None
    """The row's charge, which has the anti-affinity terms and the exact subject; a pod's labels lack them. It outlives
    the claim for as long as the pod does."""
    claimed: bool = False
    pods: dict[str, Charge] = field(default_factory=dict)
    """Live pods that name the key, by UID, oldest first."""
    apart: tuple[str, ...] = ()
    """UIDs of those that are charged under their UID."""


class UsageIndex:
    """Charges by key. `on_change(key, charge)` is called for each change; `charge` is None when it is released."""

    def __init__(self, on_change: Callable[[str, Charge | None], None]) -> None:
        self._on_change = on_change
        self._held: dict[str, _Held] = {}
        self._charges: dict[str, Charge] = {}
        self._claims: dict[tuple[str, int], tuple[str, ...]] = {}

    def charges(self) -> Iterable[Charge]:
        """All current charges."""
        return self._charges.values()

    def of_pod(self, uid: str, key: str) -> Charge | None:
        """The charge of a pod that names `key`; None if it takes nothing."""
        return self._charges.get(uid) or self._charges.get(key)

    def claimed_workers(self, workload_id: str, attempt: int) -> tuple[str, ...] | None:
        """Workers of a claimed attempt, in index order; None if the attempt isn't claimed."""
        return self._claims.get((workload_id, attempt))

    def claim(
        self, workload_id: str, attempt: int, *, workers: Sequence[str], requirements: Requirements, subject: Subject
    ) -> None:
        """Charge a committed placement: one charge per worker, in index order. A repeated claim replaces the former."""
        self.unclaim(workload_id, attempt, keep=len(workers))
        self._claims[workload_id, attempt] = tuple(workers)
        for index, worker in enumerate(workers):
            key = f"{workload_id}/{attempt}/{index}"
            held = self._held.setdefault(key, _Held())
            held.claimed = True
            held.known = Charge(
                key=key,
                worker=worker,
                requests=requirements.requests,
                gpu_count=requirements.gpu_count,
                host_ports=requirements.host_ports,
                subject=subject,
                anti=requirements.anti,
            )
            self._settle(key, held)

    def unclaim(self, workload_id: str, attempt: int, *, keep: int = 0) -> None:
        """The attempt is over. Indexes below `keep` are claimed again at once and aren't released in between."""
        for index in range(keep, len(self._claims.pop((workload_id, attempt), ()))):
            key = f"{workload_id}/{attempt}/{index}"
            held = self._held[key]
            held.claimed = False
            self._settle(key, held)

    def pod(self, uid: str, charge: Charge) -> None:
        """Charge a live pod, under its key if that is free."""
        held = self._held.setdefault(charge.key, _Held())
        held.pods[uid] = charge
        self._settle(charge.key, held)

    def pod_gone(self, uid: str, key: str) -> None:
        """The pod takes no capacity any more."""
        held = self._held.get(key)
        if held is not None and held.pods.pop(uid, None) is not None:
            self._settle(key, held)

    def _settle(self, key: str, held: _Held) -> None:
        """Publish what follows from the row and the pods of a key."""
        holder = _holder(held)
        if held.known is not None and not held.claimed and holder is None:
            held.known = None
            holder = _holder(held)
        own = held.known if held.known is not None or holder is None else held.pods[holder]
        self._publish(key, own)
        apart = tuple(uid for uid in held.pods if uid != holder)
        for uid in held.apart:
            if uid not in apart:
                self._publish(uid, None)
        for uid in apart:
            # A stranger is no peer of other workloads.
            self._publish(uid, replace(held.pods[uid], key=uid, subject=None))
        held.apart = apart
        if own is None and not held.pods:
            del self._held[key]

    def _publish(self, key: str, charge: Charge | None) -> None:
        if self._charges.get(key) == charge:
            return
        if charge is None:
            del self._charges[key]
        else:
            self._charges[key] = charge
        self._on_change(key, charge)


def _holder(held: _Held) -> str | None:
    """UID of the pod that the key belongs to: the oldest one on the row's worker."""
    known = held.known
    return next((uid for uid, charge in held.pods.items() if known is None or charge.worker == known.worker), None)
