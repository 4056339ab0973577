"""The snapshot: all workers and what runs on them, as columns that are kept up to date event by event.

The cluster package feeds it (upsert, charge, release), `cycle.Fork` copies the numbers for one cycle, `place.schedule`
decides. Not thread-safe: do not change a snapshot while `schedule` runs on it; collect the events and apply them
between cycles.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final, assert_never

import numpy as np
from numpy.typing import NDArray

from niyanta.engine.placement.scoring import StrategyScore
from niyanta.engine.snapshot.affinity_terms import AffinityTable
from niyanta.engine.snapshot.bitset import IntArray
from niyanta.engine.snapshot.deltas import (
    Delta,
    PodCharged,
    PodReleased,
    StateReplaced,
    WorkerRemoved,
    WorkerUpserted,
)
from niyanta.engine.snapshot.host_ports import HostPortTable
from niyanta.engine.snapshot.worker_index import WorkerIndex
from niyanta.engine.types import CPU, MEMORY, PODS, Charge, Quantities, WorkerInfo

UNLIMITED: Final = 1 << 60
DEVICE: Final = 1000
"""Thousandths of one GPU device."""
WORKER: Final = 1_000_000
"""One whole worker, where capacity is told as the dominant share of a worker (`Snapshot.share`)."""

CPU_ROW, MEMORY_ROW, PODS_ROW, SLOTS_ROW, DEVICES_ROW = range(5)
"""Fixed rows of the resource columns. Slots and idle devices are counted like resources but have no resource name."""
_FIRST_ROWS = (CPU, MEMORY, PODS, "", "")


@dataclass(frozen=True, slots=True)
class WorkerUsage:
    """What one worker has and what is taken. `used` may exceed `allocatable` when others overcommit the node."""

    name: str
    pool: str
    allocatable: Quantities
    used: Quantities
    """Only resources of which something is used; foreign pods count."""
    slots: int | None
    slots_used: int
    """Niyanta's pods on the worker."""
    devices: int
    devices_idle: int
    """GPU devices that nobody uses any part of."""


class _Seat:
    """A charge in force on a row, with the devices it took."""

    __slots__ = ("charge", "devices", "row")

    def __init__(self, charge: Charge) -> None:
        self.charge = charge
        self.row = -1
        self.devices: tuple[int, ...] = ()


