"""The scheduler's interface to the cluster: protocols and plain values, implemented by `niyanta.cluster`."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from niyanta.containment import SharedFaultError
from niyanta.engine.sizing.pool_fit import EmptyPool
from niyanta.engine.snapshot.deltas import DeltaCursor
from niyanta.engine.types import Requirements, Subject, WorkerInfo
from niyanta.resources.compile.pod import pod_name
from niyanta.resources.compile.pod_resources import NamespaceDefaults
from niyanta.resources.ownership import Held, Resolved
from niyanta.store.rows import WorkloadRow


class PodPhase(enum.StrEnum):
    """`status.phase` of a pod. Any other value is UNKNOWN."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"

    @classmethod
    def _missing_(cls, value: object) -> PodPhase:
        return cls.UNKNOWN


@dataclass(frozen=True, slots=True)
class PodView:
    """One of Niyanta's pods, as the outcome rules see it.

    `over`: none of its containers runs any more (phase Succeeded or Failed, or deleted with no grace period left).
    `never_ran`: no container was ever started.
    """

    name: str
    namespace: str
    uid: str
    workload_id: str
    attempt: int
    index: int
    node: str
    phase: PodPhase
    over: bool
    deleting: bool
    has_finalizer: bool
    never_ran: bool
    reason: str = ""
    message: str = ""
    owner_uid: str = ""
    """UID of the Workload object that controls the pod."""
    pool: str = ""
    """Pool of its worker when it was placed, by its label; empty without the label."""
    disruption: str = ""
    """Reason of the condition DisruptionTarget: the cluster ended the pod (eviction, taint, node shutdown)."""


class NodeState(enum.Enum):
    """State of a node, and therefore of the pods that are bound to it."""

    READY = "Ready"
    NOT_READY = "NotReady"
    """Its pods may still run, so they may not be replaced (nodeLossPolicy Wait)."""
    FENCED = "Fenced"
    """Deleted, or tainted out-of-service: no pod runs there."""


class WorkerState(enum.StrEnum):
    """States of a worker in the gauges."""

    READY = "ready"
    CORDONED = "cordoned"
    """Ready, but closed to new work."""
    NOT_READY = "not_ready"


class WriteProblem(enum.Enum):
    """Reasons for which the API server didn't create an object."""

    QUOTA = "QuotaExceeded"
    FORBIDDEN = "PodForbidden"
    NAMESPACE = "NamespaceTerminating"
    INVALID = "PodRefused"
    NAME_TAKEN = "PodNameTaken"
    UNAVAILABLE = "ApiServerUnavailable"
    """The API server is overloaded or failing, or the outcome is unknown: repeat until the answer is definite."""
    FENCED = "Fenced"
    """A newer leader exists."""


class PodWriteError(Exception):
    """A pod or a Workload object could not be created, or a Workload object not be deleted; `message` is the API
    server's. Such an error concerns that object or its namespace, as far as its caller can know."""

    def __init__(self, problem: WriteProblem, message: str) -> None:
        super().__init__(f"{problem.value}: {message}")
        self.problem = problem
        self.message = message


class NodeWriteError(Exception):
    """A node could not be cordoned or uncordoned; `message` is the API server's. `refused`: a later attempt would fail
    too, until rights or policies change."""

    def __init__(self, message: str, *, refused: bool) -> None:
        super().__init__(message)
        self.message = message
        self.refused = refused


class LeaseLostError(SharedFaultError):
    """Leadership is over: nothing may be written any more."""


class ObjectReadError(Exception):
    """One object can't be read, while the API server answers other requests."""


class ClusterAwayError(SharedFaultError):
    """The API server answers no requests, or none about the cluster as a whole; a later attempt may succeed."""


@dataclass(frozen=True, slots=True)
class CustomerLimits:
    """Limits of a Customer; None: no limit."""

    queue_depth: int | None = None
    concurrent: int | None = None


class MissingObjectsError(ClusterAwayError):
    """The kind Workload doesn't exist, so the API server can tell nothing about its objects."""


