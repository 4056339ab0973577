"""Values of the engine: workers and requirements go in, placements and rejections come out.

All values are frozen. The store and the resources package make `PendingWorkload` values, the cluster
package makes `WorkerInfo` and `Charge` values, `niyanta.engine.schedule.schedule` turns them into a `Plan`.

Quantities are integers in base units: cpu in millicores, memory and storage in bytes, every other resource in
whole units. Times are integer microseconds of the database's clock.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from niyanta.engine.expedited.lane_state import LaneState

CPU = "cpu"
MEMORY = "memory"
PODS = "pods"
HOSTNAME_TOPOLOGY = "kubernetes.io/hostname"
ZONE_TOPOLOGY = "topology.kubernetes.io/zone"
REGION_TOPOLOGY = "topology.kubernetes.io/region"

Quantities = tuple[tuple[str, int], ...]
"""Resource name -> base units, sorted by name, zero entries left out."""

Labels = tuple[tuple[str, str], ...]
"""Label key -> value, sorted by key."""


class Op(enum.Enum):
    """Operators of Kubernetes node selector terms; Gt and Lt compare integers."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"
    GT = "Gt"
    LT = "Lt"


class Scope(enum.Enum):
    """Scope of an anti or near term, seen from the workload that carries it."""

    NAMESPACE = "Namespace"
    CUSTOMER = "Customer"
    CLUSTER = "Cluster"


class Strategy(enum.Enum):
    """Tie-break of a pool after the soft score: fullest worker first, or emptiest first."""

    PACK = "Pack"
    SPREAD = "Spread"


class Reason(enum.Enum):
    """Reason why a worker can't take a workload, in the order the checks run (cheap first). Users read the value."""

    POOL_NOT_FOR_CUSTOMER = "PoolNotForCustomer"
    """The worker's pool lists customers, and the workload's customer is not among them."""
    REJECTING = "RejectsPods"
    """The worker rejected pods of the workload's customer lately."""
    NOT_READY = "NotReady"
    CORDONED = "Cordoned"
    EXCLUDED = "ExcludedAfterRejection"
    TAINT = "UntoleratedTaint"
    NODE_NAME = "NodeNameMismatch"
    POOL = "PoolMismatch"
    REGION = "RegionMismatch"
    ZONE = "ZoneMismatch"
    COMPLIANCE = "ComplianceMissing"
    CAPABILITY = "CapabilityMissing"
    GPU_MODEL = "GpuModelMismatch"
    GPU_MEMORY = "GpuMemoryTooSmall"
    TAG = "TagMismatch"
    NODE_AFFINITY = "NodeAffinityMismatch"
    TOPOLOGY = "TopologyLabelMissing"
    TOO_SMALL = "WorkerTooSmall"
    """Less of a resource is allocatable on the whole worker than one pod requests."""
    RESOURCE = "InsufficientResource"
    SLOTS = "SlotsFull"
    HOST_PORT = "HostPortTaken"
    ANTI = "AntiAffinityConflict"
    RESERVED = "ReservedForExpedited"
    """Reserved by a workload in the lane: the room is held for it, or this workload's anti terms could keep it away."""
    NEAR = "NearNotSatisfied"
    GROUP = "GroupDoesNotFitTogether"
    """The worker could take one replica, but all replicas can't be placed at once."""
    TERM_LIMIT = "TermLimit"
    """Too many of the customer's terms without a type or label values are in use; no worker was checked."""
    CONCURRENCY = "ConcurrencyLimit"
    """The workload's customer is at its limit of concurrent workloads; no worker was checked."""


