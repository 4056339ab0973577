"""`spec.template` of a Workload: the pod template, with models for all fields that affect placement.

A pod that is created with `nodeName` bypasses kube-scheduler, and the kubelet checks only some of its constraints. So
each constraint of kube-scheduler is either modelled here and enforced by the engine, or rejected with the field's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import MaxLen
from pydantic import (
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from niyanta.engine.types import Op
from niyanta.resources import quantity
from niyanta.resources.labels import PREFIX
from niyanta.resources.models.affinity import LabelMap, NodeExpression, Operator, checked_quantity, only
from niyanta.resources.models.base import (
    LABEL_KEY_PATTERN,
    PRESERVE,
    REFUSED,
    DnsLabel,
    LabelValue,
    Model,
    NodeName,
    OpenModel,
    Rule,
    Ruled,
    without_nulls,
)
from niyanta.resources.schema import pod_checker

MAX_TEMPLATE_BYTES = 64 * 1024

TemplateQuantity = Annotated[
    str | int | float,
    PlainValidator(checked_quantity),
    WithJsonSchema(dict(quantity.OPEN_SCHEMA)),
]
ResourceMap = Annotated[dict[str, TemplateQuantity], MaxLen(32), BeforeValidator(without_nulls)]
OpenObject = Annotated[dict[str, Any], WithJsonSchema({"type": "object", PRESERVE: True})]
RefusedObject = Annotated[dict[str, Any], WithJsonSchema({"type": "object", REFUSED: True})]
RefusedList = Annotated[list[Any], WithJsonSchema({"type": "array", REFUSED: True, "items": {"type": "object"}})]


def _unset(field: str, message: str) -> Rule:
    """Rule: `field` (camelCase) must be absent."""
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in field)
    return Rule(f"!has(self.{field})", lambda m: getattr(m, name) is None, f"{field}: {message}", f".{field}")


def _without_operator_names(what: str) -> Rule:
    return Rule(
        f"!self.exists(k, k.startsWith('{PREFIX}'))",
        lambda labels: not any(k.startswith(PREFIX) for k in labels),
        f"{what}: names under {PREFIX} are reserved for the operator",
    )


Annotations = Annotated[
    dict[str, str], MaxLen(64), Ruled(_without_operator_names("annotations")), BeforeValidator(without_nulls)
]


class TemplateMetadata(Model):
    """Labels and annotations of the pods."""

    creation_timestamp: str | None = Field(None, description="Must be null, as kubectl writes it into templates.")
    rules: ClassVar[tuple[Rule, ...]] = (_unset("creationTimestamp", "is set by the API server"),)

    labels: Annotated[LabelMap, Ruled(_without_operator_names("labels"))] = Field(
        default_factory=dict, description="Labels of the pods; niyanta.io/ is reserved."
    )
    annotations: Annotations = Field(
        default_factory=dict, description="Annotations of the pods; niyanta.io/ is reserved."
    )


class ContainerResourceSpec(OpenModel):
    """Requests and limits."""

    requests: ResourceMap = Field(default_factory=dict, description="Resources reserved on the worker.")
    limits: ResourceMap = Field(
        default_factory=dict, description="Maximum resource usage; also the request when no request is given."
    )


class ContainerPort(OpenModel):
    """A port of a container."""

    container_port: int = Field(ge=1, le=65535, description="Port in the container.")
    host_port: int | None = Field(None, ge=0, le=65535, description="Port taken on the worker.")
    protocol: Literal["TCP", "UDP", "SCTP"] = Field("TCP", description="Protocol of the port.")
    host_ip: str | None = Field(
        None,
        alias="hostIP",
        max_length=45,
        description="Address of the worker on which the port is taken; default: all addresses.",
    )


class BaseContainer(OpenModel):
    """Fields that containers and init containers share."""

    name: DnsLabel = Field(description="Name of the container.")
    image: str = Field(min_length=1, max_length=1024, description="Image to run.")
    resources: ContainerResourceSpec | None = Field(None, description="Requests and limits of the container.")
    ports: Annotated[list[ContainerPort], Field(max_length=64)] = Field(
        default_factory=list, description="Ports of the container; placement avoids host port conflicts."
    )


class Container(BaseContainer):
    """A container of the pod."""

    restart_policy: Literal["Always", "OnFailure", "Never"] | None = Field(
        None, description="Restart policy of this container; Always is rejected."
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.restartPolicy) || self.restartPolicy != 'Always'",
            lambda c: c.restart_policy != "Always",
            "restartPolicy: a container that always restarts never finishes; for a sidecar use initContainers",
            ".restartPolicy",
        ),
    )


class InitContainer(BaseContainer):
    """A container that runs before the others, or beside them (a sidecar) with restartPolicy Always."""

    restart_policy: Literal["Always", "OnFailure", "Never"] | None = Field(
        None, description="Always makes it a sidecar, whose requests are added to those of the containers."
    )


TolerationKey = Annotated[str, Field(max_length=317, pattern=f"^({LABEL_KEY_PATTERN[1:-1]})?$")]


class Tolerated(Model):
    """Taints that are tolerated."""

    key: TolerationKey = Field("", description="Taint key; empty with Exists: every taint.")
    operator: Literal["Exists", "Equal"] = Field("Equal", description="Exists: any value; Equal: this value.")
    value: LabelValue = Field("", description="Taint value for Equal.")
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(
        "", description="Taint effect; empty: every effect."
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.key != '' || self.operator == 'Exists'",
            lambda t: t.key != "" or t.operator == "Exists",
            "operator: must be Exists when key is empty",
            ".operator",
        ),
        Rule(
            "self.operator != 'Exists' || self.value == ''",
            lambda t: t.operator != "Exists" or t.value == "",
            "value: must be empty when operator is Exists",
            ".value",
        ),
    )


class TolerationSpec(Tolerated):
    """A taint that the pods tolerate."""

    toleration_seconds: int | None = Field(None, description="Seconds for which a NoExecute taint is tolerated.")
    rules: ClassVar[tuple[Rule, ...]] = (
        *Tolerated.rules,
        Rule(
            "!has(self.tolerationSeconds) || self.effect == 'NoExecute'",
            lambda t: t.toleration_seconds is None or t.effect == "NoExecute",
            "tolerationSeconds: needs effect NoExecute",
            ".tolerationSeconds",
        ),
    )


class FieldExpression(Model):
    """One requirement on a field of the node."""

    key: Literal["metadata.name"] = Field(description="The field; only metadata.name.")
    operator: Annotated[Operator, only(Op.IN, Op.NOT_IN)] = Field(description="In or NotIn.")
    values: Annotated[list[NodeName], Field(min_length=1, max_length=1)] = Field(description="One node name.")


class NodeSelectorTerm(Model):
    """Requirements on a node that must all hold."""

    match_expressions: Annotated[list[NodeExpression], Field(max_length=32)] = Field(
        default_factory=list, description="Requirements on the node's labels."
    )
    match_fields: Annotated[list[FieldExpression], Field(max_length=8)] = Field(
        default_factory=list, description="Requirements on the node's fields."
    )


class RequiredTerm(NodeSelectorTerm):
    """A term of the required node affinity."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(has(self.matchExpressions) && self.matchExpressions.size() > 0) || "
            "(has(self.matchFields) && self.matchFields.size() > 0)",
            lambda t: bool(t.match_expressions or t.match_fields),
            "nodeSelectorTerms: an empty term matches no node; set matchExpressions or matchFields",
        ),
    )


