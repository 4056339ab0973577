"""Anti and near terms: the workloads that a term matches, and the domains where these or its carriers run.

A term is interned once its scope is resolved to a namespace, a customer or the whole cluster. One relation serves both
directions of symmetry: a subject counts as a peer (`peers`) for the terms that match it, and is kept away by their
carriers (`carriers`). Terms are found by subject and subjects by term through their most selective part,
so thousands of them cost a few lookups. `placement.overlay` adds a cycle's placements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable
from typing import Generic, Protocol, TypeVar

from niyanta.engine.snapshot.bitset import Bits, minus
from niyanta.engine.snapshot.worker_index import WorkerIndex, compares
from niyanta.engine.types import HOSTNAME_TOPOLOGY, Expression, Op, PeerTerm, Scope, Selector, Subject

_NAMESPACE, _CUSTOMER, _CLUSTER = 0, 1, 2
_EVERYWHERE = (_CLUSTER, "")
_MAX_UNUSED_TERMS = 8192


class HasSubject(Protocol):
    """An entry of a `SubjectIndex`."""

    @property
    def subject(self) -> Subject: ...


E = TypeVar("E", bound=HasSubject)


def label_matches(labels: dict[str, str], expression: Expression) -> bool:
    """True when a subject's labels satisfy one expression; NotIn also matches when the key is absent."""
    have = labels.get(expression.key)
    op = expression.op
    if op is Op.IN:
        return have is not None and have in expression.values
    if op is Op.NOT_IN:
        return have is None or have not in expression.values
    if op is Op.EXISTS:
        return have is not None
    if op is Op.DOES_NOT_EXIST:
        return have is None
    return have is not None and len(expression.values) == 1 and compares(op, have, expression.values[0])


def selects(selector: Selector, subject: Subject) -> bool:
    """True when every given part of the selector matches; an empty selector matches all (in the term's scope)."""
    if selector.types and subject.type not in selector.types:
        return False
    if selector.customers and subject.customer not in selector.customers:
        return False
    if not selector.labels:
        return True
    labels = dict(subject.labels)
    return all(label_matches(labels, expression) for expression in selector.labels)


class AffinityTerm:
    """A peer term with its scope resolved. Counts are by domain: workers for hostname, label values otherwise."""

    __slots__ = (
        "carrier_bits",
        "carriers",
        "id",
        "owner",
        "peer_bits",
        "peers",
        "reach",
        "selector",
        "topology",
        "unanchored",
        "watchers",
        "whole",
    )

    def __init__(self, number: int, selector: Selector, topology: str, reach: tuple[int, str], owner: str) -> None:
        self.id = number
        self.owner = owner
        """Customer of the first workload that carried the term."""
        self.unanchored = False
        """True when no fact of a subject leads to the term, so that every subject in reach is compared with it."""
        self.watchers = 0
        """Parked classes that wait for a change of it."""
        self.selector = selector
        self.topology = topology
        self.reach = reach
        """(kind of scope, the namespace or customer that the term is limited to)."""
        anchored = len(selector.labels) + bool(selector.types)
        only_in = not selector.labels or selector.labels[0].op is Op.IN
        self.whole = not selector.customers and anchored <= 1 and only_in
        """True when the selector consists of a single anchor, so a subject found by it needs no further check."""
        self.peers: dict[int | str, int] = {}
        self.carriers: dict[int | str, int] = {}
        self.peer_bits: Bits = 0
        """Workers in domains that have a workload the term matches."""
        self.carrier_bits: Bits = 0
        """Workers in domains that have a workload which carries the term as anti."""

    def matches(self, subject: Subject) -> bool:
        """True when the term matches the subject."""
        kind, where = self.reach
        if kind == _NAMESPACE and subject.namespace != where:
            return False
        if kind == _CUSTOMER and subject.customer != where:
            return False
        return selects(self.selector, subject)

    def refresh(self, index: WorkerIndex) -> None:
        """Rebuild the bit sets from the counts, after workers were added, removed or changed."""
        members, topology = index.members, self.topology
        self.peer_bits = self.carrier_bits = 0
        for domain in self.peers:
            self.peer_bits |= members(topology, domain)
        for domain in self.carriers:
            self.carrier_bits |= members(topology, domain)


def _anchors(selector: Selector) -> list[Hashable]:
    """Keys under which a subject finds the selector: one of them is among `_facts` of every subject it matches."""
    for expression in selector.labels:
        if expression.op is Op.IN:
            return [(expression.key, value) for value in expression.values]
    if selector.types:
        return list(selector.types)
    return [None]


