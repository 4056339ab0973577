"""The leader's cache of workloads: live rows with their compiled requirements, and the queue of placeable workloads.
Postgres is authoritative: the cache is loaded from it when leadership begins and updated with every commit of the
leader. Specs are kept as compressed text until dispatch, and all workloads share a budget of bytes."""

from __future__ import annotations

import hashlib
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any

import orjson

from niyanta.engine.queue import Queue, QueueSettings
from niyanta.engine.types import PendingWorkload, Requirements, Subject
from niyanta.lifecycle import Door, Phase
from niyanta.resources.compile.requirements import parse_spec
from niyanta.resources.models.customer import Customer
from niyanta.resources.models.pod_template import PodTemplate
from niyanta.resources.models.workload import NodeLossPolicy, WorkloadSpec
from niyanta.scheduler.intake.object_to_row import Eligibility
from niyanta.store.rows import WorkloadIntake, WorkloadRow

BASE_BYTES = 2500
"""Bytes of a workload in memory beside its spec, requirements and labels."""

SMALL_CUSTOMER_PART = 32
"""A customer that uses at most this part of the memory for workloads may use the last quarter of it."""

PARSED_SPECS = 16
"""Specs that are kept in their parsed form, for groups whose pods are created one after the other."""

_NO_SPEC: dict[str, Any] = {}
_NO_TEMPLATE = PodTemplate.model_validate({"spec": {"containers": [{"name": "packed", "image": "packed"}]}})


def packed_spec(spec: Mapping[str, Any]) -> bytes:
    """A spec as compressed JSON text: parsed, it takes up to 25 times its size as text."""
    return zlib.compress(orjson.dumps(spec), 1)


@lru_cache(maxsize=PARSED_SPECS)
def _parsed(packed: bytes) -> WorkloadSpec:
    return parse_spec(orjson.loads(zlib.decompress(packed)))


@dataclass(frozen=True, slots=True)
class WatchedObject:
    """Identity and spec of the watched object of the Kubernetes door when it was last taken in, with which its row must
    agree."""

    uid: str
    namespace: str
    name: str
    generation: int
    replicas: int
    priority: int
    spec_digest: bytes
    """`spec_digest` of the packed spec."""


def spec_digest(packed: bytes) -> bytes:
    """Digest of a packed spec, 16 bytes."""
    return hashlib.blake2b(packed, digest_size=16).digest()


