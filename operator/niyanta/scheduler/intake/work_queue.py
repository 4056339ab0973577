"""The leader's work queue: changed objects, pods and nodes, coalesced by identity.

kopf's thread and the reflectors put changes in; the leader's loop takes them out. While this process doesn't lead, the
queue is closed and empty: a new leader lists all objects itself.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class DeletedObject:
    """A Workload object that is deleted or being deleted."""

    uid: str


@dataclass(slots=True)
class PendingWork:
    """Changes since the last round."""

    objects: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    gone: dict[str, DeletedObject] = field(default_factory=dict)
    workloads: set[str] = field(default_factory=set)
    customers: bool = False
    defaults: set[str] = field(default_factory=set)
    """Namespaces whose LimitRanges changed; "": a change for all namespaces."""
    capacity: bool = False
    """Free capacity may have changed."""

    def __bool__(self) -> bool:
        """True if the queue or the free capacity of workers may have changed."""
        changed = self.objects or self.gone or self.workloads or self.defaults
        return bool(changed) or self.customers or self.capacity


class WorkQueue:
    """Collects changes. The `put_...` methods may be called from any thread, `take` and `wait` from `loop` only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._work = PendingWork()
        self._generations: dict[str, int] = {}
        self._event = asyncio.Event()
        self._open = False
        self._hinted = True

    def open(self) -> None:
        """Leadership begins: keep changes from now on."""
        with self._lock:
            self._work = PendingWork()
            self._generations = {}
            self._open = True

    def close(self) -> None:
        """Leadership is over: drop all changes."""
        with self._lock:
            self._open = False
            self._work = PendingWork()
            self._generations = {}

    def put_object(self, obj: Mapping[str, Any]) -> None:
        """A Workload object was added or edited. A generation that was put before is dropped, so that the operator's
        own status writes cause no work."""
        meta = obj["metadata"]
        uid, generation = meta["uid"], int(meta.get("generation", 1))
        with self._lock:
            if not self._open:
                return
            if meta.get("deletionTimestamp"):
                self._work.objects.pop(uid, None)
                self._work.gone[uid] = DeletedObject(uid)
            elif self._generations.get(uid, 0) < generation:
                self._generations[uid] = generation
                self._work.objects[uid] = obj
            else:
                return
        self.wake()

    def put_gone(self, uid: str) -> None:
        """A Workload object was deleted."""
        with self._lock:
            if not self._open:
                return
            self._generations.pop(uid, None)
            self._work.objects.pop(uid, None)
            self._work.gone[uid] = DeletedObject(uid)
        self.wake()

    def put_workloads(self, workload_ids: Iterable[str]) -> None:
        """Pods of these workloads, or the nodes of their pods, changed."""
        with self._lock:
            if not self._open:
                return
            self._work.workloads.update(workload_ids)
        self.wake()

    def put_customers(self) -> None:
        """A Customer was added, edited or deleted."""
        with self._lock:
            self._work.customers = self._open
        self.wake()

    def put_defaults(self, namespaces: Iterable[str]) -> None:
        """LimitRanges of these namespaces changed; "": a RuntimeClass changed."""
        with self._lock:
            if self._open:
                self._work.defaults.update(namespaces)
        self.wake()

    def put_capacity(self) -> None:
        """Free capacity may have changed: a cycle should consider waiting workloads again."""
        with self._lock:
            self._work.capacity = self._open
        self.wake()

    def put_hint(self) -> None:
        """Another process may have changed rows."""
        self._hinted = True
        self.wake()

    def take_hint(self) -> bool:
        """True if a hint came since the last call."""
        hinted, self._hinted = self._hinted, False
        return hinted

    def wake(self) -> None:
        """End the loop's `wait` now. Safe from any thread."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            self._event.set()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._event.set)

    def take(self) -> PendingWork:
        """Take all changes so far out of the queue."""
        self._event.clear()
        with self._lock:
            work, self._work = self._work, PendingWork()
        return work

    async def wait(self, at_most_seconds: float) -> None:
        """Return at the next change or `wake`, at the latest after `at_most_seconds`."""
        try:
            async with asyncio.timeout(at_most_seconds):
                await self._event.wait()
        except TimeoutError:
            return
