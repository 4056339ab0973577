"""`spec.template` of a Workload: the pod template, with everything modelled that decides where its pods may run.

A pod that is created with `nodeName` passes no scheduler and the kubelet checks little of this. So what kube-scheduler
would enforce is either modelled here, for the engine to enforce it, or refused with the field's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import MaxLen
from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema

from niyanta.engine.types import Op
from niyanta.resources import quantity
from niyanta.resources.compile import pod_fields
from niyanta.resources.labels import PREFIX
from niyanta.resources.models.affinity import LabelMap, NodeExpression, Operator, checked_quantity, only
from niyanta.resources.models.base import (
    LABEL_KEY_PATTERN,
    PRESERVE,
    DnsLabel,
    LabelValue,
    Model,
    NodeName,
    OpenModel,
    Rule,
    Ruled,
    without_nulls,
)

MAX_TEMPLATE_BYTES = 64 * 1024

TemplateQuantity = Annotated[
    str | int | float,
    PlainValidator(checked_quantity),
    # Not int-or-string: pod templates in use say `cpu: 0.5`, and pods take it. The pattern speaks of texts alone; other
    # types are refused when the template is compiled.
    WithJsonSchema({PRESERVE: True, "pattern": quantity.PATTERN, "minimum": 0}),
]
ResourceMap = Annotated[dict[str, TemplateQuantity], MaxLen(32), BeforeValidator(without_nulls)]
OpenObject = Annotated[dict[str, Any], WithJsonSchema({"type": "object", PRESERVE: True})]
OpenList = Annotated[
    list[Any], WithJsonSchema({"type": "array", "maxItems": 32, "items": {"type": "object", PRESERVE: True}})
]


def _unset(field: str, message: str) -> Rule:
    """`field` (camelCase, of a model that has it under its Python name) must be absent or empty."""
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in field)
    return Rule(f"!has(self.{field})", lambda m: getattr(m, name) is None, f"{field}: {message}", f".{field}")


def _not_ours(what: str) -> Rule:
    return Rule(
        f"!self.exists(k, k.startsWith('{PREFIX}'))",
        lambda labels: not any(k.startswith(PREFIX) for k in labels),
        f"{what}: names under {PREFIX} are the operator's",
    )


Annotations = Annotated[dict[str, str], MaxLen(64), Ruled(_not_ours("annotations")), BeforeValidator(without_nulls)]


class TemplateMetadata(Model):
    """What the pods are labelled with."""

    creation_timestamp: str | None = Field(None, description="Always null; kubectl writes it into templates it makes.")
    rules: ClassVar[tuple[Rule, ...]] = (_unset("creationTimestamp", "is set by the API server"),)

    labels: Annotated[LabelMap, Ruled(_not_ours("labels"))] = Field(
        default_factory=dict, description="Labels of the pods; none under niyanta.io/."
    )
    annotations: Annotations = Field(
        default_factory=dict, description="Annotations of the pods; none under niyanta.io/."
    )


class ContainerResourceSpec(OpenModel):
    """Requests and limits."""

    passed_on: ClassVar[tuple[str, ...]] = pod_fields.RESOURCES

    requests: ResourceMap = Field(default_factory=dict, description="What is reserved on the worker.")
    limits: ResourceMap = Field(
        default_factory=dict, description="What may be used at most; also the request where none is given."
    )


class ContainerPort(OpenModel):
    """A port of a container."""

    passed_on: ClassVar[tuple[str, ...]] = pod_fields.PORT

    container_port: int = Field(ge=1, le=65535, description="Port in the container.")
    host_port: int | None = Field(None, ge=0, le=65535, description="Port taken on the worker.")
    protocol: Literal["TCP", "UDP", "SCTP"] = Field("TCP", description="Protocol of the port.")
    host_ip: str | None = Field(
        None, alias="hostIP", max_length=45, description="Address of the worker that the port is taken on; default all."
    )


class BaseContainer(OpenModel):
    """What containers and init containers share."""

    passed_on: ClassVar[tuple[str, ...]] = pod_fields.CONTAINER

    name: DnsLabel = Field(description="Name of the container.")
    image: str = Field(min_length=1, max_length=1024, description="Image to run.")
    resources: ContainerResourceSpec | None = Field(None, description="Requests and limits of the container.")
    ports: Annotated[list[ContainerPort], Field(max_length=64)] = Field(
        default_factory=list, description="Ports of the container; host ports are kept free by placement."
    )


class Container(BaseContainer):
    """A container of the pod; see the Pod API for the fields that aren't listed."""

    restart_policy: Literal["Always", "OnFailure", "Never"] | None = Field(
        None, description="Restart policy of this container; Always is refused."
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
        None, description="Always makes it a sidecar, whose requests count beside the containers'."
    )


