"""The Workload resource: a pod template, how many pods, whose it is, and where it may, should and must not run."""

from __future__ import annotations

import enum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from niyanta.lifecycle import Phase
from niyanta.resources.labels import API_VERSION
from niyanta.resources.models.affinity import Affinity
from niyanta.resources.models.base import Model, NodeName, Rule, Transition, Word
from niyanta.resources.models.meta import Condition, Metadata, name_rule
from niyanta.resources.models.pod_template import PodTemplate

MAX_NAME = 48
MAX_SUBMITTED_NAME = MAX_NAME - 9
"""For the REST door: the object it becomes is named `<name>-<8 hex of its id>`."""
MAX_REPLICAS = 512


class NodeLossPolicy(enum.Enum):
    """What happens to the pods of a lost node."""

    WAIT = "Wait"
    """Until the node is known to be off: no index ever runs twice at once."""
    REPLACE = "Replace"
    """After the grace, at-least-once."""


def _frozen(field: str, name: str, *, optional: bool = True) -> Transition:
    same = f"self.{field} == oldSelf.{field}"
    cel = f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || {same})" if optional else same
    return Transition(
        cel,
        lambda new, old: getattr(new, name) == getattr(old, name),
        f"{field}: can't be changed after creation",
        f".{field}",
    )


class WorkloadSpec(Model):
    """What to run and where. After creation only priority, suspend, timeoutSeconds, maxRetries and
    ttlSecondsAfterFinished may change.
    """

    customer: Word | None = Field(
        None, description="Customer it belongs to. Default: the Customer that lists this namespace."
    )
    type: Word | None = Field(None, description="Workload type; a worker must then have this capability.")
    priority: int = Field(10, ge=0, le=100, description="Base priority, 0 to 100; the customer's tier multiplies it.")
    replicas: int = Field(1, ge=1, le=MAX_REPLICAS, description="Pods; placed all or none.")
    affinity: Affinity | None = Field(None, description="Where it must, should and must not run.")
    template: PodTemplate = Field(description="The pod template, up to 64 KiB.")
    timeout_seconds: int | None = Field(
        None, ge=1, le=31_536_000, description="Longest time an attempt may run, seconds. Default: no limit."
    )
    start_timeout_seconds: int = Field(
        600, ge=1, le=86_400, description="Longest time from bound to running (image pull, ...), seconds."
    )
    max_retries: int = Field(3, ge=0, le=100, description="How often a failed or lost attempt is tried again.")
    node_loss_policy: Annotated[NodeLossPolicy, Field(strict=False)] = Field(
        NodeLossPolicy.WAIT,
        description="When a node is lost: Wait until it is known to be off, or Replace after a grace (at-least-once).",
    )
    ttl_seconds_after_finished: int = Field(
        300, ge=0, le=31_536_000, description="How long the object stays after it finished, seconds."
    )
    suspend: bool = Field(False, description="Stop it, or don't start it, until this is false again.")

    transitions: ClassVar[tuple[Transition, ...]] = (
        _frozen("customer", "customer"),
        _frozen("type", "type"),
        _frozen("replicas", "replicas", optional=False),
        _frozen("affinity", "affinity"),
        _frozen("template", "template", optional=False),
        _frozen("startTimeoutSeconds", "start_timeout_seconds", optional=False),
        _frozen("nodeLossPolicy", "node_loss_policy", optional=False),
    )


class WorkloadStatus(Model):
    """Where it stands; written by the operator from Postgres, never read back as truth."""

    observed_generation: int | None = Field(None, description="Generation of the spec that this status is about.")
    phase: Annotated[Phase, Field(strict=False)] | None = Field(None, description="Phase of its life.")
    customer: Annotated[str, Field(max_length=63)] | None = Field(
        None, description="Customer that it counts for, also when the spec names none."
    )
    workers: Annotated[list[NodeName], Field(max_length=MAX_REPLICAS)] = Field(
        default_factory=list, description="Worker of each pod, by index."
    )
    pool: Annotated[str, Field(max_length=63)] | None = Field(None, description="WorkerPool of the first worker.")
    score: float | None = Field(None, ge=0, le=100, description="Score of the placement, 0 to 100.")
    effective_priority: int | None = Field(None, description="Priority times tier weight plus aging, when written.")
    attempts: int | None = Field(None, ge=0, description="Attempts started so far.")
    queued_at: str | None = Field(
        None, description="When it entered the queue.", json_schema_extra={"format": "date-time"}
    )
    scheduled_at: str | None = Field(
        None, description="When the current attempt was placed.", json_schema_extra={"format": "date-time"}
    )
    started_at: str | None = Field(
        None, description="When the current attempt began to run.", json_schema_extra={"format": "date-time"}
    )
    finished_at: str | None = Field(None, description="When it finished.", json_schema_extra={"format": "date-time"})
    reason: Annotated[str, Field(max_length=256)] | None = Field(None, description="Why it is in this phase: one word.")
    message: Annotated[str, Field(max_length=4096)] | None = Field(None, description="The same for people.")
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(
        default_factory=list,
        description="Conditions.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )


class Workload(Model):
    """A pod template, how many pods, whose it is, and where it may, should and must not run."""

    api_version: Literal["niyanta.io/v1alpha1"] = API_VERSION
    kind: Literal["Workload"] = "Workload"
    metadata: Metadata = Field(description="Standard object metadata.")
    spec: WorkloadSpec = Field(description="What to run and where.")
    status: dict[str, Any] | None = None
    """Never read by the operator."""
    rules: ClassVar[tuple[Rule, ...]] = (name_rule(MAX_NAME),)
