"""The snapshot: all workers and the pods that run on them, as arrays that deltas keep up to date.

Consumers apply the cluster's deltas (`deltas`), `placement.overlay` copies the free amounts for one cycle. Not
thread-safe: apply deltas between cycles, never while `schedule` runs on the snapshot.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Final, assert_never

import numpy as np

from niyanta.engine.snapshot.affinity_terms import AffinityTable
from niyanta.engine.snapshot.bitset import Bits, IntArray
from niyanta.engine.snapshot.cluster_changes import ClusterChanges
from niyanta.engine.snapshot.deltas import (
    ChargedNodeRemoved,
    ChargedNodeUpserted,
    Delta,
    PodCharged,
    PodReleased,
    StateReplaced,
    WorkerRemoved,
    WorkerUpserted,
)
from niyanta.engine.snapshot.devices import DeviceTable, device_count, devices_of
from niyanta.engine.snapshot.host_ports import HostPortTable
from niyanta.engine.snapshot.strategy_score import StrategyScore
from niyanta.engine.snapshot.worker_index import WorkerIndex
from niyanta.engine.snapshot.worker_usage import WorkerUsage
from niyanta.engine.types import CPU, MEMORY, PODS, Charge, ChargedNode, Quantities, WorkerInfo

UNLIMITED_SLOTS: Final = 1 << 60
WHOLE_WORKER: Final = 1_000_000
"""One whole worker, in millionths: the unit of dominant shares (`Snapshot.share`)."""

CPU_RESOURCE, MEMORY_RESOURCE, PODS_RESOURCE, SLOTS_RESOURCE, DEVICES_RESOURCE = range(5)
"""Numbers of the resources that always exist. Slots and idle devices are counted like resources but have no name."""
_FIXED_RESOURCES = (CPU, MEMORY, PODS, "", "")

MAX_AMOUNT: Final = 1 << 50
"""Largest amount of a resource (1 PiB of memory). Nodes and pods can state any 64-bit number: larger ones count as
this, so that no sum leaves int64."""
_MAX_CPU: Final = 1 << 40
"""The same for millicores, which `strategy_score` multiplies by up to 2^19."""


class _CountedCharge:
    """A charge with the number of its worker (-1: not known) and the devices it takes there."""

    __slots__ = ("charge", "devices", "worker")

    def __init__(self, charge: Charge) -> None:
        self.charge = charge
        self.worker = -1
        self.devices: tuple[int, ...] = ()


class Snapshot:
    """Workers and charges. Workers and resources are numbered; numbers of removed workers are used again.

    `allocatable`, `used`, `foreign`: int64, shape (resources, capacity). Entries of unused worker numbers are zero, and
    so are those of charged nodes: these have numbers like workers, for peers on them, but are not in `index.alive`.
    """

    def __init__(self) -> None:
        self.index = WorkerIndex()
        self.affinity = AffinityTable(self.index)
        self.host_ports = HostPortTable()
        self.capacity = 64
        self.resources: dict[str, int] = {CPU: CPU_RESOURCE, MEMORY: MEMORY_RESOURCE, PODS: PODS_RESOURCE}
        self.resource_names: list[str] = list(_FIXED_RESOURCES)
        self.allocatable: IntArray = np.zeros((len(_FIXED_RESOURCES), self.capacity), np.int64)
        self.used: IntArray = np.zeros((len(_FIXED_RESOURCES), self.capacity), np.int64)
        self.foreign: IntArray = np.zeros((len(_FIXED_RESOURCES), self.capacity), np.int64)
        """The part of `used` that pods not made by Niyanta take (devices are not counted)."""
        self.freed: dict[str, int] = {}
        """Pool -> capacity freed by Niyanta's pods or added by new workers, in millionths of a worker. It only grows;
        the expedited lane gets a share of it."""
        self.devices = DeviceTable(self.capacity)
        self._changed_workers: Bits = 0
        self._terms_rebuilt = False
        self._unused: list[int] = []
        self._next_worker = 0
        self._counted: dict[str, _CountedCharge] = {}
        self._by_worker: dict[str, dict[str, _CountedCharge]] = {}
        self._score: StrategyScore | None = None
        self._score_version = -1

    # --- readers ---

    @property
    def workers(self) -> tuple[str, ...]:
        """Names of all workers, sorted."""
        return tuple(sorted(self.index.by_name))

    def worker(self, name: str) -> WorkerInfo:
        """The worker as last upserted; KeyError if unknown."""
        return self.index.infos[self.index.by_name[name]]

    def charges(self, name: str) -> tuple[Charge, ...]:
        """Charges for a worker, known or not, sorted by key."""
        return tuple(counted.charge for _, counted in sorted(self._by_worker.get(name, {}).items()))

    def worker_usage(self, name: str) -> WorkerUsage:
        """Capacity and use of a worker; KeyError if unknown."""
        worker = self.index.by_name[name]
        info = self.index.infos[worker]
        used = self.used[:, worker].tolist()
        names = self.resource_names
        return WorkerUsage(
            name=name,
            pool=info.pool,
            allocatable=info.allocatable,
            used=tuple(sorted((names[r], amount) for r, amount in enumerate(used) if amount and names[r])),
            slots=info.slots,
            slots_used=used[SLOTS_RESOURCE],
            devices=int(self.allocatable[DEVICES_RESOURCE, worker]),
            devices_idle=int(self.allocatable[DEVICES_RESOURCE, worker]) - used[DEVICES_RESOURCE],
        )

    def usage(self) -> list[WorkerUsage]:
        """`worker_usage` of all workers, sorted by name."""
        return [self.worker_usage(name) for name in self.workers]

    # --- changes ---

    def apply(self, delta: Delta) -> None:
        """Apply one change of the cluster."""
        match delta:
            case PodCharged(charge):
                self.charge(charge)
            case PodReleased(key):
                self.release(key)
            case WorkerUpserted(info):
                self.upsert_worker(info)
            case WorkerRemoved(name):
                self.remove_worker(name)
            case ChargedNodeUpserted(node):
                self.upsert_charged_node(node)
            case ChargedNodeRemoved(name):
                self.remove_charged_node(name)
            case StateReplaced():
                self._replace(delta)
            case _:
                assert_never(delta)

    def _replace(self, state: StateReplaced) -> None:
        """Become `state`; equal entries cost one comparison each."""
        for key in sorted(self._counted.keys() - {charge.key for charge in state.charges}):
            self.release(key)
        for name in sorted(self.index.by_name.keys() - {info.name for info in state.workers}):
            self.remove_worker(name)
        for name in sorted(self.index.charged_by_name.keys() - {node.name for node in state.charged_nodes}):
            self.remove_charged_node(name)
        for info in state.workers:
            self.upsert_worker(info)
        for node in state.charged_nodes:
            self.upsert_charged_node(node)
        for charge in state.charges:
            self.charge(charge)

    # --- workers ---

    def upsert_worker(self, info: WorkerInfo) -> None:
        """Add or replace a worker. Equal content costs one comparison."""
        worker = self.index.by_name.get(info.name)
        if worker is not None:
            if self.index.infos[worker] == info:
                return
            self._subtract_all(info.name)
            self.index.remove(worker)
        else:
            self.remove_charged_node(info.name)
            worker = self._new_worker()
            self.freed[info.pool] = self.freed.get(info.pool, 0) + WHOLE_WORKER
        self.index.add(worker, info)
        self._changed_workers |= 1 << worker
        self.allocatable[:, worker] = 0
        for name, amount in info.allocatable:
            resource = self._resource(name)  # may replace the arrays: look them up after it
            self.allocatable[resource, worker] = bounded(resource, amount)
        self.allocatable[SLOTS_RESOURCE, worker] = UNLIMITED_SLOTS if info.slots is None else info.slots
        count = device_count(info)
        self.allocatable[DEVICES_RESOURCE, worker] = count
        self.devices.set_count(worker, count)
        for _, counted in sorted(self._by_worker.get(info.name, {}).items()):
            self._add(counted, worker)

    def remove_worker(self, name: str) -> None:
        """Remove a worker; its charges are kept until released. Unknown names are ignored."""
        worker = self.index.by_name.get(name)
        if worker is None:
            return
        self._subtract_all(name)
        self.index.remove(worker)
        self.allocatable[:, worker] = 0
        self.devices.set_count(worker, 0)
        heappush(self._unused, worker)

    def upsert_charged_node(self, node: ChargedNode) -> None:
        """Add or replace a charged node; it replaces the worker of this name. Equal content costs one comparison."""
        known = self.index.charged_by_name.get(node.name)
        if known is not None and self.index.charged_nodes[known] == node:
            return
        self.remove_worker(node.name)
        self.remove_charged_node(node.name)
        number = self._new_worker()
        self.index.add_charged_node(number, node)
        for _, counted in sorted(self._by_worker.get(node.name, {}).items()):
            self._add(counted, number)

    def remove_charged_node(self, name: str) -> None:
        """Remove a charged node; its charges are kept until released. Unknown names are ignored."""
        number = self.index.charged_by_name.get(name)
        if number is None:
            return
        self._subtract_all(name)
        self.index.remove_charged_node(number)
        heappush(self._unused, number)

    def _new_worker(self) -> int:
        if self._unused:
            return heappop(self._unused)
        worker = self._next_worker
        self._next_worker += 1
        if worker == self.capacity:
            # Every cycle pays for unused numbers, so grow by only an eighth (a multiple of 64, for the bit sets).
            more = 64 * (1 + self.capacity // 512)
            self.allocatable = np.pad(self.allocatable, ((0, 0), (0, more)))
            self.used = np.pad(self.used, ((0, 0), (0, more)))
            self.foreign = np.pad(self.foreign, ((0, 0), (0, more)))
            self.devices.grow(more)
            self.capacity += more
        return worker

    def _resource(self, name: str) -> int:
        resource = self.resources.get(name)
        if resource is None:
            resource = self.resources[name] = len(self.resource_names)
            self.resource_names.append(name)
            self.allocatable = np.pad(self.allocatable, ((0, 1), (0, 0)))
            self.used = np.pad(self.used, ((0, 1), (0, 0)))
            self.foreign = np.pad(self.foreign, ((0, 1), (0, 0)))
        return resource

    # --- charges ---

    def charge(self, charge: Charge) -> None:
        """Count a pod. Idempotent by key; other content under the same key replaces it."""
        counted = self._counted.get(charge.key)
        if counted is not None:
            if counted.charge == charge:
                return
            self.release(charge.key)
        counted = self._counted[charge.key] = _CountedCharge(charge)
        self._by_worker.setdefault(charge.worker, {})[charge.key] = counted
        worker = self.index.number_of(charge.worker)
        if worker is not None:
            self._add(counted, worker)

    def release(self, key: str) -> None:
        """Remove the charge of a pod. Unknown keys are ignored."""
        counted = self._counted.pop(key, None)
        if counted is None:
            return
        on = self._by_worker[counted.charge.worker]
        del on[key]
        if not on:
            del self._by_worker[counted.charge.worker]
        worker = counted.worker
        if worker in self.index.charged_nodes:
            self._subtract(counted)
        elif worker >= 0:
            held = counted.devices
            if counted.charge.subject is not None:
                pool = self.index.infos[worker].pool
                self.freed[pool] = self.freed.get(pool, 0) + self.share(worker, counted.charge.requests, len(held))
            self._subtract(counted)
            self._changed_workers |= 1 << worker
            if held and self._lacks_devices(worker):
                self._reassign_devices(worker, on)

    def _subtract_all(self, name: str) -> None:
        for counted in self._by_worker.get(name, {}).values():
            self._subtract(counted)

    def _add(self, counted: _CountedCharge, worker: int) -> None:
        charge = counted.charge
        counted.worker = worker
        info = self.index.infos.get(worker)
        if info is not None:
            self._count(charge, worker, 1)
            count = devices_of(charge, info)
            if count:
                self._take_devices(counted, count)
            for port in charge.host_ports:
                self.host_ports.take(port, worker)
        if charge.subject is not None:
            self.affinity.add(charge.subject, charge.anti, worker)

    def _subtract(self, counted: _CountedCharge) -> None:
        charge, worker = counted.charge, counted.worker
        if worker in self.index.infos:
            self._count(charge, worker, -1)
            self._give_devices(counted)
            for port in charge.host_ports:
                self.host_ports.free(port, worker)
        if charge.subject is not None:
            self.affinity.remove(charge.subject, charge.anti, worker)
        counted.worker = -1

    def _count(self, charge: Charge, worker: int, sign: int) -> None:
        for name, amount in charge.requests:
            resource = self._resource(name)
            amount = sign * bounded(resource, amount)
            self.used[resource, worker] += amount
            if charge.subject is None:
                self.foreign[resource, worker] += amount
        gpu = self.index.infos[worker].gpu
        if charge.gpu_count and gpu is not None:
            resource = self._resource(gpu.resource)
            self.used[resource, worker] += sign * bounded(resource, charge.gpu_count)
        if charge.subject is not None:
            self.used[SLOTS_RESOURCE, worker] += sign

    def share(self, worker: int, requests: Quantities, devices: int) -> int:
        """Dominant share of a worker that a pod of Niyanta takes: its largest part of any resource.

        A resource that no worker has ever had counts as zero.
        """
        have: list[int] = self.allocatable[:, worker].tolist()
        share = WHOLE_WORKER // max(have[SLOTS_RESOURCE], 1)
        if devices:
            share = max(share, devices * WHOLE_WORKER // max(have[DEVICES_RESOURCE], 1))
        for name, amount in requests:
            resource = self.resources.get(name)
            share = max(share, amount * WHOLE_WORKER // max(0 if resource is None else have[resource], 1))
        return min(share, WHOLE_WORKER)

    # --- devices ---

    def _take_devices(self, counted: _CountedCharge, count: int) -> None:
        counted.devices = self.devices.take(counted.worker, count)
        self.used[DEVICES_RESOURCE, counted.worker] += len(counted.devices)

    def _give_devices(self, counted: _CountedCharge) -> None:
        if counted.devices:
            self.devices.give(counted.worker, counted.devices)
            self.used[DEVICES_RESOURCE, counted.worker] -= len(counted.devices)
            counted.devices = ()

    def _lacks_devices(self, worker: int) -> bool:
        """True when a charge on the worker has fewer devices than it requests (the node is overcommitted)."""
        info = self.index.infos[worker]
        on = self._by_worker.get(info.name, {})
        return any(len(counted.devices) < devices_of(counted.charge, info) for counted in on.values())

    def _reassign_devices(self, worker: int, on: dict[str, _CountedCharge]) -> None:
        for counted in on.values():
            self._give_devices(counted)
        for _, counted in sorted(on.items()):
            self._take_devices(counted, devices_of(counted.charge, self.index.infos[worker]))

    # --- upkeep ---

    def take_changes(self) -> ClusterChanges:
        """Changes since the last call, for the classes that are parked."""
        changes = ClusterChanges(self._changed_workers, self.affinity.take_changed(), self._terms_rebuilt)
        self._changed_workers, self._terms_rebuilt = 0, False
        return changes

    def refresh(self, *, drop_unused_terms: bool = False) -> None:
        """Update lazily maintained parts; each overlay calls it first. `drop_unused_terms`: intern the terms of running
        carriers anew, without all others."""
        if self.affinity.refresh() or drop_unused_terms:
            self._terms_rebuilt = True
            self.affinity = AffinityTable(self.index)
            for counted in self._counted.values():
                if counted.worker >= 0 and counted.charge.subject is not None:
                    self.affinity.add(counted.charge.subject, counted.charge.anti, counted.worker)
            self.affinity.refresh()

    def strategy_score(self) -> StrategyScore:
        """Strategy score of the workers as they are now."""
        if self._score is None or self._score_version != self.index.version:
            self._score = StrategyScore(self.index, self.allocatable, CPU_RESOURCE, MEMORY_RESOURCE, DEVICES_RESOURCE)
            self._score_version = self.index.version
        return self._score


def bounded(resource: int, amount: int) -> int:
    """The amount of a resource (by number), within 0 and the largest that is counted."""
    return min(max(amount, 0), _MAX_CPU if resource == CPU_RESOURCE else MAX_AMOUNT)