class Snapshot:
    """Workers and charges. Rows of `allocatable` and `used` are resources, columns are workers.

    `allocatable`, `used`: int64, shape (resources, capacity). `devices`: int16, shape (capacity, devices), the free
    thousandths of each GPU device. Columns of removed workers are zero and are used again.
    """

    def __init__(self) -> None:
        self.index = WorkerIndex()
        self.peers = AffinityTable(self.index)
        self.ports = HostPortTable()
        self.capacity = 64
        self.resources: dict[str, int] = {CPU: CPU_ROW, MEMORY: MEMORY_ROW, PODS: PODS_ROW}
        self.resource_names: list[str] = list(_FIRST_ROWS)
        self.allocatable: IntArray = np.zeros((len(_FIRST_ROWS), self.capacity), np.int64)
        self.used: IntArray = np.zeros((len(_FIRST_ROWS), self.capacity), np.int64)
        self.foreign: IntArray = np.zeros((len(_FIRST_ROWS), self.capacity), np.int64)
        """The part of `used` that pods take which Niyanta did not make (devices are not counted)."""
        self.freed: dict[str, int] = {}
        """By pool, only growing: capacity that pods of Niyanta gave back or new workers brought, `WORKER` for a whole
        worker. The expedited lane gets its share of this."""
        self.devices: NDArray[np.int16] = np.zeros((self.capacity, 8), np.int16)
        self._unused: list[int] = []
        self._next_row = 0
        self._seats: dict[str, _Seat] = {}
        self._on: dict[str, dict[str, _Seat]] = {}
        self._score: StrategyScore | None = None
        self._score_version = -1

    # --- readers ---

    @property
    def workers(self) -> tuple[str, ...]:
        """Names of all workers, sorted."""
        return tuple(sorted(self.index.rows))

    def worker(self, name: str) -> WorkerInfo:
        """What was upserted last; KeyError if unknown."""
        return self.index.infos[self.index.rows[name]]

    def charges(self, name: str) -> tuple[Charge, ...]:
        """Charges for a worker, known or not, sorted by key."""
        return tuple(seat.charge for _, seat in sorted(self._on.get(name, {}).items()))

    def worker_usage(self, name: str) -> WorkerUsage:
        """Capacity and use of a worker; KeyError if unknown."""
        row = self.index.rows[name]
        info = self.index.infos[row]
        used = self.used[:, row].tolist()
        names = self.resource_names
        return WorkerUsage(
            name=name,
            pool=info.pool,
            allocatable=info.allocatable,
            used=tuple(sorted((names[r], amount) for r, amount in enumerate(used) if amount and names[r])),
            slots=info.slots,
            slots_used=used[SLOTS_ROW],
            devices=int(self.allocatable[DEVICES_ROW, row]),
            devices_idle=int(self.allocatable[DEVICES_ROW, row]) - used[DEVICES_ROW],
        )

    def usage(self) -> list[WorkerUsage]:
        """`worker_usage` of all workers, sorted by name."""
        return [self.worker_usage(name) for name in self.workers]

    # --- changes ---

    def apply(self, delta: Delta) -> None:
        """Bring one change of the cluster in."""
        match delta:
            case PodCharged(charge):
                self.charge(charge)
            case PodReleased(key):
                self.release(key)
            case WorkerUpserted(info):
                self.upsert_worker(info)
            case WorkerRemoved(name):
                self.remove_worker(name)
            case StateReplaced():
                self._replace(delta)
            case _:
                assert_never(delta)

    def _replace(self, state: StateReplaced) -> None:
        """Become `state`; what is equal already costs one comparison each."""
        for key in sorted(self._seats.keys() - {charge.key for charge in state.charges}):
            self.release(key)
        for name in sorted(self.index.rows.keys() - {info.name for info in state.workers}):
            self.remove_worker(name)
        for info in state.workers:
            self.upsert_worker(info)
        for charge in state.charges:
            self.charge(charge)

    # --- workers ---

    def upsert_worker(self, info: WorkerInfo) -> None:
        """Add a worker or replace what is known of it. Equal content costs one comparison."""
        row = self.index.rows.get(info.name)
        if row is not None:
            if self.index.infos[row] == info:
                return
            self._unseat_all(info.name)
            self.index.remove(row)
        else:
            row = self._take_row()
            self.freed[info.pool] = self.freed.get(info.pool, 0) + WORKER
        self.index.add(row, info)
        self.allocatable[:, row] = 0
        for name, amount in info.allocatable:
            resource = self._resource(name)  # may grow the columns: look them up after it
            self.allocatable[resource, row] = amount
        self.allocatable[SLOTS_ROW, row] = UNLIMITED if info.slots is None else info.slots
        count = device_count(info)
        self.allocatable[DEVICES_ROW, row] = count
        if count > self.devices.shape[1]:
            wider = np.zeros((self.capacity, count), np.int16)
            wider[:, : self.devices.shape[1]] = self.devices
            self.devices = wider
        self.devices[row] = 0
        self.devices[row, :count] = DEVICE
        for _, seat in sorted(self._on.get(info.name, {}).items()):
            self._seat(seat, row)

    def remove_worker(self, name: str) -> None:
        """Forget a worker; its charges stay remembered until released. Unknown: no-op."""
        row = self.index.rows.get(name)
        if row is None:
            return
        self._unseat_all(name)
        self.index.remove(row)
        self.allocatable[:, row] = 0
        self.devices[row] = 0
        heappush(self._unused, row)

    def _take_row(self) -> int:
        if self._unused:
            return heappop(self._unused)
        row = self._next_row
        self._next_row += 1
        if row == self.capacity:
            # Every cycle pays for unused columns, so grow by an eighth only (a multiple of 64, for the bit sets).
            more = 64 * (1 + self.capacity // 512)
            self.allocatable = np.pad(self.allocatable, ((0, 0), (0, more)))
            self.used = np.pad(self.used, ((0, 0), (0, more)))
            self.foreign = np.pad(self.foreign, ((0, 0), (0, more)))
            self.devices = np.pad(self.devices, ((0, more), (0, 0)))
            self.capacity += more
        return row

    def _resource(self, name: str) -> int:
        row = self.resources.get(name)
        if row is None:
            row = self.resources[name] = len(self.resource_names)
            self.resource_names.append(name)
            self.allocatable = np.pad(self.allocatable, ((0, 1), (0, 0)))
            self.used = np.pad(self.used, ((0, 1), (0, 0)))
            self.foreign = np.pad(self.foreign, ((0, 1), (0, 0)))
        return row

    # --- charges ---

    def charge(self, charge: Charge) -> None:
        """Count a pod. Idempotent by key; other content under the same key replaces it."""
        seat = self._seats.get(charge.key)
        if seat is not None:
            if seat.charge == charge:
                return
            self.release(charge.key)
        seat = self._seats[charge.key] = _Seat(charge)
        self._on.setdefault(charge.worker, {})[charge.key] = seat
        row = self.index.rows.get(charge.worker)
        if row is not None:
            self._seat(seat, row)

    def release(self, key: str) -> None:
        """The pod is gone. Unknown key: no-op."""
        seat = self._seats.pop(key, None)
        if seat is None:
            return
        worker = seat.charge.worker
        on = self._on[worker]
        del on[key]
        if not on:
            del self._on[worker]
        row = seat.row
        if row >= 0:
            held = seat.devices
            if seat.charge.subject is not None:
                pool = self.index.infos[row].pool
                self.freed[pool] = self.freed.get(pool, 0) + self.share(row, seat.charge.requests, len(held))
            self._unseat(seat)
            if held and self._lacks_devices(row):
                self._deal_devices(row, on)

    def _unseat_all(self, name: str) -> None:
        for seat in self._on.get(name, {}).values():
            self._unseat(seat)

    def _seat(self, seat: _Seat, row: int) -> None:
        charge = seat.charge
        seat.row = row
        self._count(charge, row, 1)
        count = devices_of(charge, self.index.infos[row])
        if count:
            self._take_devices(seat, count)
        for port in charge.host_ports:
            self.ports.take(port, row)
        if charge.subject is not None:
            self.peers.seat(charge.subject, charge.anti, row)

    def _unseat(self, seat: _Seat) -> None:
        charge, row = seat.charge, seat.row
        self._count(charge, row, -1)
        self._give_devices(seat)
        for port in charge.host_ports:
            self.ports.free(port, row)
        if charge.subject is not None:
            self.peers.unseat(charge.subject, charge.anti, row)
        seat.row = -1

    def _count(self, charge: Charge, row: int, sign: int) -> None:
        for name, amount in charge.requests:
            resource = self._resource(name)
            self.used[resource, row] += sign * amount
        gpu = self.index.infos[row].gpu
        if charge.gpu_count and gpu is not None:
            resource = self._resource(gpu.resource)
            self.used[resource, row] += sign * charge.gpu_count
        if charge.subject is not None:
            self.used[SLOTS_ROW, row] += sign
        else:
            for name, amount in charge.requests:
                self.foreign[self.resources[name], row] += sign * amount

    def share(self, row: int, requests: Quantities, devices: int) -> int:
        """Dominant share of a worker that a pod of Niyanta takes: its largest part of any resource."""
        have: list[int] = self.allocatable[:, row].tolist()
        share = WORKER // max(have[SLOTS_ROW], 1)
        if devices:
            share = max(share, devices * WORKER // max(have[DEVICES_ROW], 1))
        for name, amount in requests:
            share = max(share, amount * WORKER // max(have[self.resources[name]], 1))
        return min(share, WORKER)

    # --- devices ---

    def _take_devices(self, seat: _Seat, count: int) -> None:
        row = seat.row
        idle = np.flatnonzero(self.devices[row] == DEVICE)[:count]
        self.devices[row, idle] = 0
        self.used[DEVICES_ROW, row] += len(idle)
        seat.devices = tuple(idle.tolist())

    def _give_devices(self, seat: _Seat) -> None:
        if seat.devices:
            self.devices[seat.row, list(seat.devices)] = DEVICE
            self.used[DEVICES_ROW, seat.row] -= len(seat.devices)
            seat.devices = ()

    def _lacks_devices(self, row: int) -> bool:
        """Whether some charge on the row holds fewer devices than it asks for (the node is overcommitted)."""
        info = self.index.infos[row]
        on = self._on.get(info.name, {})
        return any(len(seat.devices) < devices_of(seat.charge, info) for seat in on.values())

    def _deal_devices(self, row: int, on: dict[str, _Seat]) -> None:
        for seat in on.values():
            self._give_devices(seat)
        for _, seat in sorted(on.items()):
            self._take_devices(seat, devices_of(seat.charge, self.index.infos[row]))

    # --- upkeep ---

    def settle(self) -> None:
        """Bring lazily kept parts up to date; `schedule` calls it first."""
        if self.peers.settle():
            self.peers = AffinityTable(self.index)
            for seat in self._seats.values():
                if seat.row >= 0 and seat.charge.subject is not None:
                    self.peers.seat(seat.charge.subject, seat.charge.anti, seat.row)
            self.peers.settle()

    def strategy_score(self) -> StrategyScore:
        """Shapes and name order of the workers as they are now."""
        if self._score is None or self._score_version != self.index.version:
            self._score = StrategyScore(self.index, self.allocatable, CPU_ROW, MEMORY_ROW, DEVICES_ROW)
            self._score_version = self.index.version
        return self._score


def device_count(info: WorkerInfo) -> int:
    """Devices of a worker: what its pool says or, when that is 0, what the node offers of the resource."""
    if info.gpu is None:
        return 0
    return info.gpu.count or dict(info.allocatable).get(info.gpu.resource, 0)


def devices_of(charge: Charge, info: WorkerInfo) -> int:
    """Whole devices that a charge takes on a worker."""
    if info.gpu is None:
        return 0
    count = charge.gpu_count
    for name, amount in charge.requests:
        if name == info.gpu.resource:
            count += amount
    return count
