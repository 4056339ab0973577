"""One live workload in the leader's memory: its row, its compiled requirements, and its spec as compressed text."""

from __future__ import annotations

import hashlib
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any

import orjson

from niyanta.engine.types import Requirements, Subject
from niyanta.lifecycle import Door
from niyanta.resources.compile.requirements import parse_spec
from niyanta.resources.models.customer import Customer
from niyanta.resources.models.pod_template import PodTemplate
from niyanta.resources.models.workload import NodeLossPolicy, WorkloadSpec
from niyanta.scheduler.intake.object_to_row import Eligibility
from niyanta.store.rows import WorkloadIntake, WorkloadRow

BASE_BYTES = 2500
"""Bytes of a workload in memory beside its spec, requirements and labels."""

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
    class_name: str = ""
    """Its class in the queue when it was last there."""
    explained: frozenset[tuple[str, str]] | None = None
    """The kinds of reasons that its row gives for its waiting; None: not by this leader (`placing.pending_reasons`)."""
    notes: int = 0
    """Reasons for its waiting that this leader wrote."""
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
