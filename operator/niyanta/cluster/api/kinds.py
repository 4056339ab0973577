"""Resource kinds of the Kubernetes API and their paths, for `client` and `reflector`."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from niyanta.resources.labels import GROUP, VERSION

FENCE_POLICY = "niyanta-fence"
"""Name of the ValidatingAdmissionPolicy and of the ConfigMap it reads."""


@dataclass(frozen=True, slots=True)
class ResourceKind:
    """One resource of the API: `group` is empty for the core group."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """The `apiVersion` field of manifests."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """URL path. Without a namespace, a namespaced kind is listed or watched in all namespaces."""
        parts = [f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


PODS = ResourceKind("", "v1", "pods", "Pod")
NODES = ResourceKind("", "v1", "nodes", "Node", namespaced=False)
NAMESPACES = ResourceKind("", "v1", "namespaces", "Namespace", namespaced=False)
LIMIT_RANGES = ResourceKind("", "v1", "limitranges", "LimitRange")
CONFIG_MAPS = ResourceKind("", "v1", "configmaps", "ConfigMap")
SECRETS = ResourceKind("", "v1", "secrets", "Secret")
RUNTIME_CLASSES = ResourceKind("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", namespaced=False)
API_SERVICES = ResourceKind("apiregistration.k8s.io", "v1", "apiservices", "APIService", namespaced=False)
EVENTS = ResourceKind("events.k8s.io", "v1", "events", "Event")
WORKLOADS = ResourceKind(GROUP, VERSION, "workloads", "Workload")
WORKER_POOLS = ResourceKind(GROUP, VERSION, "workerpools", "WorkerPool")
CUSTOMERS = ResourceKind(GROUP, VERSION, "customers", "Customer", namespaced=False)