@dataclass(slots=True)
class TrackedWorkload:
    """One live workload in the leader's memory.

    `row` is kept without its spec, and `spec` without its template; `full_row` and `full_spec` return the whole.
    """

    row: WorkloadRow
    spec: WorkloadSpec
    requirements: Requirements | None
    """None: the spec could not be compiled (the row is Failed or about to be)."""
    subject: Subject
    known: set[int] = field(default_factory=set)
    """Indexes of the current attempt whose pod was observed, or whose creation was confirmed."""
    applying: bool = False
    """Pods of the current attempt are being created."""
    lost_since: int | None = None
    """Time since which a pod of the attempt has been on a NotReady node, microseconds."""
    fence_reported: bool = False
    """The reason that it waits for a NotReady node was reported."""
    write_failures: int = 0
    """Consecutive attempts whose pods the API server refused (quota, ...); the backoff grows with it."""
    turned_down: bool = False
    """The API server refused the pods of the last attempt, and would refuse them on any other worker."""
    parked: str = ""
    """Message of the unexpected error that keeps it out of the queue (`faults.parked`); "": it isn't parked."""
    object_missing: bool = False
    """Its object is missing together with many others (`recovery.missing_objects`), so it isn't placed."""
    disrupted: set[int] = field(default_factory=set)
    """Attempts that the cluster ended (evictions, node shutdowns), as this leader has seen them."""
    watched: WatchedObject | None = None
    """Kubernetes door only: its object as it was last taken in; None: not yet by this leader."""
    eligible: tuple[Customer, tuple[bytes, str, Door, int], Eligibility] | None = None
    """The last result of the Customer's rules, and the Customer and what was checked: packed spec, namespace, door
    and priority (`intake.eligibility`)."""
    noted_at: float = 0.0
    """Monotonic time at which its pending reason was last reported, seconds."""
    packed: bytes = field(init=False, repr=False, compare=False)
    """The spec as compressed JSON text. For the Kubernetes door it is the watched object's."""
    unloaded: bool = False
    """Its spec was dropped because its customer's budget of memory is used up."""
    finished_noted: bool = False
    """It is finished, and its object was noted for its deletion (`periodic.finished_objects`)."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "row":
            value = self._without_spec(value)
        elif name == "spec":
            value = value.model_copy(update={"template": _NO_TEMPLATE})
        object.__setattr__(self, name, value)

    def _without_spec(self, row: WorkloadRow) -> WorkloadRow:
        if not hasattr(self, "packed"):  # a later row never brings a spec that wasn't compiled and checked
            self.packed = packed_spec(row.spec)
        return replace(row, spec=_NO_SPEC) if row.spec else row

    def load(self, raw: Mapping[str, Any], spec: WorkloadSpec) -> None:
        """Take over a spec: JSON values and their parsed form."""
        self.packed, self.spec, self.unloaded = packed_spec(raw), spec, False

    def load_object(self, intake: WorkloadIntake, spec: WorkloadSpec) -> None:
        """Take over the spec of the watched object, and keep what the object says about the row."""
        self.load(intake.spec, spec)
        self.watched = WatchedObject(
            *(intake.id, intake.namespace, intake.name, intake.generation, intake.replicas, intake.priority),
            spec_digest(self.packed),
        )

    def unload(self) -> None:
        """Drop everything whose size the author decides."""
        self.unloaded = True
        self.drop_spec()
        self.subject = Subject(self.row.namespace, self.row.customer)
        self.row = replace(self.row, labels={})

    def drop_spec(self) -> None:
        """Drop the spec and what was compiled from it; enough is left to end and to delete the workload."""
        self.packed, self.requirements, self.eligible = b"", None, None
        self.spec = self.spec.model_copy(update={"affinity": None, "gpu": None})

    def full_spec(self) -> WorkloadSpec:
        """The spec with its template. Callers don't change it."""
        return _parsed(self.packed)

    def full_row(self) -> WorkloadRow:
        """The row with its spec."""
        return replace(self.row, spec=orjson.loads(zlib.decompress(self.packed)))

    def size(self) -> int:
        """Approximate bytes in memory."""
        return BASE_BYTES + len(self.packed) + _size((self.requirements, self.subject, self.row.labels))

    @property
    def id(self) -> str:
        """The row's id."""
        return self.row.id

    @property
    def replace_lost(self) -> bool:
        """True if its pods on lost nodes may be replaced (nodeLossPolicy Replace)."""
        return self.spec.node_loss_policy is NodeLossPolicy.REPLACE


_Account = tuple[str, str]
"""Customer and namespace."""


def _size(value: Any) -> int:
    """Approximate bytes of a value of JSON types, tuples and dataclasses, without what small constants share."""
    total, left = 0, [value]
    while left:
        item = left.pop()
        if isinstance(item, str | bytes):
            total += sys.getsizeof(item)
        elif isinstance(item, tuple | list | set | frozenset):
            total += sys.getsizeof(item)
            left += item
        elif isinstance(item, dict):
            total += sys.getsizeof(item)
            left += [*item.keys(), *item.values()]
        elif is_dataclass(item):
            total += sys.getsizeof(item)
            left += [getattr(item, part.name) for part in fields(item)]
    return total


def _account(row: WorkloadRow) -> _Account:
    return row.customer, row.namespace


def _waits(tracked: TrackedWorkload) -> bool:
    return not tracked.row.phase.bound and not tracked.row.phase.terminal


