"""The WorkerPool resource: a labelled set of nodes that can be scaled."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from niyanta.engine.types import Strategy
from niyanta.resources.labels import API_VERSION
from niyanta.resources.models.affinity import LabelMap, LabelSelector, Quantity, Words
from niyanta.resources.models.base import CustomerName, LabelKey, Model, Rule, Word
from niyanta.resources.models.meta import Condition, Metadata, name_rule
from niyanta.resources.models.pod_template import OpenObject
from niyanta.resources.models.worker_shape import WorkerShape

MAX_POOL_NAME = 63
MAX_WORKERS = 100_000
MAX_DRAIN_SECONDS = 604_800


class PoolGpu(Model):
    """GPUs of each worker of the pool."""

    model: Word = Field(description="GPU model, for instance A100.")
    count: int = Field(1, ge=1, le=64, description="Devices on each worker.")
    memory: Quantity | None = Field(None, description="Memory of one device, for instance 80Gi. Default: unknown.")
    resource: LabelKey = Field("nvidia.com/gpu", description="Name of the node's extended resource for them.")


class Ec2AutoScalingGroup(Model):
    """An EC2 Auto Scaling group."""

    name: Annotated[str, Field(min_length=1, max_length=255)] = Field(description="Name of the group.")
    region: Word = Field(description="AWS region of the group.")


class Kwok(Model):
    """Simulated nodes, for demos and tests."""

    node_template: OpenObject | None = Field(None, description="metadata and status of new nodes.")


class PoolProviderSpec(Model):
    """The provider that adds and removes workers; exactly one must be set."""

    ec2_auto_scaling_group: Ec2AutoScalingGroup | None = Field(None, description="An EC2 Auto Scaling group.")
    kwok: Kwok | None = Field(None, description="Simulated nodes, for demos and tests.")
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.ec2AutoScalingGroup) != has(self.kwok)",
            lambda p: (p.ec2_auto_scaling_group is not None) != (p.kwok is not None),
            "provider: set exactly one of ec2AutoScalingGroup and kwok, or no provider",
        ),
    )


class Scaling(Model):
    """Pace at which the number of workers follows spec.replicas. Durations are seconds."""

    scale_up_cooldown_seconds: int = Field(
        0, ge=0, le=3600, description="Minimum time between two requests for more workers."
    )
    scale_down_cooldown_seconds: int = Field(
        60, ge=0, le=86_400, description="Minimum time between any scaling of the pool and the next removal of workers."
    )
    drain_timeout_seconds: int | None = Field(
        None,
        ge=0,
        le=MAX_DRAIN_SECONDS,
        description="Time after which a worker that is being removed no longer waits for its workloads to end: those "
        "that still run go back to the queue, and their next attempt doesn't count as a retry. Default: it waits "
        "until they have ended, however long that takes.",
    )
    ready_timeout_seconds: int = Field(
        600, ge=1, le=86_400, description="A worker that is not Ready for this long is reported."
    )


class WorkerPoolSpec(Model):
    """Nodes of the pool, their properties, and their number."""

    node_selector: LabelSelector = Field(description="Labels of the nodes of this pool.")
    customers: Annotated[list[CustomerName], Field(max_length=64)] = Field(
        default_factory=list,
        description="Customers whose workloads may run on the workers, however they name them (pools, nodeNames, "
        "workerTags). Default: every Customer.",
    )
    region: Word | None = Field(None, description="Region of the workers. Default: the node's label.")
    zones: Words = Field(default_factory=list, description="Zones of the pool.")
    tags: LabelMap = Field(default_factory=dict, description="Tags of the workers; they override the nodes' labels.")
    capabilities: Words = Field(
        default_factory=list,
        description="Capabilities of the workers, for instance the workload types that they can run.",
    )
    compliance: Words = Field(default_factory=list, description="Compliance regimes that the workers satisfy.")
    gpu: PoolGpu | None = Field(None, description="GPUs of each worker.")
    slots_per_worker: int | None = Field(
        None, ge=1, le=1024, description="Maximum workload pods on a worker. Default: no limit besides its resources."
    )
    worker_shape: WorkerShape | None = Field(
        None,
        description="Capacity of an empty worker. Default: as in the provider's nodeTemplate, else as the smallest "
        "worker of the pool, now or last. A pool that never had a worker needs it to be sized from zero.",
    )
    replicas: int | None = Field(
        None,
        ge=0,
        le=MAX_WORKERS,
        description="Desired number of workers, within minReplicas and maxReplicas; the scale subresource sets it. If "
        "it is unset and a provider is set, the operator writes the present number once.",
    )
    min_replicas: int = Field(0, ge=0, le=MAX_WORKERS, description="Minimum number of workers.")
    max_replicas: int | None = Field(None, ge=0, le=MAX_WORKERS, description="Maximum number of workers.")
    strategy: Annotated[Strategy, Field(strict=False)] = Field(
        Strategy.PACK, description="Tie-break after the score: fullest worker first (Pack) or emptiest (Spread)."
    )
    provider: PoolProviderSpec | None = Field(
        None, description="Provider that adds and removes workers. Default: the number of workers is fixed."
    )
    scaling: Scaling = Field(
        default_factory=Scaling, description="Pace at which the number of workers follows replicas."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(has(self.nodeSelector.matchLabels) && self.nodeSelector.matchLabels.size() > 0) || "
            "(has(self.nodeSelector.matchExpressions) && self.nodeSelector.matchExpressions.size() > 0)",
            lambda s: not s.node_selector.empty,
            "nodeSelector: set matchLabels or matchExpressions, an empty selector would select every node",
            ".nodeSelector",
        ),
        Rule(
            "!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
            lambda s: s.max_replicas is None or s.min_replicas <= s.max_replicas,
            "maxReplicas: must not be less than minReplicas",
            ".maxReplicas",
        ),
    )


class Utilization(Model):
    """Percentage of the pool's allocatable that is in use: 100 when all of it is."""

    cpu: int | None = Field(None, ge=0, description="Percentage of cpu in use.")
    memory: int | None = Field(None, ge=0, description="Percentage of memory in use.")
    gpu: int | None = Field(None, ge=0, description="Percentage of GPU devices in use.")
    slots: int | None = Field(None, ge=0, description="Percentage of slots in use.")


