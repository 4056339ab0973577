"""Compiles a Workload's spec to the engine's requirements: the last check of a manifest before it may be queued.

Workloads of both doors are compiled here after the rules of the models. This checks what CEL cannot express: sums,
quantities, sizes, other objects. Next in the flow: the store's row, then `engine.types.PendingWorkload`.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from niyanta import bounded_json
from niyanta.engine import types as engine
from niyanta.engine.types import Expression, Matcher, NodeTerm, Op, PeerTerm, Requirements, Selector, SoftTerm, Subject
from niyanta.resources.compile.pod_resources import NamespaceDefaults, RuntimeClass, pod_requests, runtime_class
from niyanta.resources.models.affinity import Affinity, Anti, LabelSelector, MatcherFields, Near, SoftGpu
from niyanta.resources.models.base import InvalidManifestError, parse
from niyanta.resources.models.pod_template import Container, InitContainer, NodeSelectorTerm, PodSpec
from niyanta.resources.models.workload import GpuRequest, TopologyMode, TopologyRequest, Workload, WorkloadSpec
from niyanta.resources.quantity import base_units

POD_PATH = "spec.template.spec"

MAX_VALUES = 5_000
"""Most JSON values (objects, lists, strings, ...) in a spec. Decoded, a short text may take 20 times its size."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled workload, as the queue keeps it. `class_id` is 32 hex digits; equal requirements have equal ids."""

    requirements: Requirements
    subject: Subject
    replicas: int
    class_id: str


def parse_workload(manifest: Mapping[str, Any]) -> Workload:
    """Parse a Workload object; raises InvalidManifestError for the first error."""
    _check_bounds(manifest, "")
    return parse(Workload, manifest)


def parse_spec(spec: Mapping[str, Any]) -> WorkloadSpec:
    """Parse the spec of a Workload; raises InvalidManifestError for the first error."""
    _check_bounds(spec, "spec")
    return parse(WorkloadSpec, spec, root="spec")


def _check_bounds(value: Any, root: str) -> None:
    """Raise InvalidManifestError for a value that is too deep, or has integers that are too large, to be encoded again,
    or that takes much memory. Specs come from objects, requests and rows, and the template keeps fields that no model
    describes."""
    problem = bounded_json.violation(value, max_values=MAX_VALUES)
    if problem is not None:
        path, _, message = problem.partition(": ")
        path = "" if path == bounded_json.ROOT else path
        raise InvalidManifestError(f"{root}.{path}".strip("."), None, message)


def is_gpu_resource(name: str) -> bool:
    """True when an extended resource stands for GPUs.

    These are `<vendor>/gpu` and its shared and named forms (`nvidia.com/gpu.shared`), parts of NVIDIA GPUs
    (`nvidia.com/mig-1g.5gb`) and all resources of Intel's plugin (`gpu.intel.com/i915`).
    """
    domain, slash, resource = name.partition("/")
    return bool(slash) and (
        resource == "gpu" or resource.startswith(("gpu.", "gpu-", "mig-")) or domain.startswith("gpu.")
    )


def injected_gpus(spec: WorkloadSpec) -> int:
    """GPU devices that the operator adds to the first container as the worker's GPU resource (0: none).

    A template that requests GPUs itself gets none. Raises InvalidManifestError when its number differs from
    `spec.gpu.count`.
    """
    gpu = spec.gpu
    if gpu is None:
        return 0
    named = pod_requests(spec.template.spec, NamespaceDefaults())
    own = sum(amount for name, amount in named.items() if is_gpu_resource(name))
    if not own:
        return gpu.count or 1
    if gpu.count is not None and gpu.count != own:
        raise InvalidManifestError(
            "spec.gpu.count",
            gpu.count,
            f"must equal the number that the template requests ({own}); set only one of them",
        )
    return 0


