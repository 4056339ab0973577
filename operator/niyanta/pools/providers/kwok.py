"""Simulated workers for demos and tests: Node objects for which kwok simulates the kubelet.

Every node of the pool that kwok manages is an instance, also one that another client created.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError, ErrorKind, WritesClosedError, error_kind
from niyanta.cluster.api.kinds import NODES
from niyanta.engine.types import REGION_TOPOLOGY, ZONE_TOPOLOGY
from niyanta.pools.providers.base import (
    Group,
    Instance,
    InstanceState,
    ProviderError,
    ProviderReason,
    ProviderRefusedError,
    ThrottledError,
)
from niyanta.resources.models.worker_pool import WorkerPool

FAKE = "kwok.x-k8s.io/node"
"""Annotation with the value "fake" on nodes that kwok manages."""

HOSTNAME = "kubernetes.io/hostname"
DEFAULT_ALLOCATABLE = {"cpu": "32", "memory": "256Gi", "pods": "110"}
"""Allocatable resources of a node if the pool doesn't declare them."""

MOST_REQUESTS = 8
"""Most concurrent creates."""

TEMPORARY = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.UNKNOWN_OUTCOME, ErrorKind.CONFLICT, ErrorKind.GONE})


class KwokProvider:
    """Implements niyanta.pools.providers.base.Provider. `pool` returns the current pool, `owners` the function from a
    node's labels to its pool."""

    def __init__(
        self,
        client: ApiClient,
        pool: Callable[[], WorkerPool | None],
        owners: Callable[[], Callable[[Mapping[str, str]], str]],
    ) -> None:
        self._client = client
        self._pool = pool
        self._owners = owners
        self._foreign: set[str] = set()
        """Names that are taken by foreign nodes, or by own nodes that aren't listed yet."""

    async def describe(self) -> Group:
        pool = self._needed()
        selector = ",".join(f"{key}={value}" for key, value in sorted(pool.spec.node_selector.match_labels.items()))
        try:
            listed = await self._client.list(NODES, label_selector=selector)
        except ApiError as error:
            raise _translated(error) from error
        found = []
        owner_of = self._owners()
        for node in listed.items:
            meta = node["metadata"]
            fake = (meta.get("annotations") or {}).get(FAKE) == "fake"
            if fake and owner_of(meta.get("labels") or {}) == pool.metadata.name:
                state = InstanceState.LEAVING if meta.get("deletionTimestamp") else InstanceState.RUNNING
                found.append(Instance(id=meta["uid"], state=state, node=meta["name"]))
        return Group(tuple(found), desired=sum(1 for i in found if i.state is not InstanceState.LEAVING))

    async def grow(self, group: Group, to: int) -> None:
        """Create nodes with the first free numbers, so that a repeated call creates the same nodes."""
        pool = self._needed()
        taken = {instance.node for instance in group.instances} | self._foreign
        count = to - group.desired
        names = (f"{pool.metadata.name}-{number}" for number in itertools.count())
        free = itertools.islice((name for name in names if name not in taken), count)
        spread = itertools.cycle(pool.spec.zones or [""])
        places = itertools.islice(spread, group.desired % max(1, len(pool.spec.zones)), None)
        manifests = [node_manifest(pool, name, zone) for name, zone in zip(free, places, strict=False)]
        if manifests and self._owners()(manifests[0]["metadata"]["labels"]) != pool.metadata.name:
            raise ProviderRefusedError(
                "nodes from this pool's template would not be its workers", reason=ProviderReason.WRONG_TEMPLATE
            )
        slots = asyncio.Semaphore(MOST_REQUESTS)
        errors = await asyncio.gather(*(self._create(slots, manifest) for manifest in manifests))
        for error in errors:
            if error is not None:
                raise error

    async def _create(self, slots: asyncio.Semaphore, manifest: dict[str, Any]) -> ProviderError | None:
        async with slots:
            try:
                await self._client.create(NODES, manifest)
            except WritesClosedError:
                raise
            except ApiError as error:
                if error_kind(error) is not ErrorKind.ALREADY_EXISTS:
                    return _translated(error)
                self._foreign.add(manifest["metadata"]["name"])
        return None

    async def remove(self, instance: Instance) -> None:
        try:
            await self._client.delete(NODES, instance.node, instance.id)
        except WritesClosedError:
            raise
        except ApiError as error:
            raise _translated(error) from error

    async def protect(self, instances: Sequence[str], *, on: bool) -> None:
        """No effect: only Niyanta removes these nodes."""

    def close(self) -> None:
        """No effect: the provider has no threads or connections of its own."""

    def _needed(self) -> WorkerPool:
        pool = self._pool()
        if pool is None:
            raise ProviderRefusedError("the pool is gone", reason=ProviderReason.POOL_GONE)
        return pool


def node_manifest(pool: WorkerPool, name: str, zone: str) -> dict[str, Any]:
    """A simulated worker of the pool."""
    spec = pool.spec
    kwok = spec.provider.kwok if spec.provider is not None else None
    template: Mapping[str, Any] = (kwok.node_template if kwok is not None else None) or {}
    meta, status = template.get("metadata") or {}, template.get("status") or {}
    shape = spec.worker_shape
    declared = {name: str(amount) for name, amount in shape.allocatable.items()} if shape is not None else {}
    taints = [taint.manifest() for taint in shape.taints] if shape is not None else []
    allocatable = declared or dict(status.get("allocatable") or status.get("capacity") or DEFAULT_ALLOCATABLE)
    if spec.gpu is not None:
        allocatable.setdefault(spec.gpu.resource, str(spec.gpu.count))
    places = {REGION_TOPOLOGY: spec.region or "", ZONE_TOPOLOGY: zone}
    labels = {
        HOSTNAME: name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        **{key: value for key, value in places.items() if value},
        **(shape.labels if shape is not None else {}),
        **(meta.get("labels") or {}),
        **spec.node_selector.match_labels,
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {**(meta.get("annotations") or {}), FAKE: "fake"}},
        "spec": {
            "providerID": f"kwok://{name}",
            **({"taints": taints} if taints else {}),
            **(template.get("spec") or {}),
        },
        "status": {"allocatable": allocatable, "capacity": {**allocatable, **(status.get("capacity") or {})}},
    }


def _translated(error: ApiError) -> ProviderError:
    found = error_kind(error)
    if found is ErrorKind.TOO_MANY:
        return ThrottledError(error.message)
    if found in TEMPORARY:
        return ProviderError(error.message)
    hint = " (is scaling.kwok.enabled set in the chart?)" if found is ErrorKind.FORBIDDEN else ""
    return ProviderRefusedError(f"{error.message}{hint}")
