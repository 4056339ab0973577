"""Finished Workload objects that still exist, in the leader's memory, and the choice of those to delete.

Recovery and admission note them from the objects that they see, `transitions` when a row ends. An object is chosen when
its time to live is over, or when it is among the oldest of a namespace beyond its limit. Over the limit in all, the
oldest object of the customer that has most goes, so a customer with no more than an equal share loses none; without a
customer, a namespace counts as one. `expiry` deletes the chosen ones. Rows stay.
"""

from __future__ import annotations

import enum
import heapq
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from niyanta.lifecycle import Door
from niyanta.settings import Settings
from niyanta.store.rows import WorkloadRow

MOST_CHOICES = 500
"""Most objects chosen at once, so that a new leader with many objects over a limit isn't held up."""


class DeletionCause(enum.StrEnum):
    """Causes of the deletion of a finished object; values of the label `cause`."""

    TTL = "ttl"
    NAMESPACE_LIMIT = "namespace_limit"
    TOTAL_LIMIT = "total_limit"


@dataclass(frozen=True, slots=True)
class FinishedObject:
    """A finished Workload object that isn't being deleted. Times in microseconds since 1970; `expires_us` None: it has
    no time to live."""

    uid: str
    namespace: str
    name: str
    customer: str
    finished_us: int
    expires_us: int | None

    @property
    def owner(self) -> str:
        """The customer, or the namespace if there is none; no customer has a name with a slash."""
        return self.customer or f"/{self.namespace}"


@dataclass(frozen=True, slots=True)
class ChosenObject:
    """A finished object that is to be deleted, since `chosen_us` (microseconds since 1970)."""

    obj: FinishedObject
    cause: DeletionCause
    chosen_us: int