class SubjectIndex(Generic[E]):
    """Finds the entries whose subject a term matches. Facets are built when the first term needs them."""

    def __init__(self) -> None:
        self.entries: dict[E, None] = {}
        self._facets: dict[str, dict[str, dict[E, None]]] = {}

    def add(self, entry: E) -> None:
        """Add an entry; entries are distinguished by identity."""
        self.entries[entry] = None
        for facet, table in self._facets.items():
            value = self._value(facet, entry.subject)
            if value is not None:
                table.setdefault(value, {})[entry] = None

    def discard(self, entry: E) -> None:
        """Remove an entry; unknown entries are ignored."""
        self.entries.pop(entry, None)
        for facet, table in self._facets.items():
            value = self._value(facet, entry.subject)
            if value is not None and value in table:
                table[value].pop(entry, None)
                if not table[value]:
                    del table[value]

    def matching(self, term: AffinityTerm) -> list[E]:
        """All entries whose subject the term matches."""
        return [entry for entry in self._candidates(term) if term.matches(entry.subject)]

    def _candidates(self, term: AffinityTerm) -> Iterable[E]:
        selector = term.selector
        best: list[Collection[E]] = [self.entries]
        size = len(self.entries)
        kind, where = term.reach
        asks: list[tuple[str, tuple[str, ...]]] = []
        if kind != _CLUSTER:
            asks.append(("namespace" if kind == _NAMESPACE else "customer", (where,)))
        if selector.types:
            asks.append(("type", selector.types))
        asks += [("label:" + part.key, part.values) for part in selector.labels if part.op is Op.IN]
        for facet, values in asks:
            if size < 8:
                break
            table = self._facet(facet)
            found = [table[value] for value in dict.fromkeys(values) if value in table]
            total = sum(map(len, found))
            if total < size:
                best, size = list(found), total
        return [entry for part in best for entry in part]

    def _facet(self, facet: str) -> dict[str, dict[E, None]]:
        table = self._facets.get(facet)
        if table is None:
            table = self._facets[facet] = {}
            for entry in self.entries:
                value = self._value(facet, entry.subject)
                if value is not None:
                    table.setdefault(value, {})[entry] = None
        return table

    @staticmethod
    def _value(facet: str, subject: Subject) -> str | None:
        if facet == "namespace":
            return subject.namespace
        if facet == "customer":
            return subject.customer
        if facet == "type":
            return subject.type
        key = facet[6:]
        for have, value in subject.labels:
            if have == key:
                return value
        return None


class RunningSubject:
    """A subject with running pods: charges per worker."""

    __slots__ = ("subject", "workers")

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.workers: dict[int, int] = {}