def compile_workload(
    spec: WorkloadSpec,
    *,
    namespace: str,
    customer: str,
    labels: Mapping[str, str],
    defaults: NamespaceDefaults,
    wildcard: bool = False,
) -> Compiled:
    """Compile `spec` to requirements. `customer` is the resolved customer, `labels` are the Workload object's labels.

    `wildcard`: the Customer lists "*", so its namespaces may belong to different tenants, and anti terms of scope
    Customer get scope Namespace. Sets are sorted, so that equivalent manifests share one class. Raises
    InvalidManifestError.
    """
    pod = spec.template.spec
    overlay = runtime_class(pod, POD_PATH, defaults)
    requests = pod_requests(pod, defaults)
    gpu_count = injected_gpus(spec)
    requests[engine.PODS] = 1
    affinity = spec.affinity or Affinity()
    requirements = Requirements(
        requests=tuple(sorted(requests.items())),
        hard=_hard(spec),
        node_selector=_node_selector(pod, overlay),
        node_terms=_required_terms(pod),
        soft=_soft(affinity, pod),
        anti=declared_terms(spec, wildcard=wildcard),
        near=_sorted({_peer(term, wildcard) for term in affinity.hard.near}) if affinity.hard else (),
        topology=_topology(spec.topology),
        tolerations=_tolerations(pod, overlay),
        host_ports=_host_ports(pod),
        gpu_count=gpu_count,
        wants_gpu=spec.gpu is not None or any(map(is_gpu_resource, requests)),
    )
    subject = Subject(namespace, customer, spec.type or "", tuple(sorted(labels.items())))
    return Compiled(requirements, subject, spec.replicas, class_id(requirements))


# --- Parts -----------------------------------------------------------------------------------------------------------


def _sorted_words(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(values)))


def _sorted(values: Iterable[Any]) -> tuple[Any, ...]:
    """Frozen values of one type in an order that depends only on their content."""
    found = tuple(values)
    return found if len(found) < 2 else tuple(sorted(found, key=_text))


def _expressions(labels: Mapping[str, str], expressions: Iterable[Any]) -> tuple[Expression, ...]:
    found = {Expression(key, Op.IN, (value,)) for key, value in labels.items()}
    found |= {Expression(item.key, item.operator, _sorted_words(item.values)) for item in expressions}
    return _sorted(found)


def _matcher(part: MatcherFields, gpu: GpuRequest | SoftGpu | None, path: str, more: Iterable[str] = ()) -> Matcher:
    """`path`: of the object that has the field gpu. `more`: capabilities that are required besides those in `part`."""
    memory = gpu.min_memory if gpu else None
    return Matcher(
        node_names=_sorted_words(part.node_names),
        pools=_sorted_words(part.pools),
        regions=_sorted_words(part.regions),
        zones=_sorted_words(part.zones),
        compliance=_sorted_words(part.compliance),
        capabilities=_sorted_words([*part.capabilities, *more]),
        gpu_models=_sorted_words(gpu.models) if gpu else (),
        gpu_min_memory=base_units(engine.MEMORY, memory, f"{path}.gpu.minMemory") if memory is not None else 0,
        tags=_expressions(part.worker_tags, part.worker_expressions),
    )


def _hard(spec: WorkloadSpec) -> Matcher:
    part = spec.affinity.hard if spec.affinity else None
    capability = [spec.type] if spec.type else []
    return _matcher(part or MatcherFields(), spec.gpu, "spec", capability)


def _soft(affinity: Affinity, pod: PodSpec) -> tuple[SoftTerm, ...]:
    """Soft terms of the workload and preferred node affinity of the template; duplicates count several times."""
    found = [
        SoftTerm(wish.weight, matcher=_matcher(wish, wish.gpu, f"spec.affinity.soft[{index}]"))
        for index, wish in enumerate(affinity.soft)
    ]
    node = pod.affinity.node_affinity if pod.affinity else None
    for preferred in node.preferred_during_scheduling_ignored_during_execution if node else ():
        term = _node_term(preferred.preference)
        if term != NodeTerm():  # an empty preference is a no-op in Kubernetes
            found.append(SoftTerm(preferred.weight, node=term))
    return _sorted(found)


def _node_term(term: NodeSelectorTerm) -> NodeTerm:
    return NodeTerm(_expressions({}, term.match_expressions), _expressions({}, term.match_fields))


def _required_terms(pod: PodSpec) -> tuple[NodeTerm, ...]:
    node = pod.affinity.node_affinity if pod.affinity else None
    required = node.required_during_scheduling_ignored_during_execution if node else None
    return _sorted({_node_term(term) for term in required.node_selector_terms}) if required else ()


