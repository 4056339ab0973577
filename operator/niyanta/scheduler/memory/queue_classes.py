"""Names of queue classes: waiting workloads of one class need the same and match the same anti and near terms.

A term can tell workloads apart only by label keys that it names, so only these *visible* keys belong to a class. They
are collected by reach, the namespace or the customer to which the terms that name them are limited, and stay visible
until the end of the leadership. Jobs that differ in other labels, such as a number of their own, share a class.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from weakref import ReferenceType, WeakKeyDictionary, ref

from niyanta.engine.queue.queue import Queue
from niyanta.engine.types import PeerTerm, PendingWorkload, Requirements, Scope, Subject

MOST_VISIBLE_KEYS = 64
"""Most label keys of one reach. Beyond it every label is visible there."""

Reach = tuple[str, str]
"""Kind of reach, and the namespace or customer."""

_CLUSTER: Reach = ("cluster", "")


class QueueClasses:
    """Names the classes of one leadership, and shares equal requirements between their workloads."""

    def __init__(self) -> None:
        self._numbers: WeakKeyDictionary[Requirements, tuple[ReferenceType[Requirements], int]] = WeakKeyDictionary()
        """Only of requirements that some workload has: those in memory share a budget of bytes."""
        self._next_number = 0
        self._visible: dict[Reach, set[str] | None] = {}
        """Keys by reach; None: all labels are visible."""
        self._grown: dict[Reach, None] = {}
        """Reaches with keys that became visible since the last `take_outdated`."""
        self._unsaved: dict[tuple[str, str], None] = {}
        """Keys that became visible since the last `take_unsaved`, with their reach as Postgres names it."""

    def note_terms(self, requirements: Requirements, subject: Subject) -> None:
        """Make the label keys visible that the anti and near terms of a workload name."""
        for term in (*requirements.anti, *requirements.near):
            reach = _reach(term, subject)
            keys = self._visible.setdefault(reach, set())
            for expression in term.selector.labels:
                if keys is not None and expression.key not in keys:
                    keys.add(expression.key)
                    self._grown[reach] = None
                    self._unsaved["*" if reach == _CLUSTER else "/".join(reach), expression.key] = None
                    if len(keys) > MOST_VISIBLE_KEYS:
                        keys = self._visible[reach] = None

    def take_unsaved(self, most: int) -> list[tuple[str, str]]:
        """At most `most` (reach, key) that became visible; reach: namespace/<name>, customer/<name> or *."""
        found = list(islice(self._unsaved, most))
        for one in found:
            del self._unsaved[one]
        return found

    def share(self, requirements: Requirements) -> tuple[Requirements, int]:
        """The first object of equal requirements, and their number."""
        first, number = self._numbers.get(requirements, (None, 0))
        known = None if first is None else first()
        if known is None:
            self._next_number += 1
            known, number = requirements, self._next_number
            self._numbers[requirements] = ref(requirements), number
        return known, number

    def name(self, number: int, subject: Subject, replicas: int) -> str:
        """Name of the class of a workload with these requirements (by their number)."""
        labels = self._visible_labels(subject)
        return "\0".join((subject.customer, subject.namespace, subject.type, f"{number}x{replicas}", *labels))

    def _visible_labels(self, subject: Subject) -> list[str]:
        if not subject.labels or not self._visible:
            return []
        keys: set[str] = set()
        for reach in (("namespace", subject.namespace), ("customer", subject.customer), _CLUSTER):
            found = self._visible.get(reach, keys)
            if found is None:
                return [f"{key}={value}" for key, value in subject.labels]
            keys = keys | found if found else keys
        return [f"{key}={value}" for key, value in subject.labels if key in keys]

    def take_outdated(self, queue: Queue) -> Iterator[PendingWorkload]:
        """Queued workloads that may belong to another class since the last call, because keys became visible."""
        grown, self._grown = self._grown, {}
        if not grown:
            return
        for found in queue.classes():
            reaches = (("namespace", found.namespace), ("customer", found.customer), _CLUSTER)
            if any(reach in grown for reach in reaches):
                for workload in found.in_order():
                    if workload.subject.labels:
                        yield workload


def _reach(term: PeerTerm, subject: Subject) -> Reach:
    if term.scope is Scope.NAMESPACE:
        return "namespace", subject.namespace
    return ("customer", subject.customer) if term.scope is Scope.CUSTOMER else _CLUSTER