class ClusterReads(Protocol):
    """Reads of the cluster: the watched state, and fresh reads of Workload objects. Fresh reads raise
    ClusterAwayError while the API server doesn't answer."""

    def delta_cursor(self) -> DeltaCursor:
        """A new reader of cluster changes, one for each snapshot; its first read returns the whole state."""
        ...

    def empty_pools(self, remembered: Mapping[str, Mapping[str, Any]]) -> Sequence[EmptyPool]:
        """Every WorkerPool with its empty worker's capacity; `remembered`: empty workers observed earlier, by pool."""
        ...

    async def observe_empty_workers(self) -> Mapping[str, Mapping[str, Any]]:
        """An empty worker of each pool as JSON values, modelled on its smallest worker; pools without a ready one are
        left out."""
        ...

    def pods(self, workload_id: str, owner_uid: str | None = None, *, namespace: str | None = None) -> list[PodView]:
        """The pods of a workload, any attempt: those with its id in their labels, in `namespace`, with the Workload
        object `owner_uid` as controller, and on the worker that the claim of their attempt names. Any other pod with
        such labels is a stranger, which only takes capacity.

        None: not compared, for a leader that rebuilds rows from pods. All others use `pods_of`.
        """
        ...

    def workload_ids_with_pods(self) -> Iterable[str]:
        """Ids of all workloads that have a pod with a Workload object as controller."""
        ...

    def namespace_enabled(self, namespace: str) -> bool | None:
        """True if pods may be created in a namespace: it has the label `niyanta.io/enabled=true`, or the setting
        `require_namespace_label` is off. None: the namespace isn't known."""
        ...

    def namespace_gone(self, namespace: str) -> bool:
        """True if a namespace doesn't exist or is being deleted, with everything in it. False if it isn't known."""
        ...

    def node_state(self, node: str) -> NodeState:
        """State of a node; FENCED if there is no such node."""
        ...

    def worker(self, name: str) -> WorkerInfo | None:
        """A worker as the engine sees it; None if the node doesn't exist or belongs to no pool."""
        ...

    def gpu_resource(self, worker: str) -> str | None:
        """Extended resource name of the worker's GPUs; None where it has none."""
        ...

    def resolve_customer(self, namespace: str, named: str | None) -> Resolved | Held:
        """The Customer that owns a workload of that namespace; `named`: spec.customer, if it is set."""
        ...

    def namespace_defaults(self, namespace: str) -> NamespaceDefaults:
        """LimitRanges and RuntimeClasses that apply in a namespace."""
        ...

    async def list_workloads(self) -> list[Mapping[str, Any]]:
        """All Workload objects, from a consistent list of the current state. They may have a `size`, the bytes of their
        spec and status as text. Raises MissingObjectsError if the whole kind doesn't exist."""
        ...

    async def get_workload(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """A fresh read of a Workload object; None if it doesn't exist. Raises MissingObjectsError if the whole kind
        doesn't exist, and ObjectReadError if this object alone can't be read."""
        ...

    def is_schedulable(self, node: str) -> bool:
        """True if the node exists and isn't cordoned. If it is False, the next cycle's snapshot shows it too."""
        ...

    def customer_limits(self, customer: str) -> CustomerLimits:
        """Limits of a customer; without any limit if the customer doesn't exist."""
        ...

    def customer_tier(self, customer: str) -> str:
        """Name of a customer's tier; "unknown" if the customer doesn't exist."""
        ...

    def worker_states(self) -> Mapping[tuple[str, WorkerState], int]:
        """Number of workers by pool and state."""
        ...

    def worker_counts(self) -> tuple[int, int]:
        """Number of workers, and number of workers that are ready and not cordoned."""
        ...


def pods_of(cluster: ClusterReads, row: WorkloadRow) -> list[PodView]:
    """The pods of a row's workload, of its attempt and of earlier ones; none for a REST submission whose object isn't
    made yet. A pod with another name, or of an attempt that was never committed, is a stranger."""
    found = cluster.pods(row.id, row.object[1] if row.object is not None else "", namespace=row.namespace)
    return [
        pod
        for pod in found
        if 1 <= pod.attempt <= row.attempt
        and pod.name == pod_name(row.name, row.id, attempt=pod.attempt, index=pod.index)
    ]


class ClusterWrites(Protocol):
    """Everything the scheduler writes to the cluster, and the capacity that committed placements take. Requests raise
    LeaseLostError once leadership is over; requests about Workload objects raise ClusterAwayError while the API server
    doesn't answer."""

    def claim(
        self, workload_id: str, attempt: int, workers: Sequence[str], requirements: Requirements, subject: Subject
    ) -> None:
        """Charge a committed placement to its workers' capacity, before its pods are observed."""
        ...

    def unclaim(self, workload_id: str, attempt: int) -> None:
        """Stop charging an attempt that is over; its pods that still run stay charged."""
        ...

    async def create_pod(self, namespace: str, manifest: Mapping[str, Any]) -> None:
        """Create a pod; success if the same pod exists already. Raises PodWriteError."""
        ...

    async def delete_pod(self, pod: PodView, *, force: bool = False) -> None:
        """Request deletion (idempotent); `force`: with grace period 0."""
        ...

    async def release_pod(self, pod: PodView) -> None:
        """Remove the outcome finalizer (idempotent)."""
        ...

    async def create_workload(self, namespace: str, manifest: Mapping[str, Any]) -> str:
        """Create the object of a REST submission and return its UID; success if it exists already. Raises
        PodWriteError."""
        ...

    async def cordon(self, node: str) -> bool:
        """Cordon a node; False if it doesn't exist. Raises NodeWriteError."""
        ...

    async def uncordon(self, node: str) -> bool:
        """Uncordon a node, whoever has cordoned it; False if it doesn't exist. Raises NodeWriteError."""
        ...

    async def is_cordoned(self, node: str) -> bool | None:
        """The node's state at the API server, not the watch's; None if it doesn't exist. Raises NodeWriteError."""
        ...

    async def delete_workload(self, namespace: str, name: str, uid: str) -> None:
        """Delete a Workload object if it still has that UID; success if it is gone. Raises PodWriteError,
        LeaseLostError."""
        ...


class ClusterReports(Protocol):
    """Reports to users, on Workload objects. They return at once and are written in the background."""

    def write_status(self, row: WorkloadRow) -> None:
        """Write the status of a changed row to its object soon, coalesced with later changes."""
        ...

    def record_event(self, row: WorkloadRow, *, reason: str, message: str, warning: bool) -> None:
        """Record a Kubernetes Event on the Workload (dropped beyond the rate limit)."""
        ...


class ClusterApi(ClusterReads, ClusterWrites, ClusterReports, Protocol):
    """The whole cluster, as `niyanta.cluster.kubernetes` provides it."""
