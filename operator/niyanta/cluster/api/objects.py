"""The fields of Kubernetes objects that Niyanta reads, as msgspec structs that skip all other fields while parsing.

The reflector parses into them; `cluster.state` reads them. `gc=False` keeps hundreds of thousands of objects out of the
garbage collector's passes, because they can't form cycles.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from niyanta.resources.labels import ATTEMPT, ENABLED, INDEX, PREFIX, WORKLOAD_LABELS, WORKLOAD_UID
from niyanta.scheduler.cluster_api import PodPhase

Key = tuple[str, str]
"""(namespace, name); the namespace is empty for cluster-scoped kinds."""


UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Errors of a decoder about its input: another form, invalid UTF-8, too many levels."""


class Base(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """Settings shared by all structs here: camelCase in JSON, snake_case in Python."""


class OwnerReference(Base, frozen=True, gc=False):
    uid: str = ""
    kind: str = ""
    api_version: str = ""
    controller: bool = False


class ObjectMeta(Base, frozen=True, gc=False):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[OwnerReference, ...] = ()
    generation: int = 0


class Object(Base, frozen=True, gc=False):
    """Base of all object types, with the metadata that the reflector needs."""

    metadata: ObjectMeta = ObjectMeta()

    @property
    def key(self) -> Key:
        return (self.metadata.namespace, self.metadata.name)

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace

    @property
    def uid(self) -> str:
        return self.metadata.uid

    @property
    def labels(self) -> dict[str, str]:
        return self.metadata.labels


class PodContainerPort(Base, frozen=True, gc=False):
    container_port: int = 0
    host_port: int = 0
    host_ip: str = msgspec.field(default="", name="hostIP")
    protocol: str = "TCP"


class ContainerResources(Base, frozen=True, gc=False):
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}


class PodContainer(Base, frozen=True, gc=False):
    name: str = ""
    resources: ContainerResources = ContainerResources()
    ports: tuple[PodContainerPort, ...] = ()
    restart_policy: str = ""
    """`Always` marks an init container as a sidecar."""


class LivePodSpec(Base, frozen=True, gc=False):
    node_name: str = ""
    containers: tuple[PodContainer, ...] = ()
    init_containers: tuple[PodContainer, ...] = ()
    overhead: dict[str, str] = {}
    resources: ContainerResources | None = None
    """Pod-level resources."""
    host_network: bool = False


class StatusCondition(Base, frozen=True, gc=False):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class Terminated(Base, frozen=True, gc=False):
    exit_code: int = 0
    reason: str = ""
    message: str = ""


class Waiting(Base, frozen=True, gc=False):
    reason: str = ""
    message: str = ""


class Running(Base, frozen=True, gc=False):
    started_at: str | None = None


class ContainerState(Base, frozen=True, gc=False):
    running: Running | None = None
    terminated: Terminated | None = None
    waiting: Waiting | None = None


class ContainerStatus(Base, frozen=True, gc=False):
    name: str = ""
    restart_count: int = 0
    state: ContainerState = ContainerState()


class PodStatus(Base, frozen=True, gc=False):
    phase: str = ""
    reason: str = ""
    message: str = ""
    start_time: str | None = None
    conditions: tuple[StatusCondition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()


class PodAnnotations(Base, frozen=True, gc=False):
    workload_labels: str = msgspec.field(default="", name=WORKLOAD_LABELS)


class PodMetadata(ObjectMeta, frozen=True, gc=False):
    annotations: PodAnnotations = PodAnnotations()


class Pod(Object, frozen=True, gc=False):
    metadata: PodMetadata = PodMetadata()
    spec: LivePodSpec = LivePodSpec()
    status: PodStatus = PodStatus()

    @property
    def terminal(self) -> bool:
        """True if its containers have ended and won't start again, so that the pod takes no capacity."""
        return self.status.phase in (PodPhase.SUCCEEDED, PodPhase.FAILED)

    @property
    def owner_uid(self) -> str:
        """UID of the Workload object that controls the pod; empty for other pods."""
        for owner in self.metadata.owner_references:
            if owner.controller and owner.kind == "Workload" and owner.api_version.startswith(PREFIX):
                return owner.uid
        return ""

    @property
    def workload_uid(self) -> str:
        """Id of the workload that it belongs to by its labels and its controller; empty for foreign pods."""
        uid = self.metadata.labels.get(WORKLOAD_UID, "")
        return uid if uid and self.owner_uid else ""

    @property
    def charge_key(self) -> str:
        """Key of its engine Charge. Niyanta pods with damaged labels are charged like foreign pods."""
        workload, labels = self.workload_uid, self.metadata.labels
        attempt, index = labels.get(ATTEMPT, ""), labels.get(INDEX, "")
        return f"{workload}/{attempt}/{index}" if workload and attempt and index else self.metadata.uid


class NodeTaint(Base, frozen=True, gc=False):
    key: str = ""
    value: str = ""
    effect: str = ""


class NodeSpec(Base, frozen=True, gc=False):
    taints: tuple[NodeTaint, ...] = ()
    unschedulable: bool = False
    provider_id: str = msgspec.field(default="", name="providerID")


class NodeStatus(Base, frozen=True, gc=False):
    allocatable: dict[str, str] = {}
    conditions: tuple[StatusCondition, ...] = ()


class NodeMetadata(ObjectMeta, frozen=True, gc=False):
    annotations: dict[str, str] = {}
    """Those under niyanta.io/ alone, after `slim`."""


class Node(Object, frozen=True, gc=False):
    metadata: NodeMetadata = NodeMetadata()
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def slim(self) -> Node:
        """The node without the annotations of other programs."""
        own = {key: value for key, value in self.metadata.annotations.items() if key.startswith(PREFIX)}
        if len(own) == len(self.metadata.annotations):
            return self
        return msgspec.structs.replace(self, metadata=msgspec.structs.replace(self.metadata, annotations=own))

    @property
    def ready(self) -> bool:
        """True if the condition Ready is True; Unknown or missing count as not ready."""
        return any(c.type == "Ready" and c.status == "True" for c in self.status.conditions)


class LimitRange(Object, frozen=True, gc=False):
    spec: dict[str, Any] = {}


class RuntimeClassObject(Object, frozen=True, gc=False):
    handler: str = ""
    overhead: dict[str, Any] = {}
    """`podFixed`: resource name -> quantity."""
    scheduling: dict[str, Any] = {}
    """`nodeSelector` and `tolerations` that the pods of the class get."""


class Namespace(Object, frozen=True, gc=False):
    @property
    def enabled(self) -> bool:
        """True if it has the label that lets the operator create pods in it."""
        return self.metadata.labels.get(ENABLED) == "true"

    @property
    def terminating(self) -> bool:
        """True while it is being deleted with everything in it."""
        return self.metadata.deletion_timestamp is not None


T = TypeVar("T", bound=Object)


class WatchEvent(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """One line of a watch. BOOKMARK objects carry only a resource version; ERROR lines don't have this form."""

    type: str
    object: T


class ListMeta(Base, frozen=True, gc=False):
    resource_version: str = ""
    continue_token: str = msgspec.field(default="", name="continue")


class Page(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """One chunk of a list; `items` is null in empty lists of some aggregated servers."""

    metadata: ListMeta = ListMeta()
    items: list[T] | None = None