class MemoryBudget:
    """Bytes of the workloads in memory: of a customer in a namespace, of a customer, and in total.

    The last quarter of the total is left to customers that use little, so that a few large ones don't shut out others.
    """

    def __init__(self, account_bytes: int) -> None:
        """`account_bytes`: most bytes of a customer in one namespace; half of the total."""
        self._account_bytes = account_bytes
        self._customer_bytes = account_bytes * 3 // 2
        self._total_bytes = account_bytes * 2
        self._sizes: dict[str, tuple[_Account, int]] = {}
        self._accounts: Counter[_Account] = Counter()
        self._customers: Counter[str] = Counter()
        self.total = 0
        """Bytes of all workloads."""

    def has_room(self, account: _Account, size: int) -> bool:
        """True if a workload of this size may be kept."""
        of_customer = self._customers[account[0]] + size
        is_small = of_customer <= self._total_bytes // SMALL_CUSTOMER_PART
        return (
            self._accounts[account] + size <= self._account_bytes
            and of_customer <= self._customer_bytes
            and self.total + size <= (self._total_bytes if is_small else self._total_bytes * 3 // 4)
        )

    def account(self, workload_id: str) -> _Account | None:
        """The account that a workload is counted for; None if it isn't counted."""
        return self._sizes.get(workload_id, (None, 0))[0]

    def count(self, workload_id: str, account: _Account, size: int) -> None:
        """Count a workload, instead of what was counted for it before."""
        self.forget(workload_id)
        self._sizes[workload_id] = account, size
        self._add(account, size)

    def forget(self, workload_id: str) -> None:
        """A workload is no longer in memory."""
        account, size = self._sizes.pop(workload_id, (None, 0))
        if account is not None:
            self._add(account, -size)

    def _add(self, account: _Account, size: int) -> None:
        self.total += size
        self._accounts[account] += size
        self._customers[account[0]] += size
        if self._accounts[account] <= 0:
            del self._accounts[account]
        if self._customers[account[0]] <= 0:
            del self._customers[account[0]]

    def used(self, customer: str, namespace: str) -> int:
        """Bytes of the customer's workloads in the namespace."""
        return self._accounts[customer, namespace]


class WorkloadCache:
    """Live workloads by id, and the queue of the workloads that may be placed."""

    def __init__(self, queue_settings: QueueSettings, *, budget_bytes: int) -> None:
        """`budget_bytes`: most bytes of one customer in one namespace (`MemoryBudget`)."""
        self.memory = MemoryBudget(budget_bytes)
        self.unloaded: dict[str, None] = {}
        """Workloads without their spec, oldest first."""
        self._tracked: dict[str, TrackedWorkload] = {}
        self._by_object: dict[str, str] = {}
        self._waiting_rest: set[str] = set()
        self._bound: dict[str, set[str]] = {}
        self.queue = Queue(queue_settings)

    def __len__(self) -> int:
        return len(self._tracked)

    def __contains__(self, workload_id: object) -> bool:
        return workload_id in self._tracked

    def __iter__(self) -> Iterator[TrackedWorkload]:
        return iter(list(self._tracked.values()))

    def get(self, workload_id: str) -> TrackedWorkload | None:
        """The workload with this id; None if it isn't in memory."""
        return self._tracked.get(workload_id)

    def put(self, tracked: TrackedWorkload) -> None:
        """Keep a workload in memory."""
        self._tracked[tracked.id] = tracked
        self.account(tracked)
        self._note_bound(tracked.row)
        self.index_object(tracked)

    def account(self, tracked: TrackedWorkload) -> None:
        """Count the size of a workload. One that waits beyond the budget is unloaded, and a finished one keeps no
        spec."""
        self._forget_size(tracked.id)
        account = _account(tracked.row)
        if tracked.row.phase.terminal:
            tracked.drop_spec()
        elif _waits(tracked) and not tracked.unloaded and not self.memory.has_room(account, tracked.size()):
            tracked.unload()
            self.queue.remove(tracked.id)
        if tracked.unloaded and _waits(tracked):
            self.unloaded[tracked.id] = None
        self.memory.count(tracked.id, account, tracked.size())

    def _forget_size(self, workload_id: str) -> None:
        self.unloaded.pop(workload_id, None)
        self.memory.forget(workload_id)

    def used_bytes(self, customer: str, namespace: str) -> int:
        """Bytes of the customer's workloads in the namespace."""
        return self.memory.used(customer, namespace)

    def index_object(self, tracked: TrackedWorkload) -> None:
        """Index the row of a REST submission by the UID of its object."""
        if tracked.row.object_uid is not None:
            self._by_object[tracked.row.object_uid] = tracked.id

    def of_object(self, uid: str) -> TrackedWorkload | None:
        """The workload that belongs to the Workload object with this UID."""
        return self._tracked.get(self._by_object.get(uid, uid))

    def waiting_rest(self) -> int:
        """Number of pending REST rows in memory."""
        return len(self._waiting_rest)

    def waiting_rest_by_customer(self) -> dict[str, int]:
        """Number of pending REST rows in memory by customer."""
        return Counter(self._tracked[i].row.customer for i in self._waiting_rest if i in self._tracked)

    def bound_by_customer(self) -> dict[str, int]:
        """Number of placed and running workloads by customer."""
        return {customer: len(bound) for customer, bound in self._bound.items()}

    def drop(self, workload_id: str) -> None:
        """Remove a workload from memory."""
        tracked = self._tracked.pop(workload_id, None)
        self._forget_size(workload_id)
        if tracked is not None:
            self._bound[tracked.row.customer].discard(workload_id)
        if tracked is not None and tracked.row.object_uid is not None:
            self._by_object.pop(tracked.row.object_uid, None)
        self._waiting_rest.discard(workload_id)
        self.queue.remove(workload_id)

    def select(self, phases: Iterable[Phase]) -> list[TrackedWorkload]:
        """All tracked workloads in one of `phases`."""
        wanted = frozenset(phases)
        return [tracked for tracked in self._tracked.values() if tracked.row.phase in wanted]

    def enqueue(self, tracked: TrackedWorkload, *, now: int) -> None:
        """Put a workload into the queue; `now` (microseconds) decides which worker exclusions still apply."""
        if tracked.requirements is None or tracked.parked or tracked.object_missing:
            return
        self.queue.update(pending(tracked.row, tracked.requirements, tracked.subject, now=now))

    def note_phase(self, tracked: TrackedWorkload) -> None:
        """Update the counts of pending REST rows, of customers' bound rows and of their bytes."""
        if tracked.id not in self._tracked:
            return
        if tracked.row.phase.terminal and tracked.packed:
            self.account(tracked)
        elif self.memory.account(tracked.id) != (account := _account(tracked.row)):
            self.memory.count(tracked.id, account, tracked.size())
        self._note_bound(tracked.row)
        if tracked.row.door is Door.REST and tracked.row.phase is Phase.PENDING:
            self._waiting_rest.add(tracked.id)
        else:
            self._waiting_rest.discard(tracked.id)

    def _note_bound(self, row: WorkloadRow) -> None:
        bound = self._bound.setdefault(row.customer, set())
        if row.phase.bound:
            bound.add(row.id)
        else:
            bound.discard(row.id)

    def dequeue(self, workload_id: str) -> None:
        """Take a workload out of the queue; it stays in memory."""
        self.queue.remove(workload_id)


def pending(row: WorkloadRow, requirements: Requirements, subject: Subject, *, now: int) -> PendingWorkload:
    """The engine's view of a pending row."""
    return PendingWorkload(
        id=row.id,
        version=row.version,
        attempt=row.attempt + 1,
        subject=subject,
        requirements=requirements,
        replicas=row.replicas,
        priority=row.priority,
        tier_weight=row.tier_weight,
        queued_at=row.queued_at_us,
        excluded=frozenset(w for w, until in row.excluded.items() if until.timestamp() * 1e6 > now),
    )