class WorkerPoolStatus(Model):
    """Status of the pool; written by the operator."""

    observed_generation: int | None = Field(None, description="Generation of the spec that this status describes.")
    replicas: int | None = Field(None, ge=0, description="Number of workers.")
    ready_replicas: int | None = Field(None, ge=0, description="Number of workers that are ready and not cordoned.")
    selector: Annotated[str, Field(max_length=16384)] | None = Field(
        None, description="Label selector of the pods on this pool, for the HorizontalPodAutoscaler."
    )
    queue_depth: int | None = Field(
        None, ge=0, description="Pending workloads that count for this pool; each counts for at most one pool."
    )
    running_workloads: int | None = Field(None, ge=0, description="Number of workloads running in this pool.")
    utilization: Utilization | None = Field(None, description="Percentage of the pool's capacity in use.")
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(
        default_factory=list,
        description="Conditions of the pool.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )


class WorkerPool(Model):
    """A labelled set of nodes (GPU model, region, compliance, capabilities) that can be scaled."""

    api_version: Literal["niyanta.io/v1alpha1"] = API_VERSION
    kind: Literal["WorkerPool"] = "WorkerPool"
    metadata: Metadata = Field(description="Standard object metadata.")
    spec: WorkerPoolSpec = Field(description="Nodes of the pool, their properties, and their number.")
    status: dict[str, Any] | None = None
    rules: ClassVar[tuple[Rule, ...]] = (name_rule(MAX_POOL_NAME),)
