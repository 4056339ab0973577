"""A cycle's changes over the unchanged snapshot: free amounts, ports and peers.

`placer` places pods on it and removes them again when a group does not fit together. Free amounts are kept twice, as
arrays to compare all workers at once and as lists for single workers (reading a list costs half as much).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from niyanta.engine.placement.class_table import ClassTable
from niyanta.engine.placement.requirement_class import Counts, RequirementClass
from niyanta.engine.placement.whole_workers import WholeWorkers
from niyanta.engine.snapshot.affinity_terms import AffinityTerm, SubjectIndex
from niyanta.engine.snapshot.bitset import Bits, IntArray, from_bool, minus
from niyanta.engine.snapshot.host_ports import PortBits, address, port_key, taken_workers
from niyanta.engine.snapshot.snapshot import (
    CPU_RESOURCE,
    DEVICES_RESOURCE,
    MEMORY_RESOURCE,
    PODS_RESOURCE,
    SLOTS_RESOURCE,
    Snapshot,
)
from niyanta.engine.types import HOSTNAME_TOPOLOGY, Labels, Requirements, Subject


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of the engine."""

    keep_gpu_workers_free: bool = True
    """Workloads that need no GPU go to GPU workers only when no other worker fits."""
    remaining: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Customer -> number of its workloads that may still be placed; customers without an entry have no limit."""


class SubjectView:
    """A subject in this cycle: the terms that match it, and the workers this cycle placed it on."""

    __slots__ = ("matched", "placed", "rejected", "seen", "subject")

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.matched: tuple[AffinityTerm, ...] = ()
        self.seen = -1
        """Number of interned terms when `matched` was made."""
        self.placed: list[tuple[int, int, str]] = []
        """(length of the change log, worker, workload id)"""
        self.rejected: dict[RequirementClass, tuple[int, Counts]] | None = None
        """(replicas, counts) of rejections that are still valid, for classes that have peers."""


class Undo:
    """Changes of one placed pod, newest last; `Overlay.take_back` reverts them, also those of a part of a pod."""

    __slots__ = ("bits", "counted", "ports", "providers", "recorded")

    def __init__(self) -> None:
        self.counted = self.recorded = False
        """True once the pod's resources are counted, and once the subject's view records it."""
        self.bits: list[tuple[list[Bits], int, Bits]] = []
        self.providers: list[tuple[int, int | str]] = []
        self.ports: list[tuple[tuple[str, int], str, Bits]] = []

    def clear(self) -> None:
        """Forget the changes, so that the object can serve another pod."""
        self.counted = self.recorded = False
        if self.bits:
            self.bits = []
        if self.providers:
            self.providers = []
        if self.ports:
            self.ports = []


class Overlay:
    """State of a cycle. Resources and workers are numbered as in `Snapshot`; free devices are min(free GPU resource,
    idle devices)."""

    def __init__(self, snapshot: Snapshot, options: Options) -> None:
        snapshot.refresh()
        self.snapshot = snapshot
        self.index = snapshot.index
        self.options = options
        self.score = snapshot.strategy_score()
        free = snapshot.allocatable - snapshot.used
        own = np.zeros(snapshot.capacity, np.int64)
        self.gpu_resource: dict[int, str] = {}
        for worker, info in self.index.infos.items():
            if info.gpu is not None:
                self.gpu_resource[worker] = info.gpu.resource
                resource = snapshot.resources.get(info.gpu.resource)
                own[worker] = 0 if resource is None else free[resource, worker]
        np.minimum(own, free[DEVICES_RESOURCE], out=free[DEVICES_RESOURCE])
        self.free: list[IntArray] = list(free)
        """One array per resource of the snapshot, shape (capacity,)."""
        self.free_list: list[list[int]] = free.tolist()
        """The same as lists."""
        self.base = self.score.base(free[CPU_RESOURCE], free[MEMORY_RESOURCE], free[DEVICES_RESOURCE])
        self.base_list: list[int] = self.base.tolist()
        self.open_workers: Bits = from_bool((free[PODS_RESOURCE] >= 1) & (free[SLOTS_RESOURCE] >= 1)) & self.index.alive
        """Workers with room for one more pod, by pods and slots."""
        self.change_log: list[int] = []
        """Workers in the order they changed."""
        self.reserved: Bits = 0
        """Workers that are reserved, entirely or in part."""
        self.held: IntArray | None = None
        """Amounts that reservations hold, shape (resources, capacity); None without reservations."""
        classes = ClassTable(
            snapshot,
            self.score,
            free_list=self.free_list,
            free=self.free,
            keep_gpu_workers_free=options.keep_gpu_workers_free,
        )
        self.class_of = classes.find
        """The class of some requirements for a customer."""
        self.remember = classes.remember
        """Remember a class until the end of the cycle."""
        self._views: dict[tuple[str, str, str, Labels], SubjectView] = {}
        self._views_by_id: dict[int, SubjectView] = {}
        self._placed: SubjectIndex[SubjectView] = SubjectIndex()
        terms = snapshot.affinity.terms
        self.peer_bits: list[Bits] = [term.peer_bits for term in terms]
        self.carrier_bits: list[Bits] = [term.carrier_bits for term in terms]
        self.providers: dict[tuple[int, int | str], str] = {}
        """(term, domain) that has a peer only since this cycle -> the first workload placed there that is one."""
        self._tracked: set[int] = set()
        self._ports: PortBits | None = None
        self._whole: WholeWorkers | None = None

    @property
    def whole(self) -> WholeWorkers:
        """Allocatable amounts; only explanations need them."""
        if self._whole is None:
            self._whole = WholeWorkers(self.snapshot)
        return self._whole

    # --- classes, subjects and terms ---

    def view(self, subject: Subject) -> SubjectView:
        """The view shared by equal subjects; fastest when the same object is passed again."""
        known = self._views_by_id.get(id(subject))
        if known is not None:
            return known
        key = (subject.namespace, subject.customer, subject.type, subject.labels)
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = self._views_by_id[id(subject)] = SubjectView(subject)
        return view

    def terms_of(
        self, requirement_class: RequirementClass, view: SubjectView
    ) -> tuple[tuple[AffinityTerm, ...], tuple[AffinityTerm, ...]]:
        """Anti and near terms of the class, resolved for the subject and counted over running and placed pods."""
        subject = view.subject
        reach = (subject.namespace, subject.customer)
        found = requirement_class.own_terms.get(reach)
        if found is None:
            table = self.snapshot.affinity
            anti = tuple([table.intern(term, subject) for term in requirement_class.requirements.anti])
            near = tuple([table.intern(term, subject) for term in requirement_class.requirements.near])
            self.enter_new_terms()
            for term in near:
                self._track_providers(term)
            found = requirement_class.own_terms[reach] = (anti, near)
        return found

    def enter_new_terms(self) -> None:
        """Enter the terms that were interned since the last call. `matched` returns only terms that are entered."""
        terms = self.snapshot.affinity.terms
        for number in range(len(self.peer_bits), len(terms)):
            self._enter(terms[number])

    def _enter(self, term: AffinityTerm) -> None:
        """Enter a term that is new in this cycle, counting pods that the cycle has placed."""
        bits = term.peer_bits
        for view in self._placed.matching(term):
            for _, worker, _ in view.placed:
                bits |= self.index.neighbours(term.topology, worker)
        self.peer_bits.append(bits)
        self.carrier_bits.append(term.carrier_bits)

    def _track_providers(self, term: AffinityTerm) -> None:
        """Remember the first workload in each domain of a near term from now on; find it for pods already placed."""
        if term.id in self._tracked:
            return
        self._tracked.add(term.id)
        placed = sorted(one for view in self._placed.matching(term) for one in view.placed)
        for _, worker, workload in placed:
            domain = self.index.domain(term.topology, worker)
            if domain is not None and not term.peer_bits >> worker & 1:
                self.providers.setdefault((term.id, domain), workload)

    def matched(self, view: SubjectView) -> tuple[AffinityTerm, ...]:
        """All terms that match the subject: as a peer, or as a workload that carriers of the term keep away."""
        table = self.snapshot.affinity
        if view.seen != len(table.terms):
            view.matched = table.matching(view.subject)
            view.seen = len(table.terms)
        return view.matched

    # --- workers that terms and ports forbid ---

    def workers_in_conflict(self, anti: tuple[AffinityTerm, ...], matched: tuple[AffinityTerm, ...]) -> Bits:
        """Workers that anti-affinity forbids, in both directions."""
        blocked = 0
        for term in anti:
            blocked |= self.peer_bits[term.id]
        carried = self.carrier_bits
        for term in matched:
            blocked |= carried[term.id]
        return blocked

    def workers_with_ports_taken(self, requirements: Requirements) -> Bits:
        """Workers where one of the host ports is taken."""
        taken = self.snapshot.host_ports.taken if self._ports is None else self._ports
        blocked = 0
        for port in requirements.host_ports:
            blocked |= taken_workers(taken, port)
        return blocked

    def has_conflicts(self, matched: tuple[AffinityTerm, ...]) -> bool:
        """True when a carrier of any of the terms runs in some domain."""
        carried = self.carrier_bits
        return any(carried[term.id] for term in matched)

    def workers_near(self, near: tuple[AffinityTerm, ...], view: SubjectView) -> tuple[Bits, tuple[AffinityTerm, ...]]:
        """Workers that satisfy all near terms except the starting ones, which are returned separately.

        A starting term has no matching workload in the cluster yet, but matches the workload itself: it is satisfied
        in every domain of the topology, and then in the domain of the workload's first replica. Otherwise the first
        of a group could never start (Kubernetes' rule for pod affinity). All other terms concern other workloads:
        the caller evaluates them once, before the first replica.
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

    def workers_for_starting(self, starting: tuple[AffinityTerm, ...]) -> Bits:
        """Workers that satisfy the starting terms now."""
        allowed = self.index.alive
        for term in starting:
            allowed &= self.peer_bits[term.id] or self.index.with_domain(term.topology)
        return allowed

    # --- placing ---

    def place_pod(
        self,
        requirement_class: RequirementClass,
        view: SubjectView,
        anti: tuple[AffinityTerm, ...],
        worker: int,
        workload: str,
        undo: Undo,
    ) -> None:
        """Place one pod; `undo` collects the changes that `take_back` reverts."""
        self._count(requirement_class, worker, 1)
        undo.counted = True
        matched = self.matched(view)
        for term in matched:
            self._mark_domain(self.peer_bits, term, worker, undo)
            if self._tracked and term.id in self._tracked:
                domain = self.index.domain(term.topology, worker)
                if domain is not None and not term.peer_bits >> worker & 1 and (term.id, domain) not in self.providers:
                    self.providers[term.id, domain] = workload
                    undo.providers.append((term.id, domain))
        for term in anti:
            self._mark_domain(self.carrier_bits, term, worker, undo)
        if requirement_class.requirements.host_ports:
            self._take_ports(requirement_class.requirements, worker, undo)
        if not view.placed:
            self._placed.add(view)
        view.placed.append((len(self.change_log), worker, workload))
        undo.recorded = True

    def take_back(self, requirement_class: RequirementClass, view: SubjectView, worker: int, undo: Undo) -> None:
        """Undo the last `place_pod`, also one that raised. Clears `undo`."""
        if undo.counted:
            self._count(requirement_class, worker, -1)
        if undo.recorded:
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
        undo.clear()

    def reserve(self, requirement_class: RequirementClass, workers: list[int]) -> None:
        """Reserve capacity, free or not, for a workload until the end of the cycle: one worker per replica.

        Other workloads may only use the remaining capacity. A class with anti terms or host ports gets the workers
        alone, and carriers of anti terms avoid all reserved workers, because they could keep the workload away.
        """
        alone = requirement_class.has_peers or bool(requirement_class.requirements.host_ports)
        if self.held is None:
            self.held = np.zeros_like(self.snapshot.used)
        for worker in workers:
            before = [left[worker] for left in self.free_list]
            self._count(requirement_class, worker, 1)
            if alone:
                self.free_list[SLOTS_RESOURCE][worker] = self.free[SLOTS_RESOURCE][worker] = 0
                self.open_workers = minus(self.open_workers, 1 << worker)
            self.held[:, worker] += [had - left[worker] for had, left in zip(before, self.free_list, strict=True)]
            self.reserved |= 1 << worker

    def _mark_domain(self, bits: list[Bits], term: AffinityTerm, worker: int, undo: Undo) -> None:
        around = 1 << worker if term.topology == HOSTNAME_TOPOLOGY else self.index.neighbours(term.topology, worker)
        before = bits[term.id]
        after = before | around
        if after != before:
            undo.bits.append((bits, term.id, before))
            bits[term.id] = after

    def _take_ports(self, requirements: Requirements, worker: int, undo: Undo) -> None:
        if self._ports is None:
            self._ports = {key: dict(taken) for key, taken in self.snapshot.host_ports.taken.items()}
        for port in requirements.host_ports:
            taken = self._ports.setdefault(port_key(port), {})
            before = taken.get(address(port), 0)
            undo.ports.append((port_key(port), address(port), before))
            taken[address(port)] = before | 1 << worker

    def _count(self, requirement_class: RequirementClass, worker: int, pods: int) -> None:
        left = self.free_list
        for have, array, amount in requirement_class.charges:
            array[worker] = have[worker] = have[worker] - pods * amount
        devices_left = left[DEVICES_RESOURCE]
        if requirement_class.devices and worker in self.gpu_resource:
            name = self.gpu_resource[worker]
            devices_left[worker] -= pods * requirement_class.devices_of[name]
            self.free[DEVICES_RESOURCE][worker] = devices_left[worker]
            resource = self.snapshot.resources.get(name, -1)
            if requirement_class.gpu_count and resource >= 0:
                left[resource][worker] -= pods * requirement_class.gpu_count
                self.free[resource][worker] = left[resource][worker]
        if left[PODS_RESOURCE][worker] < 1 or left[SLOTS_RESOURCE][worker] < 1:
            self.open_workers = minus(self.open_workers, 1 << worker)
        elif pods < 0:
            self.open_workers |= 1 << worker
        base = self.score.base_of(
            worker, left[CPU_RESOURCE][worker], left[MEMORY_RESOURCE][worker], devices_left[worker]
        )
        self.base[worker] = self.base_list[worker] = base
        self.change_log.append(worker)
