"""One cycle's fork of what changes: free amounts, ports, peers. The snapshot stays as it is.

`place` puts workloads on it and takes them off again when a group does not fit together. Numbers are kept twice, as
arrays for whole-column comparisons and as lists for single workers (a list read costs half of an array's).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from niyanta.engine.placement.requirement_class import Counts, RequirementClass, fingerprint
from niyanta.engine.snapshot.affinity_terms import AffinityTerm, SubjectIndex
from niyanta.engine.snapshot.bitset import Bits, IntArray, from_bool, minus
from niyanta.engine.snapshot.host_ports import PortBits, address, port_key, taken_rows
from niyanta.engine.snapshot.snapshot import CPU_ROW, DEVICES_ROW, MEMORY_ROW, PODS_ROW, SLOTS_ROW, Snapshot
from niyanta.engine.types import HOSTNAME_TOPOLOGY, Labels, Requirements, Subject


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of the engine."""

    keep_gpu_workers_free: bool = True
    """Workloads that need no GPU go to GPU workers only when nothing else fits."""
    remaining: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Customer -> how many more of its workloads may be placed now; customers that are not there have no limit."""


class SubjectView:
    """A subject as this cycle sees it: the terms that mean it, and where this cycle has placed it."""

    __slots__ = ("matched", "placed", "rejected", "seen", "subject")

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.matched: tuple[AffinityTerm, ...] = ()
        self.seen = -1
        """Number of interned terms when `matched` was made."""
        self.placed: list[tuple[int, int, str]] = []
        """(number that grows, row, workload id)"""
        self.rejected: dict[RequirementClass, tuple[int, Counts]] | None = None
        """(replicas, counts) of rejections that still hold, for classes that have peers."""


class Undo:
    """What one workload changed outside the counted columns, newest last."""

    __slots__ = ("bits", "ports", "providers")

    def __init__(self) -> None:
        self.bits: list[tuple[list[Bits], int, Bits]] = []
        self.providers: list[tuple[int, int | str]] = []
        self.ports: list[tuple[tuple[str, int], str, Bits]] = []


class Overlay:
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
        self.held: Bits = 0
        """Workers that are reserved, wholly or in part."""
        self._classes: dict[Hashable, list[RequirementClass]] = {}
        self._classes_by_id: dict[int, RequirementClass] = {}
        self._seen: set[int] = set()
        self._views: dict[tuple[str, str, str, Labels], SubjectView] = {}
        self._views_by_id: dict[int, SubjectView] = {}
        self._placed: SubjectIndex[SubjectView] = SubjectIndex()
        terms = snapshot.peers.terms
        self.peer_bits: list[Bits] = [term.peer_bits for term in terms]
        self.carrier_bits: list[Bits] = [term.carrier_bits for term in terms]
        self.providers: dict[tuple[int, int | str], str] = {}
        """(term, domain) that holds a peer only since this cycle -> the first workload that brought one."""
        self._followed: set[int] = set()
        self._ports: PortBits | None = None

    # --- what the queue asks for ---

    def requirements_class(self, requirements: Requirements) -> RequirementClass:
        """The class of equal requirements; quickest for the object that it was first made for."""
        known = self._classes_by_id.get(id(requirements))
        if known is not None and known.requirements is requirements:
            return known
        mark = fingerprint(requirements)
        number = hash(mark)
        for found in self._classes.get(mark, ()) if number in self._seen else ():
            if found.requirements == requirements:
                return found
        found = RequirementClass(
            requirements, self.snapshot, self.score, keep_gpu_workers_free=self.options.keep_gpu_workers_free
        )
        found.bind(self.left, self.free)
        if number in self._seen:
            self.keep(found)
        else:
            self._seen.add(number)
        return found

    def keep(self, asked: RequirementClass) -> None:
        """Remember a class. Only worth its memory from its second visit on, or when it was rejected."""
        if not asked.kept:
            asked.kept = True
            self._classes.setdefault(fingerprint(asked.requirements), []).append(asked)
            # The class keeps the object alive, so its id can't be given to another one during the cycle.
            self._classes_by_id[id(asked.requirements)] = asked

    def view(self, subject: Subject) -> SubjectView:
        """The one view of equal subjects; quickest for the object that it was first made for."""
        known = self._views_by_id.get(id(subject))
        if known is not None:
            return known
        key = (subject.namespace, subject.customer, subject.type, subject.labels)
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = self._views_by_id[id(subject)] = SubjectView(subject)
        return view

    def terms_of(
        self, asked: RequirementClass, view: SubjectView
    ) -> tuple[tuple[AffinityTerm, ...], tuple[AffinityTerm, ...]]:
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
            for term in near:
                self._follow(term)
        return found

    def _enter(self, term: AffinityTerm) -> None:
        """A term nobody asked about before: add what this cycle has placed."""
        bits = term.peer_bits
        for view in self._placed.matching(term):
            for _, row, _ in view.placed:
                bits |= self.index.neighbours(term.topology, row)
        self.peer_bits.append(bits)
        self.carrier_bits.append(term.carrier_bits)

    def _follow(self, term: AffinityTerm) -> None:
        """From now on remember who was first in each domain of a near term; look it up for what is placed already."""
        if term.id in self._followed:
            return
        self._followed.add(term.id)
        placed = sorted(one for view in self._placed.matching(term) for one in view.placed)
        for _, row, workload in placed:
            domain = self.index.domain(term.topology, row)
            if domain is not None and not term.peer_bits >> row & 1:
                self.providers.setdefault((term.id, domain), workload)

    def matched(self, view: SubjectView) -> tuple[AffinityTerm, ...]:
        """All terms that mean the subject."""
        table = self.snapshot.peers
        if view.seen != len(table.terms):
            view.seen = len(table.terms)
            view.matched = table.matching(view.subject)
        return view.matched

    # --- what keeps workers away ---

    def anti_rows(self, anti: tuple[AffinityTerm, ...], matched: tuple[AffinityTerm, ...]) -> Bits:
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

    def is_kept_away(self, matched: tuple[AffinityTerm, ...]) -> bool:
        """Whether a carrier of any of the terms runs in some domain."""
        carried = self.carrier_bits
        return any(carried[term.id] for term in matched)

    def near_rows(self, near: tuple[AffinityTerm, ...], view: SubjectView) -> tuple[Bits, tuple[AffinityTerm, ...]]:
        """Workers that satisfy all near terms but the starting ones, which are returned apart.

        A starting term is one that nothing matches anywhere, but that matches its own workload: it is satisfied
        wherever the topology exists, and from then on where the workload's first replica is. Otherwise the first of a
        group could never start (Kubernetes' rule for pod affinity). All other terms are about other workloads: the
        caller asks once, before the first replica.
        """
        allowed = self.index.alive
        starting: list[AffinityTerm] = []
        for term in near:
            bits = self.peer_bits[term.id]
            if not bits and term.matches(view.subject):
                starting.append(term)
            else:
                allowed &= bits
        return allowed, tuple(starting)

    def starting_rows(self, starting: tuple[AffinityTerm, ...]) -> Bits:
        """Workers that satisfy the starting terms now."""
        allowed = self.index.alive
        for term in starting:
            allowed &= self.peer_bits[term.id] or self.index.with_domain(term.topology)
        return allowed

    # --- placing ---

    def put(
        self,
        asked: RequirementClass,
        view: SubjectView,
        anti: tuple[AffinityTerm, ...],
        row: int,
        workload: str,
        undo: Undo | None = None,
    ) -> None:
        """Place one pod; `undo` collects what `take` needs to take it back."""
        self._count(asked, row, 1)
        matched = self.matched(view)
        for term in matched:
            self._spread(self.peer_bits, term, row, undo)
            if self._followed and term.id in self._followed:
                domain = self.index.domain(term.topology, row)
                if domain is not None and not term.peer_bits >> row & 1 and (term.id, domain) not in self.providers:
                    self.providers[term.id, domain] = workload
                    if undo is not None:
                        undo.providers.append((term.id, domain))
        for term in anti:
            self._spread(self.carrier_bits, term, row, undo)
        if asked.requirements.host_ports:
            self._take_ports(asked.requirements, row, undo)
        if not view.placed:
            self._placed.add(view)
        view.placed.append((len(self.log), row, workload))

    def take(self, asked: RequirementClass, view: SubjectView, row: int, undo: Undo) -> None:
        """Undo the last `put`."""
        self._count(asked, row, -1)
        view.placed.pop()
        if not view.placed:
            self._placed.discard(view)
        for bits, number, before in reversed(undo.bits):
            bits[number] = before
        for place in undo.providers:
            del self.providers[place]
        if self._ports is not None:
            for key, ip, before in reversed(undo.ports):
                self._ports[key][ip] = before

    def hold(self, asked: RequirementClass, rows: list[int]) -> None:
        """Keep room for a workload until the end of the cycle, one row per replica; what is not free yet counts too.

        Others may only use what is left beside it. A class with anti terms or host ports gets the workers alone, and
        carriers of anti terms stay away from all held workers: whoever starts there must not be in its way.
        """
        alone = asked.has_peers or bool(asked.requirements.host_ports)
        for row in rows:
            self._count(asked, row, 1)
            if alone:
                self.left[SLOTS_ROW][row] = self.free[SLOTS_ROW][row] = 0
                self.open = minus(self.open, 1 << row)
            self.held |= 1 << row

    def _spread(self, bits: list[Bits], term: AffinityTerm, row: int, undo: Undo | None) -> None:
        around = 1 << row if term.topology == HOSTNAME_TOPOLOGY else self.index.neighbours(term.topology, row)
        before = bits[term.id]
        after = before | around
        if after != before:
            if undo is not None:
                undo.bits.append((bits, term.id, before))
            bits[term.id] = after

    def _take_ports(self, requirements: Requirements, row: int, undo: Undo | None) -> None:
        if self._ports is None:
            self._ports = {key: dict(taken) for key, taken in self.snapshot.ports.taken.items()}
        for port in requirements.host_ports:
            taken = self._ports.setdefault(port_key(port), {})
            before = taken.get(address(port), 0)
            if undo is not None:
                undo.ports.append((port_key(port), address(port), before))
            taken[address(port)] = before | 1 << row

    def _count(self, asked: RequirementClass, row: int, pods: int) -> None:
        left = self.left
        for have, array, amount in asked.charges:
            array[row] = have[row] = have[row] - pods * amount
        devices_left = left[DEVICES_ROW]
        if asked.devices and row in self.gpu_resource:
            resource = self.gpu_resource[row]
            devices_left[row] -= pods * asked.devices_of[resource]
            self.free[DEVICES_ROW][row] = devices_left[row]
            column = self.snapshot.resources.get(resource, -1)
            if asked.gpu_count and column >= 0:
                left[column][row] -= pods * asked.gpu_count
                self.free[column][row] = left[column][row]
        if left[PODS_ROW][row] < 1 or left[SLOTS_ROW][row] < 1:
            self.open = minus(self.open, 1 << row)
        elif pods < 0:
            self.open |= 1 << row
        base = self.score.base_of(row, left[CPU_ROW][row], left[MEMORY_ROW][row], devices_left[row])
        self.base[row] = self.base_list[row] = base
        self.log.append(row)