class AffinityTable:
    """Interned terms with their counts over the charged workloads. The caller adds and removes charges in pairs."""

    def __init__(self, index: WorkerIndex) -> None:
        self._index = index
        self.terms: list[AffinityTerm] = []
        self._ids: dict[Hashable, AffinityTerm] = {}
        self._anchored: dict[tuple[int, str], dict[Hashable, list[AffinityTerm]]] = {}
        self.running: SubjectIndex[RunningSubject] = SubjectIndex()
        self._by_subject: dict[Subject, RunningSubject] = {}
        self._carried = 0
        self._watched = 0
        """Terms with watchers."""
        self._seen_version = 0
        self.changed: dict[AffinityTerm, Bits] = {}
        """Watched term -> workers in the domains where its peers or carriers appeared or went since the last
        `take_changed`."""
        self.unanchored: Counter[str] = Counter()
        """Customer -> interned terms that its workloads carried first and that every subject in reach is compared
        with: they name neither a type nor values of a label."""

    def intern(self, term: PeerTerm, carrier: Subject) -> AffinityTerm:
        """The term resolved for its carrier; a new term is counted over all running subjects."""
        reach = _reach(term, carrier)
        key = _identity(term, reach)
        found = self._ids.get(key)
        if found is None:
            found = AffinityTerm(len(self.terms), term.selector, term.topology, reach, carrier.customer)
            anchors = list(dict.fromkeys(_anchors(term.selector)))
            for entry in self.running.matching(found):
                for worker, count in entry.workers.items():
                    self._count(found, found.peers, worker, count)
            found.refresh(self._index)
            # Known only when complete: a term whose evaluation raises must not reach other workloads.
            self._ids[key] = found
            self.terms.append(found)
            if anchors == [None]:
                found.unanchored = True
                self.unanchored[found.owner] += 1
            bucket = self._anchored.setdefault(reach, {})
            for anchor in anchors:
                bucket.setdefault(anchor, []).append(found)
        return found

    def is_interned(self, term: PeerTerm, carrier: Subject) -> bool:
        """True when `intern` would find the term."""
        return _identity(term, _reach(term, carrier)) in self._ids

    def matching(self, subject: Subject) -> tuple[AffinityTerm, ...]:
        """All interned terms that match the subject, by id. The result grows only when a term is interned."""
        found: list[AffinityTerm] = []
        anchored = self._anchored
        for reach in ((_NAMESPACE, subject.namespace), (_CUSTOMER, subject.customer), _EVERYWHERE):
            bucket = anchored.get(reach)
            if bucket is not None:
                for fact in (None, subject.type, *subject.labels):
                    terms = bucket.get(fact)
                    if terms is not None:
                        found += [term for term in terms if term.whole or selects(term.selector, subject)]
        if len(found) > 1:
            found.sort(key=_by_id)
        return tuple(found)

    # --- charges ---

    def add(self, subject: Subject, anti: tuple[PeerTerm, ...], worker: int) -> None:
        """Count a pod of the subject, which carries the anti terms, on the worker."""
        entry = self._by_subject.get(subject)
        if entry is None:
            entry = self._by_subject[subject] = RunningSubject(subject)
            self.running.add(entry)
        entry.workers[worker] = entry.workers.get(worker, 0) + 1
        for term in self.matching(subject):
            if self._count(term, term.peers, worker, 1):
                self._appear(term, worker)
                term.peer_bits |= self._index.neighbours(term.topology, worker)
        for carried in anti:
            term = self.intern(carried, subject)
            self._carried += 1
            if self._count(term, term.carriers, worker, 1):
                term.carrier_bits |= self._index.neighbours(term.topology, worker)

    def remove(self, subject: Subject, anti: tuple[PeerTerm, ...], worker: int) -> None:
        """The inverse of `add`; the worker's labels must still be those that `add` saw."""
        entry = self._by_subject[subject]
        left = entry.workers[worker] - 1
        if left:
            entry.workers[worker] = left
        else:
            del entry.workers[worker]
            if not entry.workers:
                del self._by_subject[subject]
                self.running.discard(entry)
        for term in self.matching(subject):
            if self._count(term, term.peers, worker, -1):
                term.peer_bits = minus(term.peer_bits, self._index.neighbours(term.topology, worker))
                self._appear(term, worker, everywhere=not term.peers)
        for carried in anti:
            term = self.intern(carried, subject)
            self._carried -= 1
            if self._count(term, term.carriers, worker, -1):
                term.carrier_bits = minus(term.carrier_bits, self._index.neighbours(term.topology, worker))
                self._appear(term, worker)

    def _count(self, term: AffinityTerm, counts: dict[int | str, int], worker: int, change: int) -> bool:
        """Add to the worker's domain; True when it became occupied or empty."""
        domain = self._index.domain(term.topology, worker)
        if domain is None:
            return False
        before = counts.get(domain, 0)
        after = before + change
        if after:
            counts[domain] = after
        else:
            del counts[domain]
        return not before or not after

    # --- watched terms ---

    def watch(self, term: AffinityTerm) -> None:
        """Keep a term, and report its changes, until `unwatch` is called as often."""
        self._watched += not term.watchers
        term.watchers += 1

    def unwatch(self, term: AffinityTerm) -> None:
        """The inverse of `watch`. Terms of an earlier table are ignored."""
        if term.id < len(self.terms) and self.terms[term.id] is term:
            term.watchers -= 1
            self._watched -= not term.watchers

    def take_changed(self) -> dict[AffinityTerm, Bits]:
        """Changes of watched terms since the last call."""
        changed, self.changed = self.changed, {}
        return changed

    def _appear(self, term: AffinityTerm, worker: int, *, everywhere: bool = False) -> None:
        """Record a change in the domain of a worker. Without any peer a near term may be satisfied everywhere."""
        if term.watchers:
            around = self._index.alive if everywhere else self._index.neighbours(term.topology, worker)
            self.changed[term] = self.changed.get(term, 0) | around

    def in_use(self) -> Counter[str]:
        """Customer -> number of its unanchored terms that have carriers or watchers. O(terms)."""
        return Counter(term.owner for term in self.terms if term.unanchored and (term.carriers or term.watchers))

    # --- upkeep, before a cycle ---

    def refresh(self) -> bool:
        """Bring the bit sets in line with changed workers. True when many terms are unused and the caller should
        rebuild the table."""
        if self._seen_version != self._index.version:
            self._seen_version = self._index.version
            for term in self.terms:
                if term.topology != HOSTNAME_TOPOLOGY:
                    before = term.peer_bits, term.carrier_bits
                    term.refresh(self._index)
                    differ = (before[0] ^ term.peer_bits) | (before[1] ^ term.carrier_bits)
                    if term.watchers and differ:
                        self.changed[term] = self.changed.get(term, 0) | differ
        return len(self.terms) > _MAX_UNUSED_TERMS + 2 * (self._carried + self._watched)


def _by_id(term: AffinityTerm) -> int:
    return term.id


def _reach(term: PeerTerm, carrier: Subject) -> tuple[int, str]:
    """Kind of scope, and the namespace or customer that the carrier's term is limited to."""
    if term.scope is Scope.NAMESPACE:
        return _NAMESPACE, carrier.namespace
    if term.scope is Scope.CUSTOMER:
        return _CUSTOMER, carrier.customer
    return _EVERYWHERE


def _identity(term: PeerTerm, reach: tuple[int, str]) -> Hashable:
    """A key that equal terms of equal reach share: flat, because hashing nested dataclasses and enums runs as Python
    code."""
    selector = term.selector
    expressions = tuple([(part.key, part.op._value_, part.values) for part in selector.labels])
    return selector.types, selector.customers, expressions, term.topology, reach