TolerationKey = Annotated[str, Field(max_length=317, pattern=f"^({LABEL_KEY_PATTERN[1:-1]})?$")]


class TolerationSpec(Model):
    """A taint that the pods tolerate."""

    key: TolerationKey = Field("", description="Taint key; empty with Exists: every taint.")
    operator: Literal["Exists", "Equal"] = Field("Equal", description="Exists: any value; Equal: this value.")
    value: LabelValue = Field("", description="Taint value of Equal.")
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(
        "", description="Taint effect; empty: every effect."
    )
    toleration_seconds: int | None = Field(None, description="How long a NoExecute taint is tolerated, seconds.")
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
            "nodeSelectorTerms: an empty term matches no node; give matchExpressions or matchFields",
        ),
    )


class RequiredNodeAffinity(Model):
    """Node selector terms of which one must match."""

    node_selector_terms: Annotated[list[RequiredTerm], Field(min_length=1, max_length=16)] = Field(
        description="Terms of which one must match."
    )


class PreferredTerm(Model):
    """A preferred node selector term."""

    weight: int = Field(ge=1, le=100, description="What a match is worth, 1 to 100.")
    preference: NodeSelectorTerm = Field(description="Requirements that must all hold.")


class NodeAffinity(Model):
    """Node affinity, enforced by placement as kube-scheduler would."""

    required_during_scheduling_ignored_during_execution: RequiredNodeAffinity | None = Field(
        None, description="What the node must match."
    )
    preferred_during_scheduling_ignored_during_execution: Annotated[list[PreferredTerm], Field(max_length=16)] = Field(
        default_factory=list, description="What the node should match; counts beside affinity.soft."
    )


class PodAffinityGroup(Model):
    """Affinity of the pod template: node affinity alone."""

    node_affinity: NodeAffinity | None = Field(None, description="Node affinity, enforced by placement.")
    pod_affinity: OpenObject | None = Field(None, description="Refused: use affinity.hard.near of the Workload.")
    pod_anti_affinity: OpenObject | None = Field(None, description="Refused: use affinity.anti of the Workload.")
    rules: ClassVar[tuple[Rule, ...]] = (
        _unset("podAffinity", "use spec.affinity.hard.near of the Workload"),
        _unset("podAntiAffinity", "use spec.affinity.anti of the Workload"),
    )


class Volume(OpenModel):
    """A volume that needs no binding; see the Pod API for the fields that aren't listed."""

    passed_on: ClassVar[tuple[str, ...]] = pod_fields.VOLUME

    name: DnsLabel = Field(description="Name of the volume.")
    persistent_volume_claim: OpenObject | None = Field(None, description="Refused: needs binding by kube-scheduler.")
    ephemeral: OpenObject | None = Field(None, description="Refused: needs binding by kube-scheduler.")
    aws_elastic_block_store: OpenObject | None = Field(None, description="Refused: needs kube-scheduler's checks.")
    gce_persistent_disk: OpenObject | None = Field(None, description="Refused: needs kube-scheduler's checks.")
    azure_disk: OpenObject | None = Field(None, description="Refused: needs kube-scheduler's checks.")
    cinder: OpenObject | None = Field(None, description="Refused: needs kube-scheduler's checks.")
    vsphere_volume: OpenObject | None = Field(None, description="Refused: needs kube-scheduler's checks.")
    portworx_volume: OpenObject | None = Field(None, description="Refused: needs kube-scheduler's checks.")
    iscsi: OpenObject | None = Field(None, description="Refused: needs kube-scheduler's checks.")
    rbd: OpenObject | None = Field(None, description="Refused: needs kube-scheduler's checks.")
    rules: ClassVar[tuple[Rule, ...]] = tuple(
        _unset(field, "volumes that need binding or attaching by kube-scheduler aren't supported")
        for field in (
            "persistentVolumeClaim",
            "ephemeral",
            "awsElasticBlockStore",
            "gcePersistentDisk",
            "azureDisk",
            "cinder",
            "vsphereVolume",
            "portworxVolume",
            "iscsi",
            "rbd",
        )
    )


