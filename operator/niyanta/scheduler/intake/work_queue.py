"""The leader's work queue: changed objects, pods and nodes, coalesced by identity.

kopf's thread and the reflectors put changes in; the leader's loop takes them out in bounded slices, fair between
namespaces. While this process doesn't lead, the queue is closed and empty: a new leader lists all objects itself.
"""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from niyanta.scheduler.intake.fair_queue import FairQueue

MOST_OBJECTS = 500
MOST_OBJECT_BYTES = 2 * 1024 * 1024
"""Bounds of the objects taken in one round. Parsed, an object takes up to 25 times its size as text."""

MOST_GONE = 500
"""Most deleted objects taken in one round; each needs a fresh read."""

MOST_WORKLOADS = 5000
"""Most workloads with changed pods taken in one round."""


@dataclass(frozen=True, slots=True)
class DeletedObject:
    """A Workload object that is deleted or being deleted."""

    uid: str
    namespace: str = ""
    """Empty if the object was not seen by this leader."""


class PackedObject:
    """A changed object as compressed text, because thousands of them may wait."""

    __slots__ = ("_data", "size")

    def __init__(self, obj: Mapping[str, Any]) -> None:
        """Keeps the object itself if it can't be encoded; admission decides about it."""
        self._data: bytes | Mapping[str, Any] = obj
        self.size = 0
        """Bytes of the object as text."""
        try:
            text = orjson.dumps(obj)
        except TypeError:  # too deep, or an integer of more than 64 bits
            return
        self._data, self.size = zlib.compress(text, 1), len(text)

    def unpacked(self) -> Mapping[str, Any]:
        """The object."""
        if not isinstance(self._data, bytes):
            return self._data
        obj: Mapping[str, Any] = orjson.loads(zlib.decompress(self._data))
        return obj


@dataclass(slots=True)
class PendingWork:
    """Changes for one round."""

    objects: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    gone: dict[str, DeletedObject] = field(default_factory=dict)
    workloads: set[str] = field(default_factory=set)
    customers: bool = False
    defaults: set[str] = field(default_factory=set)
    """Namespaces whose LimitRanges or labels changed; "": a change for all namespaces."""
    capacity: bool = False
    """Free capacity may have changed."""

    def __bool__(self) -> bool:
        """True if the queue or the free capacity of workers may have changed."""
        changed = self.objects or self.gone or self.workloads or self.defaults
        return bool(changed) or self.customers or self.capacity


@dataclass(frozen=True, slots=True)
class _SeenObject:
    """The version of an object that was put last. `labels` is their hash."""

    generation: int
    labels: int
    namespace: str


class WorkQueue:
    """Collects changes. The `put_...` methods may be called from any thread, `take` and `wait` from `loop` only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._event = asyncio.Event()
        self._open = False
        self._hinted = True
        self._clear()

    def _clear(self) -> None:
        self._work = PendingWork()
        """Changes without objects; `objects` and `gone` stay empty here."""
        self._objects: FairQueue[PackedObject] = FairQueue()
        self._gone: FairQueue[DeletedObject] = FairQueue()
        self._workloads: dict[str, None] = {}
        self._seen: dict[str, _SeenObject] = {}

    def open(self) -> None:
        """Leadership begins: keep changes from now on."""
        with self._lock:
            self._clear()
            self._open = True

    def close(self) -> None:
        """Leadership is over: drop all changes."""
        with self._lock:
            self._open = False
            self._clear()

    def put_object(self, obj: Mapping[str, Any]) -> None:
        """A Workload object was added or edited. A generation that was put before, with the same labels, is dropped, so
        that the operator's own status writes cause no work."""
        meta = obj["metadata"]
        if meta.get("deletionTimestamp"):
            self._put_gone(meta["uid"], str(meta.get("namespace", "")))
            return
        uid = meta["uid"]
        labels = frozenset((str(k), str(v)) for k, v in (meta.get("labels") or {}).items())
        now = _SeenObject(int(meta.get("generation", 1)), hash(labels), str(meta.get("namespace", "")))
        with self._lock:
            before = self._seen.get(uid)
            if not self._open or (before is not None and (before == now or now.generation < before.generation)):
                return
        packed = PackedObject(obj)
        with self._lock:
            if not self._open:
                return
            self._seen[uid] = now
            self._objects.put(now.namespace, uid, packed)
        self.wake()

    def put_gone(self, uid: str) -> None:
        """A Workload object was deleted."""
        with self._lock:
            before = self._seen.get(uid)
        self._put_gone(uid, "" if before is None else before.namespace)

    def _put_gone(self, uid: str, namespace: str) -> None:
        with self._lock:
            if not self._open:
                return
            self._seen.pop(uid, None)
            self._objects.remove(uid)
            self._gone.put(namespace, uid, DeletedObject(uid, namespace))
        self.wake()

    def put_workloads(self, workload_ids: Iterable[str]) -> None:
        """Pods of these workloads, or the nodes of their pods, changed."""
        with self._lock:
            if not self._open:
                return
            self._workloads.update(dict.fromkeys(workload_ids))
        self.wake()

    def put_customers(self) -> None:
        """A Customer was added, edited or deleted."""
        with self._lock:
            self._work.customers = self._open
        self.wake()

    def put_defaults(self, namespaces: Iterable[str]) -> None:
        """LimitRanges or labels of these namespaces changed; "": a RuntimeClass changed."""
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

    def take(self, *, objects: bool = True) -> PendingWork:
        """Take the next slice of the changes out of the queue; `wait` returns at once if more are left. `objects` False
        leaves changed and deleted objects there."""
        self._event.clear()
        packed: dict[str, PackedObject] = {}
        with self._lock:
            work, self._work = self._work, PendingWork()
            if objects:
                packed = self._objects.take(MOST_OBJECTS, most_bytes=MOST_OBJECT_BYTES, size=lambda item: item.size)
                work.gone = self._gone.take(MOST_GONE)
            work.workloads = {self._first_workload() for _ in range(min(len(self._workloads), MOST_WORKLOADS))}
            left = bool(self._workloads) or (objects and bool(len(self._objects) or len(self._gone)))
        work.objects = {uid: item.unpacked() for uid, item in packed.items()}
        if left:
            self._event.set()
        return work

    def _first_workload(self) -> str:
        workload_id = next(iter(self._workloads))
        del self._workloads[workload_id]
        return workload_id

    async def wait(self, at_most_seconds: float) -> None:
        """Return at the next change or `wake`, at the latest after `at_most_seconds`."""
        try:
            async with asyncio.timeout(at_most_seconds):
                await self._event.wait()
        except TimeoutError:
            return
