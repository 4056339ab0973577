"""One cycle's fork of what changes: free amounts, ports, peers. The snapshot stays as it is.

`place` puts workloads on it and takes them off again when a group does not fit together. Numbers are kept twice, as
arrays for whole-column comparisons and as lists for single workers (a list read costs half of an array's).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from niyanta.engine.bits import Bits, IntArray, from_bool, minus
from niyanta.engine.classes import Counts, RequirementsClass, fingerprint
from niyanta.engine.columns import CPU_ROW, DEVICES_ROW, MEMORY_ROW, PODS_ROW, SLOTS_ROW, Snapshot
from niyanta.engine.model import HOSTNAME_TOPOLOGY, Labels, Requirements, Subject
from niyanta.engine.peers import SubjectIndex, Term
from niyanta.engine.ports import PortBits, address, port_key, taken_rows


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of the engine."""

    keep_gpu_workers_free: bool = True
    """Workloads that need no GPU go to GPU workers only when nothing else fits."""


class View:
    """A subject as this cycle sees it: the terms that mean it, and where this cycle has placed it."""

    __slots__ = ("matched", "placed", "rejected", "seen", "subject")

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.matched: tuple[Term, ...] = ()
        self.seen = -1
        """Number of interned terms when `matched` was made."""
        self.placed: list[tuple[int, str]] = []
        """(row, workload id)"""
        self.rejected: dict[RequirementsClass, tuple[int, Counts]] = {}
        """(replicas, counts) of rejections that still hold, for classes that have peers."""


class Undo:
    """What one workload changed outside the counted columns, newest last."""

    __slots__ = ("bits", "ports", "providers")

    def __init__(self) -> None:
        self.bits: list[tuple[list[Bits], int, Bits]] = []
        self.providers: list[tuple[int, int | str]] = []
        self.ports: list[tuple[tuple[str, int], str, Bits]] = []