# --- Workers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Taint:
    """A NoSchedule or NoExecute taint (PreferNoSchedule never gets here)."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Gpu:
    """GPUs of a worker. `resource` names the extended resource; `memory` is bytes of one device, 0 = unknown."""

    model: str
    count: int
    memory: int = 0
    resource: str = "nvidia.com/gpu"


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """One node that a WorkerPool selects, as the engine sees it.

    `labels` are the node's labels; `workerTags` and `workerExpressions` match `tags`: the node's labels overlaid with
    the pool's tags. `allocatable` always has `pods`. `slots` limits the number of pods; None: no limit.
    """

    name: str
    pool: str
    labels: Labels
    tags: Labels
    allocatable: Quantities
    capabilities: frozenset[str] = frozenset()
    compliance: frozenset[str] = frozenset()
    region: str = ""
    zone: str = ""
    gpu: Gpu | None = None
    taints: tuple[Taint, ...] = ()
    slots: int | None = None
    ready: bool = True
    cordoned: bool = False
    strategy: Strategy = Strategy.PACK
    customers: frozenset[str] | None = None
    """Customers that may use the worker (its pool's `spec.customers`); None: every customer."""
    rejected_customers: frozenset[str] = frozenset()
    """Customers whose work the worker gets none of for a while, because it rejected pods of theirs."""


@dataclass(frozen=True, slots=True)
class ChargedNode:
    """A node that is no worker but still runs pods of Niyanta, such as one that left its pool.

    Nothing is placed there. Its pods stay peers of anti and near terms, by the node's `labels`.
    """

    name: str
    labels: Labels


# --- Requirements ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Expression:
    """One requirement on a key. Gt/Lt carry exactly one integer value as text."""

    key: str
    op: Op
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Matcher:
    """Conditions on a worker: all parts that are given must match. Used for `affinity.hard` and for each soft term.

    node_names, regions, zones, pools, gpu_models: any of. capabilities, compliance, tags: all of. gpu_models and
    gpu_min_memory (bytes) match only workers that have a GPU.
    """

    node_names: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    compliance: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    gpu_models: tuple[str, ...] = ()
    gpu_min_memory: int = 0
    tags: tuple[Expression, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeTerm:
    """A node selector term of the pod template: all expressions (on node labels) and fields (metadata.name) match."""

    expressions: tuple[Expression, ...] = ()
    fields: tuple[Expression, ...] = ()


@dataclass(frozen=True, slots=True)
class SoftTerm:
    """A preference with weight 1-100. Either `matcher` (affinity.soft) or `node` (preferred nodeAffinity) is set."""

    weight: int
    matcher: Matcher | None = None
    node: NodeTerm | None = None


@dataclass(frozen=True, slots=True)
class Toleration:
    """As in Kubernetes: empty key with Exists tolerates everything; empty effect matches every effect."""

    key: str = ""
    exists: bool = False
    value: str = ""
    effect: str = ""


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port taken on the node. host_ip "0.0.0.0" collides with every address."""

    port: int
    protocol: str = "TCP"
    host_ip: str = "0.0.0.0"  # noqa: S104 - the value Kubernetes uses for "any address"


@dataclass(frozen=True, slots=True)
class Subject:
    """Properties of a workload that anti and near terms of other workloads match.

    `customer` is always the name of the workload's Customer, also when a wildcard matched it: limits of concurrency
    and the customers of pools go by it.
    """

    namespace: str
    customer: str
    type: str = ""
    labels: Labels = ()


@dataclass(frozen=True, slots=True)
class Selector:
    """Workloads that a term matches: every part that is given must match (types, customers: any of)."""

    types: tuple[str, ...] = ()
    customers: tuple[str, ...] = ()
    labels: tuple[Expression, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerTerm:
    """An anti or near term: peers that `selector` matches inside `scope`, compared by `topology` (a node label key).

    A worker without the topology label belongs to no domain: it never conflicts on it and never satisfies near. For
    `kubernetes.io/hostname` every worker is its own domain, label or not.
    """

    selector: Selector
    topology: str = HOSTNAME_TOPOLOGY
    scope: Scope = Scope.NAMESPACE


@dataclass(frozen=True, slots=True)
class Topology:
    """All pods of a workload in one domain (as in `PeerTerm`) of `key`, a node label: required, or preferred."""

    key: str
    required: bool = True


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Requirements:
    """Requirements of one pod of a workload that decide its placement; equal requirements share one class.

    `requests` is per pod and always has pods=1. `node_terms` are the template's required node affinity (any term may
    match; empty tuple: no restriction) and `node_selector` its nodeSelector. `gpu_count` devices of the worker's GPU
    resource are requested on top of `requests`, whatever its name on that worker; `wants_gpu` is true when the
    workload requests a GPU in any way (then it is placed only on GPU workers).
    """

    requests: Quantities
    hard: Matcher = Matcher()
    node_selector: Labels = ()
    node_terms: tuple[NodeTerm, ...] = ()
    soft: tuple[SoftTerm, ...] = ()
    anti: tuple[PeerTerm, ...] = ()
    near: tuple[PeerTerm, ...] = ()
    topology: Topology | None = None
    tolerations: tuple[Toleration, ...] = ()
    host_ports: tuple[HostPort, ...] = ()
    gpu_count: int = 0
    wants_gpu: bool = False


# --- Running pods -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Charge:
    """Capacity that one pod takes on one worker. Pods not made by Niyanta have `subject` None, no terms and no slot."""

    key: str
    """Unique: `<workload id>/<attempt>/<index>` for Niyanta's pods, the pod's UID for all others."""
    worker: str
    requests: Quantities
    gpu_count: int = 0
    """Devices of the worker's GPU resource on top of `requests` (0 when `requests` already names the resource)."""
    host_ports: tuple[HostPort, ...] = ()
    subject: Subject | None = None
    anti: tuple[PeerTerm, ...] = ()
    """The anti terms of this pod, which keep later pods away (anti-affinity is symmetric)."""


@dataclass(frozen=True, slots=True)
class PendingWorkload:
    """One workload of the queue, as the engine sees it. `version` is copied to the plan for the commit."""

    id: str
    version: int
    attempt: int
    """The attempt that a placement would start (1 for the first)."""
    subject: Subject
    requirements: Requirements
    replicas: int = 1
    priority: int = 10
    tier_weight: int = 10
    queued_at: int = 0
    """Microseconds; a retry does not change it."""
    excluded: frozenset[str] = frozenset()
    """Workers whose kubelet rejected a pod of this workload within the last minute."""
    queue_class: str = ""
    """Workloads of one class need the same and match the same terms, so a decision about one holds for all. Empty: a
    class of its own."""


# --- The plan --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Placement:
    """Workload -> one worker per replica, with the score of the soft terms (0-100, mean over the replicas)."""

    id: str
    version: int
    attempt: int
    workers: tuple[str, ...]
    score: float
    pools: tuple[str, ...]
    """The pool of each of `workers`."""
    depends_on: tuple[str, ...] = ()
    """Workloads of the same plan that a near term of this one relies on: if one is stale, this placement is void."""
    expedited: bool = False
    """True when placed by a turn of the expedited lane, not in queue order."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Reasons why a workload was not placed: each worker is counted once, under the first check it fails.

    For RESOURCE and TOO_SMALL `detail` names the resource, for TAINT the taint's key, for ANTI and TOPOLOGY the
    topology, for CONCURRENCY the customer, for GROUP the domains tried. Sorted by count descending, then reason order.
    """

    id: str
    version: int
    workers: int
    """Number of all workers."""
    counts: tuple[tuple[Reason, str, int], ...]


@dataclass(frozen=True, slots=True)
class DecisionFault:
    """A workload whose decision raised an unexpected error; it took no capacity, and all others were decided."""

    id: str
    version: int
    text: str
    """Type and text of the error, in one line of at most 500 characters."""
    error: Exception = field(compare=False)

    @classmethod
    def of(cls, workload: PendingWorkload, error: Exception) -> DecisionFault:
        """The fault of a workload that raised this error."""
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return cls(workload.id, workload.version, text[:500], error)


@dataclass(frozen=True, slots=True)
class Plan:
    """Decisions of one cycle; the engine returns them and does nothing else.

    Each workload is in one of `placements`, `rejections` and `faults`, or is undecided.
    """

    placements: tuple[Placement, ...]
    rejections: tuple[Rejection, ...]
    undecided: int = 0
    """Workloads that were not decided before the cycle's time limit; they stay in the queue."""
    lane: LaneState | None = None
    """Lane state to pass to the next cycle; None if `schedule` was given no lane."""
    faults: tuple[DecisionFault, ...] = ()
    """Workloads that could not be decided; offering them again would raise again."""
