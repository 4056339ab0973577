"""What the scheduler needs of the cluster, as Protocols and plain values; `niyanta.cluster` fulfils them."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from niyanta.engine.sizing.pool_fit import EmptyPool
from niyanta.engine.snapshot.deltas import DeltaCursor
from niyanta.engine.types import Requirements, Subject
from niyanta.resources.compile.pod_resources import NamespaceDefaults
from niyanta.resources.ownership import Held, Resolved
from niyanta.store.rows import WorkloadRow


@dataclass(frozen=True, slots=True)
class PodView:
    """One of Niyanta's pods, as the outcome rules see it.

    `over`: no container of it runs any more (phase Succeeded or Failed, or deleted with no grace left). `never_ran`: no
    container was ever started.
    """

    name: str
    namespace: str
    uid: str
    workload_id: str
    attempt: int
    index: int
    node: str
    phase: str
    over: bool
    deleting: bool
    has_finalizer: bool
    never_ran: bool
    reason: str = ""
    message: str = ""


class NodeState(enum.Enum):
    """Whether the kubelet of a node can be believed to be in charge of its pods."""

    READY = "Ready"
    NOT_READY = "NotReady"
    """It may still run the pods: nothing may be replaced (nodeLossPolicy Wait)."""
    FENCED = "Fenced"
    """Deleted, or tainted out-of-service: nothing runs there."""


class WriteProblem(enum.Enum):
    """How the API server answered a pod creation that didn't succeed."""

    QUOTA = "QuotaExceeded"
    FORBIDDEN = "PodForbidden"
    NAMESPACE = "NamespaceTerminating"
    INVALID = "PodRefused"
    NAME_TAKEN = "PodNameTaken"
    UNAVAILABLE = "ApiServerUnavailable"
    """Overloaded, failing, or the outcome is unknown: ask again until the answer is definite."""
    FENCED = "Fenced"
    """A newer leader exists."""


class PodWriteError(Exception):
    """A pod could not be created; `message` is the server's."""

    def __init__(self, problem: WriteProblem, message: str) -> None:
        super().__init__(f"{problem.value}: {message}")
        self.problem = problem
        self.message = message


class LeaseLostError(Exception):
    """Leadership is over: nothing may be written any more."""


class ClusterAwayError(Exception):
    """The API server didn't answer as it should: ask again later."""


@dataclass(frozen=True, slots=True)
class CustomerLimits:
    """Limits of a Customer; None: no limit."""

    queue_depth: int | None = None
    concurrent: int | None = None


class MissingObjectsError(Exception):
    """Too many objects are missing at once (or their whole kind is) to believe that users deleted them."""


class ClusterApi(Protocol):
    """The cluster, seen from the scheduler. Methods that write raise LeaseLostError once leadership is over; those
    about Workload objects raise ClusterAwayError while the API server doesn't answer."""

    def delta_cursor(self) -> DeltaCursor:
        """A new reader of cluster changes, one for each snapshot; its first read returns the whole state."""
        ...

    def empty_pools(self, remembered: Mapping[str, Mapping[str, Any]]) -> Sequence[EmptyPool]:
        """Every WorkerPool with what an empty worker of it offers; `remembered`: shapes seen earlier, by pool."""
        ...

    async def observe_shapes(self) -> Mapping[str, Mapping[str, Any]]:
        """What an empty worker of each pool would be, going by its smallest worker; pools without a ready one are
        left out. JSON values."""
        ...

    def claim(
        self, workload_id: str, attempt: int, workers: Sequence[str], requirements: Requirements, subject: Subject
    ) -> None:
        """A committed placement takes its workers' capacity from now on, whether its pods are seen or not."""
        ...

    def unclaim(self, workload_id: str, attempt: int) -> None:
        """The attempt is over; pods of it that still live keep their charge."""
        ...

    def pods(self, workload_id: str) -> list[PodView]:
        """All pods of a workload, any attempt."""
        ...

    def workload_ids_with_pods(self) -> Iterable[str]:
        """Ids of all workloads that have a pod."""
        ...

    def node_state(self, node: str) -> NodeState: ...

    def gpu_resource(self, worker: str) -> str | None:
        """Extended resource name of the worker's GPUs; None where it has none."""
        ...

    def resolve_customer(self, namespace: str, named: str | None) -> Resolved | Held:
        """Whose a workload in that namespace is, which names a customer or none."""
        ...

    def namespace_defaults(self, namespace: str) -> NamespaceDefaults: ...

    async def create_pod(self, namespace: str, manifest: Mapping[str, Any]) -> None:
        """Returns when the pod exists as wanted (also when it did before); raises PodWriteError."""
        ...

    async def delete_pod(self, pod: PodView, *, force: bool = False) -> None:
        """Ask for deletion (idempotent); force: grace period 0."""
        ...

    async def release_pod(self, pod: PodView) -> None:
        """Remove the outcome finalizer (idempotent)."""
        ...

    async def list_workloads(self) -> list[Mapping[str, Any]]:
        """All Workload objects, consistently as of now."""
        ...

    async def get_workload(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """A fresh read of a Workload object; None: there is none. Raises OrphansError when the whole kind is gone."""
        ...

    async def create_workload(self, namespace: str, manifest: Mapping[str, Any]) -> str:
        """Make the object of a REST submission; returns its UID, also when it existed. Raises PodWriteError."""
        ...

    async def cordon(self, node: str) -> bool:
        """No new pods there; False: there is no such node."""
        ...

    def takes_pods(self, node: str) -> bool:
        """Whether the node is there and not cordoned; if not, the engine knows or hears of it before its next cycle."""
        ...

    def limits_of(self, customer: str) -> CustomerLimits:
        """Limits of a customer; none for one that doesn't exist."""
        ...

    def tier_of(self, customer: str) -> str:
        """Name of a customer's tier; "unknown" for one that doesn't exist."""
        ...

    def worker_states(self) -> Mapping[tuple[str, str], int]:
        """How many workers are ready, cordoned (ready, but closed) or not_ready: by pool and state."""
        ...

    def worker_counts(self) -> tuple[int, int]:
        """How many workers there are, and how many of them are ready and not cordoned."""
        ...

    async def delete_workload(self, namespace: str, name: str, uid: str) -> None:
        """Delete a Workload object if it still has that UID."""
        ...

    def project(self, row: WorkloadRow) -> None:
        """The row changed: its object's status is to follow, coalesced."""
        ...

    def tell(self, row: WorkloadRow, *, reason: str, message: str, warning: bool) -> None:
        """A Kubernetes Event on the Workload (dropped beyond the rate limit)."""
        ...