class RequiredNodeAffinity(Model):
    """Node selector terms, at least one of which must match."""

    node_selector_terms: Annotated[list[RequiredTerm], Field(min_length=1, max_length=16)] = Field(
        description="Terms, at least one of which must match."
    )


class PreferredTerm(Model):
    """A preferred node selector term."""

    weight: int = Field(ge=1, le=100, description="Weight of a match, 1 to 100.")
    preference: NodeSelectorTerm = Field(description="Requirements that must all hold.")


class NodeAffinity(Model):
    """Node affinity, enforced by placement as kube-scheduler would."""

    required_during_scheduling_ignored_during_execution: RequiredNodeAffinity | None = Field(
        None, description="Terms that the node must match."
    )
    preferred_during_scheduling_ignored_during_execution: Annotated[list[PreferredTerm], Field(max_length=16)] = Field(
        default_factory=list, description="Terms that the node should match; scored together with affinity.soft."
    )


class PodAffinityGroup(Model):
    """Affinity of the pod template: only node affinity."""

    node_affinity: NodeAffinity | None = Field(None, description="Node affinity, enforced by placement.")
    pod_affinity: RefusedObject | None = Field(None, description="Rejected: use affinity.hard.near of the Workload.")
    pod_anti_affinity: RefusedObject | None = Field(None, description="Rejected: use affinity.anti of the Workload.")
    rules: ClassVar[tuple[Rule, ...]] = (
        _unset("podAffinity", "use spec.affinity.hard.near of the Workload"),
        _unset("podAntiAffinity", "use spec.affinity.anti of the Workload"),
    )


