"""The Workload resource: a pod template, the number of pods, the customer, and placement constraints."""

from __future__ import annotations

import enum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from niyanta.lifecycle import Phase
from niyanta.resources.labels import API_VERSION
from niyanta.resources.models.affinity import Affinity, Quantity, Words
from niyanta.resources.models.base import CustomerName, LabelKey, Model, NodeName, Rule, Transition, Word
from niyanta.resources.models.meta import Condition, Metadata, name_rule
from niyanta.resources.models.pod_template import PodTemplate

MAX_NAME = 48
MAX_SUBMITTED_NAME = MAX_NAME - 9
"""Limit of the REST door, whose Workload objects are named `<name>-<8 hex of its id>`."""
MAX_REPLICAS = 512
MAX_SECONDS = 31_536_000
"""A year."""


class NodeLossPolicy(enum.Enum):
    """Handling of pods on a lost node."""

    WAIT = "Wait"
    """Wait until the node is known to be off: no index runs twice at the same time."""
    REPLACE = "Replace"
    """Replace the pods after a grace period: at-least-once."""


class TopologyMode(enum.Enum):
    """Strength of the wish for one topology domain."""

    REQUIRED = "Required"
    """All pods in one domain, or none is placed."""
    PREFERRED = "Preferred"
    """All pods in one domain if one can hold them, else anywhere."""


def _frozen(field: str, *, optional: bool = True) -> Transition:
    same = f"self.{field} == oldSelf.{field}"
    cel = f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || {same})" if optional else same
    return Transition(cel, f"{field}: can't be changed after creation", f".{field}")


class GpuRequest(Model):
    """GPUs that each pod needs."""

    count: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Devices per pod, injected as the GPU resource of the pool (nvidia.com/gpu). Default: the number "
        "that the template requests, or 1.",
    )
    models: Words = Field(default_factory=list, description="Any of these GPU models.")
    min_memory: Quantity | None = Field(None, description="Minimum memory of one device, for instance 40Gi.")


class TopologyRequest(Model):
    """One topology domain for all pods of the workload."""

    key: LabelKey = Field(
        description="Node label whose value all pods share, for instance topology.kubernetes.io/zone. Nodes without "
        "it belong to no domain."
    )
    mode: Annotated[TopologyMode, Field(strict=False)] = Field(
        TopologyMode.REQUIRED,
        description="Required: the pods start in one domain or not at all. Preferred: in one domain if one can hold "
        "all of them, else anywhere.",
    )


class WorkloadSpec(Model):
    """Pods to run and placement constraints. After creation only priority, suspend, timeoutSeconds, backoffLimit,
    ttlSecondsAfterFinished and expectedDurationSeconds may change.
    """

    customer: CustomerName | None = Field(
        None, description="Customer that it belongs to. Default: the Customer that lists this namespace."
    )
    type: Word | None = Field(None, description="Workload type; workers must have it as a capability.")
    priority: int = Field(10, ge=0, le=100, description="Base priority, 0 to 100; the customer's tier multiplies it.")
    replicas: int = Field(1, ge=1, le=MAX_REPLICAS, description="Number of pods; they are placed all or none.")
    gpu: GpuRequest | None = Field(None, description="GPUs that each pod needs. Default: those the template requests.")
    affinity: Affinity | None = Field(None, description="Conditions on workers and on other workloads.")
    topology: TopologyRequest | None = Field(None, description="One topology domain for all pods, such as one zone.")
    template: PodTemplate = Field(description="The pod template, up to 64 KiB.")
    timeout_seconds: int | None = Field(
        None,
        ge=1,
        le=MAX_SECONDS,
        description="Maximum run time of an attempt in seconds; the next attempt has the whole time again. (The "
        "activeDeadlineSeconds of a Job limits all attempts together.) Default: no limit.",
    )
    start_timeout_seconds: int = Field(
        600, ge=1, le=86_400, description="Maximum time from bound to running (image pull, ...) in seconds."
    )
    backoff_limit: int = Field(
        3, ge=0, le=100, description="Maximum number of retries after a failed or lost attempt; their pauses double."
    )
    node_loss_policy: Annotated[NodeLossPolicy, Field(strict=False)] = Field(
        NodeLossPolicy.WAIT,
        description="When a node is lost: Wait until it is known to be off, or Replace after a grace period "
        "(at-least-once).",
    )
    ttl_seconds_after_finished: int | None = Field(
        None,
        ge=0,
        le=MAX_SECONDS,
        description="Seconds until the object is deleted after it finished. Default: it stays, unless it came by REST "
        "or there are more finished objects than the operator keeps.",
    )
    suspend: bool = Field(
        False, description="True stops the workload, or prevents its start, until this is false again."
    )
    expected_duration_seconds: int | None = Field(
        None,
        ge=1,
        le=MAX_SECONDS,
        description="Expected run time of an attempt in seconds. It is stored and has no effect yet.",
    )

    transitions: ClassVar[tuple[Transition, ...]] = (
        _frozen("customer"),
        _frozen("type"),
        _frozen("replicas", optional=False),
        _frozen("gpu"),
        _frozen("affinity"),
        _frozen("topology"),
        _frozen("template", optional=False),
        _frozen("startTimeoutSeconds", optional=False),
        _frozen("nodeLossPolicy", optional=False),
    )


