"""Resources that one pod of a template requests, computed as Kubernetes does for a created pod.

Formula: KEP-753 (sidecars), KEP-2837 (pod-level resources), KEP-688 (overhead), and the LimitRanger's defaults. Without
them the kubelet would reject a pod that is created bound, or the pod would overcommit the worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from niyanta.engine import types as engine
from niyanta.resources.models.base import InvalidManifestError
from niyanta.resources.models.pod_template import BaseContainer, ContainerResourceSpec, PodSpec
from niyanta.resources.quantity import LARGEST, quantities

Units = dict[str, int]
"""Resource name -> base units."""

_NATIVE = frozenset({engine.CPU, engine.MEMORY, "ephemeral-storage"})
"""Resources whose limit may exceed the request; all others can't be overcommitted."""


@dataclass(frozen=True, slots=True)
class RuntimeClass:
    """Overhead and scheduling constraints that a RuntimeClass adds to a pod. `overhead` is in base units."""

    overhead: Mapping[str, int] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[engine.Toleration, ...] = ()

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> RuntimeClass:
        """Read a node.k8s.io/v1 RuntimeClass object."""
        scheduling = manifest.get("scheduling") or {}
        overhead = (manifest.get("overhead") or {}).get("podFixed")
        return cls(
            overhead=quantities(overhead, "overhead.podFixed"),
            node_selector=dict(scheduling.get("nodeSelector") or {}),
            tolerations=tuple(
                engine.Toleration(
                    key=item.get("key", ""),
                    exists=item.get("operator") == "Exists",
                    value=item.get("value", ""),
                    effect=item.get("effect", ""),
                )
                for item in scheduling.get("tolerations") or ()
            ),
        )


@dataclass(frozen=True, slots=True)
class NamespaceDefaults:
    """Values that the API server fills into pods of a namespace.

    `requests` are a container's default requests (base units) by LimitRange. `runtime_classes` is None when
    they are not known (the REST door): then any name is accepted and checked when the leader compiles the workload.
    """

    requests: Mapping[str, int] = field(default_factory=dict)
    runtime_classes: Mapping[str, RuntimeClass] | None = None

    @classmethod
    def from_limit_ranges(
        cls, limit_ranges: Iterable[Mapping[str, Any]], runtime_classes: Mapping[str, RuntimeClass] | None = None
    ) -> NamespaceDefaults:
        """Read the LimitRange objects of the namespace; the first by name wins when several set a default."""
        found: Units = {}
        for limit_range in sorted(limit_ranges, key=lambda o: str(o.get("metadata", {}).get("name", ""))):
            for item in limit_range.get("spec", {}).get("limits") or ():
                if item.get("type") == "Container":
                    # The API server takes the default request from: defaultRequest, default, max, min.
                    merged = {**(item.get("min") or {}), **(item.get("max") or {})}
                    merged |= {**(item.get("default") or {}), **(item.get("defaultRequest") or {})}
                    found = {**quantities(merged, "limits"), **found}
        return cls(found, runtime_classes)


def _given(resources: ContainerResourceSpec | None, path: str) -> tuple[Units, Units]:
    """Requests and limits as given; raises InvalidManifestError for a request that its limit doesn't allow."""
    if resources is None:
        return {}, {}
    requests = quantities(resources.requests, f"{path}.requests")
    limits = quantities(resources.limits, f"{path}.limits")
    for name, amount in requests.items():
        limit = limits.get(name)
        if limit is not None and amount > limit:
            raise InvalidManifestError(
                f"{path}.requests.{name}", resources.requests[name], "must not be more than the limit"
            )
        if name not in _NATIVE and limit != amount:
            raise InvalidManifestError(
                f"{path}.limits.{name}", resources.limits.get(name), "must equal the request, it can't be overcommitted"
            )
    return requests, limits


def container_requests(container: BaseContainer, path: str, defaults: NamespaceDefaults) -> Units:
    """Requests of one container: as given, else its limits, else the namespace's defaults."""
    requests, limits = _given(container.resources, f"{path}.resources")
    return {**defaults.requests, **limits, **requests}


def _add(total: Units, more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def _containers(pod: PodSpec, path: str, defaults: NamespaceDefaults) -> Units:
    """Sum over containers and sidecars, or the peak during initialisation if that is higher."""
    total: Units = {}
    for index, container in enumerate(pod.containers):
        _add(total, container_requests(container, f"{path}.containers[{index}]", defaults))
    sidecars: Units = {}
    peak: Units = {}
    for index, init in enumerate(pod.init_containers):
        now = container_requests(init, f"{path}.initContainers[{index}]", defaults)
        if init.restart_policy == "Always":
            _add(total, now)
            _add(sidecars, now)
            now = dict(sidecars)
        else:
            _add(now, sidecars)
        peak = {name: max(peak.get(name, 0), now.get(name, 0)) for name in peak.keys() | now.keys()}
    return {name: max(total.get(name, 0), peak.get(name, 0)) for name in total.keys() | peak.keys()}


def runtime_class(pod: PodSpec, path: str, defaults: NamespaceDefaults) -> RuntimeClass:
    """The RuntimeClass of the pod (an empty one if it names none). Raises InvalidManifestError if it doesn't exist."""
    name = pod.runtime_class_name
    if name is None or defaults.runtime_classes is None:
        return RuntimeClass()
    found = defaults.runtime_classes.get(name)
    if found is None:
        raise InvalidManifestError(f"{path}.runtimeClassName", name, "there is no such RuntimeClass")
    return found


def pod_requests(pod: PodSpec, defaults: NamespaceDefaults, path: str = "spec.template.spec") -> Units:
    """Requests of one pod in base units, without zeros and without `pods`. Raises InvalidManifestError."""
    total = _containers(pod, path, defaults)
    requests, limits = _given(pod.resources, f"{path}.resources")
    for name in requests.keys() | limits.keys():
        # A pod-level limit becomes the request only when no container has a request.
        total[name] = requests.get(name) or total.get(name) or limits.get(name, 0)
    overhead: Mapping[str, int] = runtime_class(pod, path, defaults).overhead
    if pod.overhead is not None:
        given = quantities(pod.overhead, f"{path}.overhead")
        if pod.runtime_class_name is None or (defaults.runtime_classes is not None and given != overhead):
            raise InvalidManifestError(f"{path}.overhead", pod.overhead, "must equal the overhead of the RuntimeClass")
        overhead = given
    _add(total, overhead)
    for name, amount in total.items():
        if amount > LARGEST:
            raise InvalidManifestError(
                f"{path}.containers", None, f"the requests of {name} add up to more than a 64-bit integer"
            )
    return {name: amount for name, amount in total.items() if amount}