_BINDING = "Rejected: needs binding by kube-scheduler."
_CHECKS = "Rejected: needs kube-scheduler's checks."


class Volume(OpenModel):
    """A volume that needs no binding."""

    name: DnsLabel = Field(description="Name of the volume.")
    persistent_volume_claim: RefusedObject | None = Field(None, description=_BINDING)
    ephemeral: RefusedObject | None = Field(None, description=_BINDING)
    aws_elastic_block_store: RefusedObject | None = Field(None, description=_CHECKS)
    gce_persistent_disk: RefusedObject | None = Field(None, description=_CHECKS)
    azure_disk: RefusedObject | None = Field(None, description=_CHECKS)
    cinder: RefusedObject | None = Field(None, description=_CHECKS)
    vsphere_volume: RefusedObject | None = Field(None, description=_CHECKS)
    portworx_volume: RefusedObject | None = Field(None, description=_CHECKS)
    iscsi: RefusedObject | None = Field(None, description=_CHECKS)
    rbd: RefusedObject | None = Field(None, description=_CHECKS)
    rules: ClassVar[tuple[Rule, ...]] = tuple(
        _unset(field, "volumes that need binding or attaching by kube-scheduler aren't supported")
        for field in (
            *("persistentVolumeClaim", "ephemeral", "awsElasticBlockStore", "gcePersistentDisk", "azureDisk"),
            *("cinder", "vsphereVolume", "portworxVolume", "iscsi", "rbd"),
        )
    )


def _unique_names(containers: Iterable[BaseContainer]) -> bool:
    names = [container.name for container in containers]
    return len(names) == len(set(names))


# Not a list map by name: CEL ignores the order of those, and the order of init containers matters.
_UNIQUE = Ruled(
    Rule("self.all(a, self.exists_one(b, a.name == b.name))", _unique_names, "container names must be unique")
)