def _time(description: str) -> Any:
    """Optional RFC 3339 time of a status."""
    return Field(None, description=description, json_schema_extra={"format": "date-time"})


class Assignment(Model):
    """Worker of one pod."""

    index: int = Field(ge=0, le=MAX_REPLICAS - 1, description="Index of the pod, from 0.")
    node_name: NodeName = Field(description="Node that the pod is bound to.")
    pool_name: Annotated[str, Field(max_length=63)] | None = Field(None, description="WorkerPool of the node.")
    pod_name: Annotated[str, Field(max_length=253)] | None = Field(None, description="Name of the pod.")


class WorkloadStatus(Model):
    """Status of the workload; the operator writes it from Postgres and never reads it as the source of truth."""

    observed_generation: int | None = Field(None, description="Generation of the spec that this status describes.")
    phase: Annotated[Phase, Field(strict=False)] | None = Field(None, description="Phase of the workload.")
    customer: Annotated[str, Field(max_length=63)] | None = Field(
        None, description="Customer that it belongs to, also when the spec does not name it."
    )
    pods: Annotated[str, Field(max_length=16)] | None = Field(
        None, description="Ready and wanted pods at the last transition, for instance 3/3; at the end, succeeded pods."
    )
    placement: Annotated[str, Field(max_length=253)] | None = Field(
        None, description="Node of the only pod, or the number of workers, for instance 3 workers."
    )
    assignments: Annotated[list[Assignment], Field(max_length=MAX_REPLICAS)] = Field(
        default_factory=list,
        description="Worker of each pod of the current or last attempt.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["index"]},
    )
    score: int | None = Field(None, ge=0, le=100, description="Score of the placement, 0 to 100.")
    effective_priority: int | None = Field(
        None, description="Priority times tier weight plus aging, at the time of writing."
    )
    attempts: int | None = Field(None, ge=0, description="Number of attempts started.")
    queued_time: str | None = _time("Time at which it entered the queue.")
    scheduled_time: str | None = _time("Time at which the current attempt was placed.")
    start_time: str | None = _time("Time at which the current attempt began to run.")
    completion_time: str | None = _time("Time at which it finished.")
    reason: Annotated[str, Field(max_length=256)] | None = Field(None, description="Reason of the phase in one word.")
    message: Annotated[str, Field(max_length=4096)] | None = Field(None, description="Explanation of the reason.")
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(
        default_factory=list,
        description="Conditions of the workload.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )


class Workload(Model):
    """A batch of pods: pod template, number of pods, customer, and placement constraints."""

    api_version: Literal["niyanta.io/v1alpha1"] = API_VERSION
    kind: Literal["Workload"] = "Workload"
    metadata: Metadata = Field(description="Standard object metadata.")
    spec: WorkloadSpec = Field(description="Pods to run and placement constraints.")
    status: dict[str, Any] | None = None
    """The operator never reads it."""
    rules: ClassVar[tuple[Rule, ...]] = (name_rule(MAX_NAME),)