class FinishedObjects:
    """Every finished object of the cluster by UID, once recovery is done. Each call costs O(log n) for an object."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept: dict[str, FinishedObject] = {}
        self._by_age_of: dict[str, _Ordered] = {}
        """Kept objects of each owner."""
        self._owners = _Ordered()
        """Owners of kept objects; the one with most comes first."""
        self._by_expiry = _Ordered()
        self._by_age_in: dict[str, _Ordered] = {}
        """Kept objects of each namespace."""
        self._crowded: set[str] = set()
        """Namespaces with more kept objects than their limit."""
        self._chosen: OrderedDict[str, ChosenObject] = OrderedDict()
        """By UID; the one that was chosen first comes first."""
        self._waiting: dict[str, OrderedDict[str, None]] = {}
        """Namespace -> UIDs of chosen objects whose deletion isn't under way. The namespace, and in it the object, that
        had a turn last come last."""

    def __len__(self) -> int:
        return len(self._kept) + len(self._chosen)

    def __contains__(self, uid: object) -> bool:
        return uid in self._kept or uid in self._chosen

    def uids(self) -> set[str]:
        """UIDs of all finished objects."""
        return self._kept.keys() | self._chosen.keys()

    # --- objects that come and go ------------------------------------------------------------------------------------

    def note_row(self, row: WorkloadRow, ttl_seconds: int | None) -> None:
        """Note the object of a finished row, if it has one. `ttl_seconds`: ttlSecondsAfterFinished of its spec."""
        if row.object is None or not row.phase.terminal:
            return
        name, uid = row.object
        finished = row.finished_at or row.created_at
        finished_us = 0 if finished is None else round(finished.timestamp() * 1e6)
        expires_us = self._expires_us(finished_us, ttl_seconds, is_rest=row.door is Door.REST)
        self._note(FinishedObject(uid, row.namespace, name, row.customer, finished_us, expires_us))

    def note_without_row(self, obj: Mapping[str, Any], *, is_rest: bool) -> None:
        """Note an object whose status says that it is finished, and whose row was deleted. `is_rest`: it was made for
        a REST submission."""
        meta, status, spec = obj["metadata"], obj.get("status") or {}, obj.get("spec") or {}
        finished_us = _microseconds(status.get("completionTime")) or _microseconds(meta.get("creationTimestamp")) or 0
        expires_us = self._expires_us(finished_us, ttl_of(spec), is_rest=is_rest)
        customer = status.get("customer") or spec.get("customer") or ""
        self._note(FinishedObject(meta["uid"], meta["namespace"], meta["name"], customer, finished_us, expires_us))

    def forget(self, uid: str) -> None:
        """An object doesn't exist any more, or is being deleted."""
        self._keep_no_longer(uid)
        chosen = self._chosen.pop(uid, None)
        if chosen is not None:
            self._wait_no_longer(chosen.obj)

    def _expires_us(self, finished_us: int, ttl_seconds: int | None, *, is_rest: bool) -> int | None:
        if ttl_seconds is None and is_rest:
            ttl_seconds = self._settings.rest_object_ttl_seconds
        return None if ttl_seconds is None else finished_us + ttl_seconds * 1_000_000

    def _note(self, obj: FinishedObject) -> None:
        chosen = self._chosen.get(obj.uid)
        if chosen is not None:
            if chosen.obj == obj or obj.uid not in self._waiting.get(obj.namespace, {}):
                return
            self.forget(obj.uid)  # an edit of its time to live may keep it
        if self._kept.get(obj.uid) == obj:
            return
        self._keep_no_longer(obj.uid)
        self._kept[obj.uid] = obj
        of_owner = self._by_age_of.setdefault(obj.owner, _Ordered())
        of_owner.put(obj.uid, obj.finished_us)
        self._owners.put(obj.owner, -len(of_owner))
        if obj.expires_us is not None:
            self._by_expiry.put(obj.uid, obj.expires_us)
        in_namespace = self._by_age_in.setdefault(obj.namespace, _Ordered())
        in_namespace.put(obj.uid, obj.finished_us)
        if len(in_namespace) > self._settings.finished_objects_per_namespace:
            self._crowded.add(obj.namespace)

    def _keep_no_longer(self, uid: str) -> None:
        obj = self._kept.pop(uid, None)
        if obj is None:
            return
        self._by_expiry.remove(uid)
        of_owner = self._by_age_of[obj.owner]
        of_owner.remove(uid)
        if len(of_owner):
            self._owners.put(obj.owner, -len(of_owner))
        else:
            del self._by_age_of[obj.owner]
            self._owners.remove(obj.owner)
        in_namespace = self._by_age_in[obj.namespace]
        in_namespace.remove(uid)
        if not len(in_namespace):
            del self._by_age_in[obj.namespace]

    # --- the choice --------------------------------------------------------------------------------------------------

    def choose(self, now_us: int) -> None:
        """Choose objects to delete, at most MOST_CHOICES; the next call goes on. Those of a namespace whose deletions
        fail stay chosen: they are never replaced by objects of others."""
        for _ in range(MOST_CHOICES):
            found = self._next(now_us)
            if found is None:
                return
            self._choose(*found, now_us)

    def _next(self, now_us: int) -> tuple[str, DeletionCause] | None:
        """UID of the next object to delete; None if no time to live is over and no limit is exceeded."""
        if (first := self._by_expiry.first()) is not None and first[0] <= now_us:
            return first[1], DeletionCause.TTL
        while self._crowded:
            namespace = next(iter(self._crowded))
            kept = self._by_age_in.get(namespace, _NONE)
            if len(kept) > self._settings.finished_objects_per_namespace and (first := kept.first()) is not None:
                return first[1], DeletionCause.NAMESPACE_LIMIT
            self._crowded.remove(namespace)
        if len(self._kept) > self._settings.finished_objects and (most := self._owners.first()) is not None:
            oldest = self._by_age_of[most[1]].first()
            if oldest is not None:
                return oldest[1], DeletionCause.TOTAL_LIMIT
        return None

    def _choose(self, uid: str, cause: DeletionCause, now_us: int) -> None:
        obj = self._kept[uid]
        self._keep_no_longer(uid)
        self._chosen[uid] = ChosenObject(obj, cause, now_us)
        self._waiting.setdefault(obj.namespace, OrderedDict())[uid] = None

    # --- the deletions -----------------------------------------------------------------------------------------------

    def namespaces_waiting(self) -> list[str]:
        """Namespaces with a chosen object whose deletion isn't under way; the one that had a turn last comes last."""
        return list(self._waiting)

    def take(self, namespace: str) -> ChosenObject | None:
        """The next chosen object of a namespace; its deletion is under way from now on."""
        waiting = self._waiting.get(namespace)
        if not waiting:
            return None
        uid = next(iter(waiting))
        chosen = self._chosen[uid]
        self._wait_no_longer(chosen.obj)
        if namespace in self._waiting:
            self._waiting[namespace] = self._waiting.pop(namespace)
        return chosen

    def give_back(self, chosen: ChosenObject) -> None:
        """A deletion has failed; the object waits for another turn, unless it is gone."""
        if self._chosen.get(chosen.obj.uid) is chosen:
            self._waiting.setdefault(chosen.obj.namespace, OrderedDict())[chosen.obj.uid] = None

    def delay_us(self, now_us: int) -> int:
        """Time for which the longest chosen object has waited for its deletion, microseconds; 0 without any."""
        first = next(iter(self._chosen.values()), None)
        return 0 if first is None else max(0, now_us - first.chosen_us)

    def _wait_no_longer(self, obj: FinishedObject) -> None:
        waiting = self._waiting.get(obj.namespace)
        if waiting is not None:
            waiting.pop(obj.uid, None)
            if not waiting:
                del self._waiting[obj.namespace]


class _Ordered:
    """Keys in the order of a number. Entries of removed ones, and of earlier numbers, stay in the heap until they come
    first or outnumber the others."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._numbers)

    def put(self, key: str, number: int) -> None:
        self._numbers[key] = number
        heapq.heappush(self._heap, (number, key))
        if len(self._heap) > 2 * len(self._numbers) + 64:
            self._heap = sorted(_pairs(self._numbers.items()))

    def remove(self, key: str) -> None:
        self._numbers.pop(key, None)

    def first(self) -> tuple[int, str] | None:
        """The lowest number and its key."""
        while self._heap and self._numbers.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None


_NONE = _Ordered()


def _pairs(items: Iterable[tuple[str, int]]) -> Iterable[tuple[int, str]]:
    return ((number, key) for key, number in items)


def ttl_of(spec: Mapping[str, Any]) -> int | None:
    """ttlSecondsAfterFinished of an object's spec, which no model has checked; None if it isn't set."""
    found = spec.get("ttlSecondsAfterFinished")
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None


def _microseconds(text: object) -> int | None:
    """A time of RFC 3339, microseconds since 1970; None if it isn't one."""
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return round(at.timestamp() * 1e6) if at is not None and at.tzinfo is not None else None