class PodSpec(OpenModel):
    """Spec of the pods. Fields without a model are passed on."""

    containers: Annotated[list[Container], Field(min_length=1, max_length=16), _UNIQUE] = Field(
        description="Containers of the pod."
    )
    init_containers: Annotated[list[InitContainer], Field(max_length=16), _UNIQUE] = Field(
        default_factory=list, description="Containers that run before the others."
    )
    restart_policy: Literal["Never", "OnFailure", "Always"] = Field(
        "Never", description="Never (default) or OnFailure; Always is rejected."
    )
    node_selector: LabelMap = Field(default_factory=dict, description="Labels that the node must have.")
    tolerations: Annotated[list[TolerationSpec], Field(max_length=32)] = Field(
        default_factory=list, description="Taints that the pods tolerate."
    )
    affinity: PodAffinityGroup | None = Field(None, description="Node affinity.")
    volumes: Annotated[list[Volume], Field(max_length=64)] = Field(
        default_factory=list, description="Volumes that need no binding."
    )
    resources: ContainerResourceSpec | None = Field(None, description="Requests and limits of the pod as a whole.")
    host_network: bool = Field(False, description="Use the worker's network; every containerPort is then a host port.")
    runtime_class_name: Annotated[str, Field(max_length=253)] | None = Field(
        None, description="RuntimeClass; its overhead and scheduling constraints are applied."
    )
    priority_class_name: Annotated[str, Field(max_length=253)] | None = Field(
        None, description="PriorityClass of the pods; system-* is rejected. Has no effect on the queue."
    )
    overhead: ResourceMap | None = Field(None, description="Must equal the overhead of the RuntimeClass.")
    node_name: Annotated[str, Field(max_length=253)] | None = Field(None, description="Rejected: the operator sets it.")
    scheduler_name: Annotated[str, Field(max_length=253)] | None = Field(
        None, description="Rejected: the operator schedules the pods."
    )
    topology_spread_constraints: RefusedList | None = Field(None, description="Rejected: use spec.affinity.anti.")
    resource_claims: RefusedList | None = Field(None, description="Rejected: claims need kube-scheduler.")
    scheduling_gates: RefusedList | None = Field(None, description="Rejected: use spec.suspend.")
    ephemeral_containers: RefusedList | None = Field(None, description="Rejected: only for running pods.")
    scheduling_group: RefusedObject | None = Field(
        None, description="Rejected: gang scheduling by kube-scheduler; use spec.replicas."
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        _unset("nodeName", "is set by the operator; to name workers use spec.affinity.hard.nodeNames"),
        _unset("schedulerName", "must not be set, the operator schedules the pods"),
        Rule(
            "!has(self.priorityClassName) || !self.priorityClassName.startsWith('system-')",
            lambda s: not (s.priority_class_name or "").startswith("system-"),
            "priorityClassName: system-* is reserved for components of the cluster",
            ".priorityClassName",
        ),
        Rule(
            "self.restartPolicy != 'Always'",
            lambda s: s.restart_policy != "Always",
            "restartPolicy: must be Never or OnFailure, because a workload must finish",
            ".restartPolicy",
        ),
        _unset("topologySpreadConstraints", "use spec.affinity.anti of the Workload"),
        _unset("resourceClaims", "dynamic resource claims aren't supported"),
        _unset("schedulingGates", "use spec.suspend of the Workload"),
        _unset("ephemeralContainers", "can't be part of a template"),
        _unset("schedulingGroup", "use spec.replicas of the Workload, which are placed all or none"),
    )


def _has_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_nul(part) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return any(_has_nul(part) for part in value)
    return isinstance(value, str) and "\0" in value


def _wrong(message: str, field: str = "", value: object = None) -> PydanticCustomError:
    return PydanticCustomError("rule", "{reason}", {"reason": message, "field": field, "value": value})


class PodTemplate(Model):
    """The pod template. Fields without a model are checked by the definitions of the Pod API."""

    metadata: TemplateMetadata | None = Field(None, description="Labels and annotations of the pods.")
    spec: PodSpec = Field(description="Spec of the pods.")

    @model_validator(mode="wrap")
    @classmethod
    def _check_whole(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """After the models, whose messages say more than those of the definitions. CEL can't measure an object's size,
        nor search it."""
        found = handler(data)
        error = pod_checker.first_error(data["spec"]) if isinstance(data, dict) else None
        if error is not None:
            raise _wrong(error.message, f".spec.{error.field}", error.value)
        manifest = found.manifest()
        text = json.dumps(manifest, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > MAX_TEMPLATE_BYTES:
            raise _wrong(f"Too long: may not be more than {MAX_TEMPLATE_BYTES} bytes as JSON")
        if b"\\u0000" in text and _has_nul(manifest):  # Postgres can't store NUL in JSON
            raise _wrong("must not contain NUL characters")
        return found