class Fork:
    """State of a cycle. Columns as in `Snapshot`; the devices column is min(free GPU resource, idle devices)."""

    def __init__(self, snapshot: Snapshot, options: Options) -> None:
        snapshot.settle()
        self.snapshot = snapshot
        self.index = snapshot.index
        self.options = options
        self.score = snapshot.strategy_score()
        free = snapshot.allocatable - snapshot.used
        own = np.zeros(snapshot.capacity, np.int64)
        self.gpu_resource: dict[int, str] = {}
        for row, info in self.index.infos.items():
            if info.gpu is not None:
                self.gpu_resource[row] = info.gpu.resource
                column = snapshot.resources.get(info.gpu.resource)
                own[row] = 0 if column is None else free[column, row]
        np.minimum(own, free[DEVICES_ROW], out=free[DEVICES_ROW])
        self.free: list[IntArray] = list(free)
        """One array per column of the snapshot, shape (capacity,)."""
        self.left: list[list[int]] = free.tolist()
        """The same as lists."""
        self.base = self.score.base(free[CPU_ROW], free[MEMORY_ROW], free[DEVICES_ROW])
        self.base_list: list[int] = self.base.tolist()
        self.open: Bits = from_bool((free[PODS_ROW] >= 1) & (free[SLOTS_ROW] >= 1)) & self.index.alive
        """Workers with room for one more pod, by pods and slots."""
        self.log: list[int] = []
        """Rows in the order they changed."""
        self._classes: dict[Hashable, list[RequirementsClass]] = {}
        self._classes_by_id: dict[int, tuple[Requirements, RequirementsClass]] = {}
        self._views: dict[tuple[str, str, str, Labels], View] = {}
        self._views_by_id: dict[int, tuple[Subject, View]] = {}
        self._placed: SubjectIndex[View] = SubjectIndex()
        terms = snapshot.peers.terms
        self.peer_bits: list[Bits] = [term.peer_bits for term in terms]
        self.carrier_bits: list[Bits] = [term.carrier_bits for term in terms]
        self.providers: dict[tuple[int, int | str], str] = {}
        """(term, domain) that holds a peer only since this cycle -> the first workload that brought one."""
        self._ports: PortBits | None = None

    # --- what the queue asks for ---

    def requirements_class(self, requirements: Requirements) -> RequirementsClass:
        """The class of equal requirements; quick when the caller shares the objects."""
        known = self._classes_by_id.get(id(requirements))
        if known is not None:
            return known[1]
        alike = self._classes.setdefault(fingerprint(requirements), [])
        found = next((known for known in alike if known.requirements == requirements), None) if alike else None
        if found is None:
            found = RequirementsClass(
                requirements, self.snapshot, self.score, keep_gpu_workers_free=self.options.keep_gpu_workers_free
            )
            alike.append(found)
        # The entry keeps the object alive, so its id can't be given to another one during the cycle.
        self._classes_by_id[id(requirements)] = (requirements, found)
        return found

    def view(self, subject: Subject) -> View:
        """The one view of equal subjects."""
        known = self._views_by_id.get(id(subject))
        if known is not None:
            return known[1]
        key = (subject.namespace, subject.customer, subject.type, subject.labels)
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = View(subject)
        self._views_by_id[id(subject)] = (subject, view)
        return view

    def terms_of(self, asked: RequirementsClass, view: View) -> tuple[tuple[Term, ...], tuple[Term, ...]]:
        """Anti and near terms of the class as the subject means them, counted over all that runs and was placed."""
        subject = view.subject
        reach = (subject.namespace, subject.customer)
        found = asked.own_terms.get(reach)
        if found is None:
            table = self.snapshot.peers
            anti = tuple([table.intern(term, subject) for term in asked.requirements.anti])
            near = tuple([table.intern(term, subject) for term in asked.requirements.near])
            found = asked.own_terms[reach] = (anti, near)
            for number in range(len(self.peer_bits), len(table.terms)):
                self._enter(table.terms[number])
        return found

    def _enter(self, term: Term) -> None:
        """A term nobody carried before: add what this cycle has placed."""
        bits = term.peer_bits
        for view in self._placed.matching(term):
            for row, workload in view.placed:
                around = self.index.neighbours(term.topology, row)
                if minus(around, bits):
                    bits |= around
                    domain = self.index.domain(term.topology, row)
                    if domain is not None:
                        self._provide((term.id, domain), workload)
        self.peer_bits.append(bits)
        self.carrier_bits.append(term.carrier_bits)

    def _provide(self, place: tuple[int, int | str], workload: str) -> None:
        self.providers.setdefault(place, workload)

    def matched(self, view: View) -> tuple[Term, ...]:
        """All terms that mean the subject."""
        table = self.snapshot.peers
        if view.seen != len(table.terms):
            view.seen = len(table.terms)
            view.matched = table.matching(view.subject)
        return view.matched

    # --- what keeps workers away ---

    def anti_rows(self, anti: tuple[Term, ...], matched: tuple[Term, ...]) -> Bits:
        """Workers that anti-affinity forbids, either way round."""
        blocked = 0
        for term in anti:
            blocked |= self.peer_bits[term.id]
        carried = self.carrier_bits
        for term in matched:
            blocked |= carried[term.id]
        return blocked

    def port_rows(self, requirements: Requirements) -> Bits:
        """Workers where one of the host ports is taken."""
        taken = self.snapshot.ports.taken if self._ports is None else self._ports
        blocked = 0
        for port in requirements.host_ports:
            blocked |= taken_rows(taken, port)
        return blocked

    def is_kept_away(self, matched: tuple[Term, ...]) -> bool:
        """Whether a carrier of any of the terms runs in some domain."""
        carried = self.carrier_bits
        return any(carried[term.id] for term in matched)

    def near_rows(self, near: tuple[Term, ...], view: View) -> tuple[Bits, tuple[Term, ...]]:
        """Workers that satisfy all near terms but the starting ones, which are returned apart.

        A starting term is one that nothing matches anywhere, but that matches its own workload: it is satisfied
        wherever the topology exists, and from then on where the workload's first replica is. Otherwise the first of a
        group could never start (Kubernetes' rule for pod affinity). All other terms are about other workloads: the
        caller asks once, before the first replica.
        """
        allowed = self.index.alive
        starting: list[Term] = []
        for term in near:
            bits = self.peer_bits[term.id]
            if not bits and term.matches(view.subject):
                starting.append(term)
            else:
                allowed &= bits
        return allowed, tuple(starting)

    def starting_rows(self, starting: tuple[Term, ...]) -> Bits:
        """Workers that satisfy the starting terms now."""
        allowed = self.index.alive
        for term in starting:
            allowed &= self.peer_bits[term.id] or self.index.with_domain(term.topology)
        return allowed

    # --- placing ---

    def put(self, asked: RequirementsClass, view: View, anti: tuple[Term, ...], row: int, workload: str) -> Undo | None:
        """Place one pod. Returns what `take` needs besides the columns, if anything."""
        self._count(asked, row, 1)
        matched = self.matched(view)
        undo: Undo | None = None
        if matched or anti or asked.requirements.host_ports:
            undo = Undo()
            for term in matched:
                self._spread(self.peer_bits, term, row, undo, workload)
            for term in anti:
                self._spread(self.carrier_bits, term, row, undo, "")
            if asked.requirements.host_ports:
                self._take_ports(asked.requirements, row, undo)
        if not view.placed:
            self._placed.add(view)
        view.placed.append((row, workload))
        return undo

    def take(self, asked: RequirementsClass, view: View, row: int, undo: Undo | None) -> None:
        """Undo the last `put`."""
        self._count(asked, row, -1)
        view.placed.pop()
        if not view.placed:
            self._placed.discard(view)
        if undo is not None:
            for bits, number, before in reversed(undo.bits):
                bits[number] = before
            for place in undo.providers:
                del self.providers[place]
            if self._ports is not None:
                for key, ip, before in reversed(undo.ports):
                    self._ports[key][ip] = before

    def _spread(self, bits: list[Bits], term: Term, row: int, undo: Undo, workload: str) -> None:
        around = 1 << row if term.topology == HOSTNAME_TOPOLOGY else self.index.neighbours(term.topology, row)
        before = bits[term.id]
        if around & before == around:
            return
        undo.bits.append((bits, term.id, before))
        bits[term.id] = before | around
        if workload:
            domain = self.index.domain(term.topology, row)
            if domain is not None and (term.id, domain) not in self.providers:
                self.providers[term.id, domain] = workload
                undo.providers.append((term.id, domain))

    def _take_ports(self, requirements: Requirements, row: int, undo: Undo) -> None:
        if self._ports is None:
            self._ports = {key: dict(taken) for key, taken in self.snapshot.ports.taken.items()}
        for port in requirements.host_ports:
            taken = self._ports.setdefault(port_key(port), {})
            before = taken.get(address(port), 0)
            undo.ports.append((port_key(port), address(port), before))
            taken[address(port)] = before | 1 << row

    def _count(self, asked: RequirementsClass, row: int, pods: int) -> None:
        left, free = self.left, self.free
        for column, amount in asked.needs:
            free[column][row] = left[column][row] = left[column][row] - pods * amount
        slots = left[SLOTS_ROW]
        free[SLOTS_ROW][row] = slots[row] = slots[row] - pods
        resource = self.gpu_resource.get(row)
        if resource is not None:
            devices = asked.devices_of[resource]
            if devices:
                left[DEVICES_ROW][row] -= pods * devices
                free[DEVICES_ROW][row] = left[DEVICES_ROW][row]
            column = self.snapshot.resources.get(resource, -1)
            if asked.gpu_count and column >= 0:
                left[column][row] -= pods * asked.gpu_count
                free[column][row] = left[column][row]
        if left[PODS_ROW][row] < 1 or slots[row] < 1:
            self.open = minus(self.open, 1 << row)
        elif pods < 0:
            self.open |= 1 << row
        self.base_list[row] = self.score.base_of(row, left[CPU_ROW][row], left[MEMORY_ROW][row], left[DEVICES_ROW][row])
        self.base[row] = self.base_list[row]
        self.log.append(row)