def _unique_names(containers: Iterable[BaseContainer]) -> bool:
    names = [container.name for container in containers]
    return len(names) == len(set(names))


# Not a list map by name: CEL compares those without their order, and the order of init containers matters.
_UNIQUE = Ruled(
    Rule("self.all(a, self.exists_one(b, a.name == b.name))", _unique_names, "container names must be unique")
)


class PodSpec(OpenModel):
    """The pods' spec. Fields that aren't listed are kept as they are; see the Pod API."""

    passed_on: ClassVar[tuple[str, ...]] = pod_fields.POD_SPEC

    containers: Annotated[list[Container], Field(min_length=1, max_length=16), _UNIQUE] = Field(
        description="Containers of the pod."
    )
    init_containers: Annotated[list[InitContainer], Field(max_length=16), _UNIQUE] = Field(
        default_factory=list, description="Containers that run before the others."
    )
    restart_policy: Literal["Never", "OnFailure", "Always"] = Field(
        "Never", description="Never (default) or OnFailure; Always is refused."
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
        None, description="RuntimeClass; its overhead and its scheduling count as well."
    )
    priority_class_name: Annotated[str, Field(max_length=253)] | None = Field(
        None, description="PriorityClass of the pods; system-* is refused. Has no effect on the queue."
    )
    overhead: ResourceMap | None = Field(None, description="Overhead of the RuntimeClass; must equal what that says.")
    node_name: Annotated[str, Field(max_length=253)] | None = Field(None, description="Refused: the operator places.")
    scheduler_name: Annotated[str, Field(max_length=253)] | None = Field(
        None, description="Refused: the operator places."
    )
    topology_spread_constraints: OpenList | None = Field(None, description="Refused: use spec.affinity.anti.")
    resource_claims: OpenList | None = Field(None, description="Refused: claims need kube-scheduler.")
    scheduling_gates: OpenList | None = Field(None, description="Refused: use spec.suspend.")
    ephemeral_containers: OpenList | None = Field(None, description="Refused: only for running pods.")
    workload_ref: OpenObject | None = Field(None, description="Refused: gangs of kube-scheduler.")
    scheduling_group: OpenObject | None = Field(None, description="Refused: gangs of kube-scheduler.")
    rules: ClassVar[tuple[Rule, ...]] = (
        _unset("nodeName", "the operator places; to name workers use spec.affinity.hard.workerIds"),
        _unset("schedulerName", "the operator places, no other scheduler does"),
        Rule(
            "!has(self.priorityClassName) || !self.priorityClassName.startsWith('system-')",
            lambda s: not (s.priority_class_name or "").startswith("system-"),
            "priorityClassName: system-* is for parts of the cluster",
            ".priorityClassName",
        ),
        Rule(
            "self.restartPolicy != 'Always'",
            lambda s: s.restart_policy != "Always",
            "restartPolicy: must be Never or OnFailure, a workload has an end",
            ".restartPolicy",
        ),
        _unset("topologySpreadConstraints", "use spec.affinity.anti of the Workload"),
        _unset("resourceClaims", "dynamic resource claims aren't supported"),
        _unset("schedulingGates", "use spec.suspend of the Workload"),
        _unset("ephemeralContainers", "can't be part of a template"),
        _unset("workloadRef", "use spec.replicas of the Workload, they are placed all or none"),
        _unset("schedulingGroup", "use spec.replicas of the Workload, they are placed all or none"),
    )


def _json(template: PodTemplate) -> bytes:
    return json.dumps(template.manifest(), separators=(",", ":"), ensure_ascii=False).encode()


def _has_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_nul(part) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return any(_has_nul(part) for part in value)
    return isinstance(value, str) and "\0" in value


class PodTemplate(Model):
    """The pod template."""

    metadata: TemplateMetadata | None = Field(None, description="Labels and annotations of the pods.")
    spec: PodSpec = Field(description="The pods' spec.")
    rules: ClassVar[tuple[Rule, ...]] = (
        # CEL sees no preserved unknown fields and can't size an object: this one is checked when it is compiled.
        Rule(
            "",
            lambda t: len(_json(t)) <= MAX_TEMPLATE_BYTES,
            f"Too long: may not be more than {MAX_TEMPLATE_BYTES} bytes as JSON",
        ),
        # Postgres can't keep it in JSON, and CEL has no way to look for it everywhere.
        Rule("", lambda t: b"\\u0000" not in _json(t) or not _has_nul(t.manifest()), "must not contain NUL characters"),
    )
