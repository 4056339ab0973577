"""What is waiting for the leader's attention: changed objects, pods and nodes, coalesced by identity.

kopf's thread and the reflectors put things in; the session's loop takes them out. While nobody leads, it stays closed
and keeps nothing: a new leader lists everything itself.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class DeletedObject:
    """A Workload object that was reported deleted (or is being deleted)."""

    uid: str


@dataclass(frozen=True, slots=True)
class PendingReason:
    """Why a row waits, to be recorded without moving it."""

    workload_id: str
    reason: str
    message: str
    reasons: tuple[tuple[str, str, int], ...] = ()


@dataclass(slots=True)
class PendingWork:
    """Everything that came since the last look."""

    objects: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    gone: dict[str, DeletedObject] = field(default_factory=dict)
    workloads: set[str] = field(default_factory=set)
    notes: dict[str, PendingReason] = field(default_factory=dict)
    customers: bool = False
    defaults: set[str] = field(default_factory=set)
    """Namespaces whose LimitRanges changed; "": something that counts in all of them."""
    capacity: bool = False

    def __bool__(self) -> bool:
        return self.moves or bool(self.notes)

    @property
    def moves(self) -> bool:
        """Whether the queue or the room on the workers may be another now; notes change neither."""
        said = self.objects or self.gone or self.workloads or self.defaults
        return bool(said) or self.customers or self.capacity


class WorkQueue:
    """Thread-safe on the putting side; `take` and `wait` belong to the event loop it was made in."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._mail = PendingWork()
        self._generations: dict[str, int] = {}
        self._event = asyncio.Event()
        self._open = False
        self._hinted = True

    def open(self) -> None:
        """Leadership begins: keep what comes from now on."""
        with self._lock:
            self._mail = PendingWork()
            self._generations = {}
            self._open = True

    def close(self) -> None:
        """Leadership is over: forget everything."""
        with self._lock:
            self._open = False
            self._mail = PendingWork()
            self._generations = {}

    def put_object(self, obj: Mapping[str, Any]) -> None:
        """A Workload object as the API server gave it. Repeats of a generation already put are dropped here, so that
        our own status writes cost nothing."""
        meta = obj["metadata"]
        uid, generation = meta["uid"], int(meta.get("generation", 1))
        with self._lock:
            if not self._open:
                return
            if meta.get("deletionTimestamp"):
                self._mail.objects.pop(uid, None)
                self._mail.gone[uid] = DeletedObject(uid)
            elif self._generations.get(uid, 0) < generation:
                self._generations[uid] = generation
                self._mail.objects[uid] = obj
            else:
                return
        self.wake()

    def put_gone(self, uid: str) -> None:
        """A Workload object disappeared."""
        with self._lock:
            if not self._open:
                return
            self._generations.pop(uid, None)
            self._mail.objects.pop(uid, None)
            self._mail.gone[uid] = DeletedObject(uid)
        self.wake()

    def put_workloads(self, workload_ids: Iterable[str]) -> None:
        """Pods (or the nodes of pods) of these workloads changed."""
        with self._lock:
            if not self._open:
                return
            self._mail.workloads.update(workload_ids)
        self.wake()

    def put_customers(self) -> None:
        """A Customer was added, edited or deleted."""
        with self._lock:
            self._mail.customers = self._open
        self.wake()

    def put_defaults(self, namespaces: Iterable[str]) -> None:
        """LimitRanges of these namespaces changed ("": RuntimeClasses)."""
        with self._lock:
            if self._open:
                self._mail.defaults.update(namespaces)
        self.wake()

    def put_capacity(self) -> None:
        """Workers or what is on them changed: what didn't fit may fit now."""
        with self._lock:
            self._mail.capacity = self._open
        self.wake()

    def note(self, workload_id: str, reason: str, message: str) -> None:
        """Have a waiting reason recorded with the next batch."""
        self.put_note(PendingReason(workload_id, reason, message))

    def put_note(self, note: PendingReason) -> None:
        """Like `note`, with the typed reasons."""
        with self._lock:
            if self._open:
                self._mail.notes[note.workload_id] = note

    def put_hint(self) -> None:
        """Another process may have changed rows."""
        self._hinted = True
        self.wake()

    def take_hint(self) -> bool:
        """Whether there was a hint since the last call."""
        hinted, self._hinted = self._hinted, False
        return hinted

    def wake(self) -> None:
        """Let the loop look now. Safe from any thread."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            self._event.set()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._event.set)

    def take(self) -> PendingWork:
        """Everything so far; what comes later is for the next take."""
        self._event.clear()
        with self._lock:
            mail, self._mail = self._mail, PendingWork()
        return mail

    async def wait(self, at_most: float) -> None:
        """Until something comes, `at_most` seconds."""
        try:
            async with asyncio.timeout(at_most):
                await self._event.wait()
        except TimeoutError:
            return