def _node_selector(pod: PodSpec, overlay: RuntimeClass) -> engine.Labels:
    for key, value in overlay.node_selector.items():
        if pod.node_selector.get(key, value) != value:
            raise InvalidManifestError(
                f"{POD_PATH}.nodeSelector.{key}",
                pod.node_selector[key],
                f"must be {value!r}, as the RuntimeClass requires",
            )
    return tuple(sorted({**pod.node_selector, **overlay.node_selector}.items()))


def _selector(selector: LabelSelector | None) -> tuple[Expression, ...]:
    return _expressions(selector.match_labels, selector.match_expressions) if selector else ()


def _peer(term: Anti | Near, wildcard: bool) -> PeerTerm:
    customers = term.customers if isinstance(term, Anti) else []
    scope = term.scope if isinstance(term, Anti) else engine.Scope.NAMESPACE
    if wildcard and scope is engine.Scope.CUSTOMER:
        scope = engine.Scope.NAMESPACE
    selected = Selector(_sorted_words(term.types), _sorted_words(customers), _selector(term.workload_selector))
    return PeerTerm(selected, term.topology_key, scope)


def declared_terms(spec: WorkloadSpec, *, wildcard: bool = False) -> tuple[PeerTerm, ...]:
    """The anti terms of a spec; with `wildcard` False in the scopes that it declares."""
    return _sorted({_peer(term, wildcard) for term in spec.affinity.anti}) if spec.affinity else ()


def _topology(wanted: TopologyRequest | None) -> engine.Topology | None:
    return engine.Topology(wanted.key, wanted.mode is TopologyMode.REQUIRED) if wanted else None


def _tolerations(pod: PodSpec, overlay: RuntimeClass) -> tuple[engine.Toleration, ...]:
    own = {
        engine.Toleration(item.key, item.operator == "Exists", item.value, item.effect)
        for item in pod.tolerations
        if item.effect != "PreferNoSchedule"
    }
    return _sorted(own | set(overlay.tolerations))


def _host_ports(pod: PodSpec) -> tuple[engine.HostPort, ...]:
    """Ports taken on the worker by containers and sidecars; with hostNetwork every containerPort is a host port."""
    found: set[engine.HostPort] = set()
    groups: tuple[tuple[str, Iterable[Container | InitContainer]], ...] = (
        ("containers", pod.containers),
        ("initContainers", pod.init_containers),
    )
    for group, containers in groups:
        for number, container in enumerate(containers):
            if group == "initContainers" and container.restart_policy != "Always":
                continue
            for index, port in enumerate(container.ports):
                host_port = port.host_port or (port.container_port if pod.host_network else 0)
                if pod.host_network and host_port != port.container_port:
                    path = f"{POD_PATH}.{group}[{number}].ports[{index}].hostPort"
                    raise InvalidManifestError(path, host_port, "must equal containerPort when hostNetwork is true")
                if host_port:
                    any_address = engine.HostPort(0).host_ip
                    found.add(engine.HostPort(host_port, port.protocol, port.host_ip or any_address))
    return _sorted(found)


# --- Class -----------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """`value` as JSON types. Fields with default values are left out, so a new field does not change existing ids."""
    if isinstance(value, str | int):
        return value
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value):
        return {
            name: plain(found) for name, default in _fields(type(value)) if (found := getattr(value, name)) != default
        }
    return value


_FIELDS: dict[type, tuple[tuple[str, Any], ...]] = {}


def _fields(kind: Any) -> tuple[tuple[str, Any], ...]:
    """Name and default of a dataclass' fields; cached, because every submission is compiled."""
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple((field.name, field.default) for field in dataclasses.fields(kind))
    return _FIELDS[kind]


def _text(value: Any) -> bytes:
    return orjson.dumps(plain(value), option=orjson.OPT_SORT_KEYS)


def class_id(requirements: Requirements) -> str:
    """Stable hash (32 hex digits) of the requirements."""
    return hashlib.blake2b(_text(requirements), digest_size=16).hexdigest()
