"""The queue: pending workloads by customer and class, and the classes that are parked.

A class is active until the engine refuses it, and again when something that it watches changes. A cycle plans on the
active classes (`plan`) and changes nothing; `follow` then applies what it found. Both happen between changes of the
queue, or beside them: a class that changed in the meantime stays active.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from heapq import heapify, heappop, heappush
from itertools import chain, islice, zip_longest
from typing import TYPE_CHECKING
from zlib import crc32

from niyanta.engine.placement.feasibility import named_workers
from niyanta.engine.queue.class_queue import ClassQueue
from niyanta.engine.queue.order import DEFAULT_ORDER, QueueSettings
from niyanta.engine.queue.wake_index import WakeIndex, Woken
from niyanta.engine.queue.watch import Park
from niyanta.engine.types import PendingWorkload

if TYPE_CHECKING:
    from niyanta.engine.queue.plan import QueuePlan

RETRY_AFTER_US = 150_000_000
RETRY_WITHIN_US = 300_000_000
"""A parked class is tried again between these times after its refusal, whatever changed: a net under the wakes."""


class Queue:
    """Pending workloads. A workload without a class has a class of its own."""

    def __init__(self, settings: QueueSettings = DEFAULT_ORDER, workloads: Iterable[PendingWorkload] = ()) -> None:
        self.settings = settings
        self.parked = WakeIndex()
        self._class_of: dict[str, ClassQueue] = {}
        self._classes: dict[str, ClassQueue] = {}
        self._active: dict[str, dict[str, ClassQueue]] = {}
        """Customer -> its active classes, by name."""
        self._retries: list[tuple[int, str]] = []
        """(retry_at, class); entries of classes that are no longer parked, or parked anew, are skipped."""
        self._undecided: dict[str, Woken] = {}
        """Parked classes that a change concerned and that the last cycle didn't decide."""
        for workload in workloads:
            self.push(workload)

    def __len__(self) -> int:
        return len(self._class_of)

    def __contains__(self, workload_id: object) -> bool:
        return workload_id in self._class_of

    def get(self, workload_id: str) -> PendingWorkload | None:
        """The workload with this id; None if it is not in the queue."""
        found = self._class_of.get(workload_id)
        return None if found is None else found.get(workload_id)

    # --- classes ---

    def classes(self) -> list[ClassQueue]:
        """All classes that have a workload in memory."""
        return list(self._classes.values())

    def find_class(self, name: str) -> ClassQueue | None:
        """The class of this name; None if no workload of it is in memory."""
        return self._classes.get(name)

    def class_of(self, workload_id: str) -> ClassQueue | None:
        """The class of a workload; None if it is not in the queue."""
        return self._class_of.get(workload_id)

    def active(self) -> dict[str, list[ClassQueue]]:
        """Customer -> its active classes, at the time of the call."""
        return {customer: list(classes.values()) for customer, classes in list(self._active.items()) if classes}

    def counts(self) -> tuple[int, int]:
        """Number of active and of parked classes."""
        return len(self._classes) - len(self.parked), len(self.parked)

    # --- order ---

    def in_order(self) -> Iterator[PendingWorkload]:
        """All workloads in memory at the time of the call, first to last."""
        entries = sorted(chain.from_iterable(queue.entries() for queue in self.classes()))
        found = (self.get(entry[2]) for entry in entries)
        return iter([workload for workload in found if workload is not None])

    def waited(self, before: int, *, most: int = 5000, per_class: int = 1024) -> list[PendingWorkload]:
        """Workloads queued at `before` or earlier, parked or not: the expedited lane's candidates. O(classes).

        At most `per_class` of a class. The oldest of each class come first, then the second ones, and so on, each
        round by age: so no class hides another.
        """
        lists = []
        for queue in self.classes():
            oldest = queue.oldest()
            if oldest is not None and oldest.queued_at <= before:
                aged = list(islice(queue.by_age(), per_class))
                lists.append([workload for workload in aged if workload.queued_at <= before])
        found: list[PendingWorkload] = []
        for turn in zip_longest(*lists):
            workloads = [workload for workload in turn if workload is not None]
            found += sorted(workloads, key=lambda workload: (workload.queued_at, workload.id))
            if len(found) >= most:
                break
        return found[:most]

    # --- changes ---

    def push(self, workload: PendingWorkload) -> None:
        """Add a workload, or replace the one with the same id. O(log n) and a move of pointers."""
        name = workload.queue_class or f"row/{workload.id}"
        known = self._class_of.get(workload.id)
        if known is not None and known.name != name:
            self.remove(workload.id)
        queue = self._classes.get(name)
        if queue is None:
            queue = self._classes[name] = ClassQueue(name, workload)
            self._active.setdefault(queue.customer, {})[name] = queue
        replaced = queue.put(workload, self.settings)
        self._class_of[workload.id] = queue
        queue.wakes += 1
        if queue.park is not None and _decides_anew(queue.park, workload, replaced):
            self._wake(queue)

    update = push

    def remove(self, workload_id: str) -> PendingWorkload | None:
        """Remove a workload at any position; None if it is not in the queue."""
        queue = self._class_of.pop(workload_id, None)
        if queue is None:
            return None
        taken = queue.take(workload_id)
        if not len(queue):
            self._forget(queue)
        return taken

    def _forget(self, queue: ClassQueue) -> None:
        del self._classes[queue.name]
        if queue.park is not None:
            self.parked.remove(queue.name)
            queue.park = None
        active = self._active.get(queue.customer, {})
        active.pop(queue.name, None)
        if not active:
            self._active.pop(queue.customer, None)

    # --- parking and waking ---

    def wake_all(self) -> None:
        """Decide all classes anew, after changes of the cluster may have been lost."""
        for queue in self.classes():
            queue.wakes += 1
            self._wake(queue)

    def due(self, now: int, most: int) -> list[ClassQueue]:
        """At most `most` parked classes that are to be tried again at `now` (microseconds) although nothing changed."""
        found: list[ClassQueue] = []
        while self._retries and self._retries[0][0] <= now and len(found) < most:
            at, name = heappop(self._retries)
            queue = self._classes.get(name)
            if queue is not None and queue.park is not None and queue.park.retry_at == at:
                found.append(queue)
        return found

    def outdated(self, facts: int, most: int) -> list[ClassQueue]:
        """At most `most` parked classes whose reasons are from before the workers changed; `facts`:
        `WorkerIndex.version`. O(classes)."""
        old = (one for one in self.classes() if one.park is not None and one.park.facts != facts)
        return list(islice(old, most))

    def unfinished(self, found: Iterable[Woken]) -> dict[str, Woken]:
        """Woken classes by name: `found`, and those that earlier cycles had no time to decide. Changes nothing."""
        woken = {one.queue.name: one for one in self._undecided.values() if one.queue.park is one.park}
        for one in found:
            known = woken.get(one.queue.name)
            if known is not None:
                within = None if known.within is None or one.within is None else known.within | one.within
                one = replace(one, within=within)
            woken[one.queue.name] = one
        return woken

    def follow(self, plan: QueuePlan, unapplied: Collection[str] = ()) -> None:
        """Apply what a cycle found: classes that woke, and those that it refused. `unapplied`: ids of the plan's
        placements that did not come about, so that what they took on the fork is free."""
        for woken in plan.woken:
            if woken.queue.park is woken.park:
                self._wake(woken.queue)
        for parking in plan.parks:
            queue = parking.queue
            if self._classes.get(queue.name) is not queue or queue.park is not parking.before:
                continue
            if queue.wakes == parking.wakes:
                self._wake(queue)
                self._park(queue, parking.park, plan)
            else:
                self._wake(queue)
        freed = [placement for placement in plan.plan.placements if placement.id in unapplied]
        self._undecided = {one.queue.name: one for one in (*plan.undecided, *(plan.idle if freed else ()))}
        if freed:
            self._release({worker for placement in freed for worker in placement.workers}, plan)

    def _park(self, queue: ClassQueue, park: Park, plan: QueuePlan) -> None:
        queue.park = park
        self.parked.add(queue, park.watch, plan.snapshot)
        active = self._active.get(queue.customer, {})
        active.pop(queue.name, None)
        if not active:
            self._active.pop(queue.customer, None)
        heappush(self._retries, (park.retry_at, queue.name))
        if len(self._retries) > 2 * len(self.parked) + 1024:
            self._retries = [(one.park.retry_at, one.name) for one in self.classes() if one.park is not None]
            heapify(self._retries)

    def _release(self, workers: Collection[str], plan: QueuePlan) -> None:
        """Room that the plan took on these workers is free after all."""
        bits = named_workers(plan.snapshot.index, workers)
        for found in plan.parks:
            if found.queue.park is found.park and self.parked.may_take(found.queue.name, bits):
                self._wake(found.queue)

    def _wake(self, queue: ClassQueue) -> None:
        if queue.park is not None:
            self.parked.remove(queue.name)
            queue.park = None
            self._active.setdefault(queue.customer, {})[queue.name] = queue


def retry_at(name: str, now: int) -> int:
    """Time of a class's next try after a refusal at `now`, spread evenly by the class's name; microseconds."""
    spread = RETRY_WITHIN_US - RETRY_AFTER_US
    return now + RETRY_AFTER_US + crc32(name.encode()) * spread // (1 << 32)


def _decides_anew(park: Park, workload: PendingWorkload, replaced: PendingWorkload | None) -> bool:
    """True if the refusal of a class doesn't hold for a workload that came or changed."""
    watch = park.watch
    if watch.requirements is not workload.requirements and watch.requirements != workload.requirements:
        return True
    if watch.replicas != workload.replicas or (not workload.queue_class and watch.subject != workload.subject):
        return True
    was = None if replaced is None else replaced.excluded
    return watch.has_exclusions and was != workload.excluded
