"""Removal of the outcome finalizer from Niyanta's pods when Niyanta is uninstalled (`niyanta release-finalizers`).

A running operator removes it after a pod's outcome is committed. Without an operator it would keep finished and deleted
pods, and with them their namespaces, for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from niyanta.bounded_json import VIOLATION_KEY
from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError
from niyanta.cluster.api.kinds import CONFIG_MAPS, FENCE_POLICY, PODS, WORKLOADS
from niyanta.cluster.api.transport import METADATA_LIST, Transport
from niyanta.cluster.old_objects import list_objects
from niyanta.resources.labels import OUTCOME_FINALIZER, PREFIX, WORKLOAD_UID

CONCURRENT_PATCHES = 16

OPERATOR_COMMAND = ["niyanta", "operator"]
"""How the command of an operator's container begins, whatever names and labels the chart was given."""


@dataclass(slots=True)
class FinalizerCounts:
    """Pods with the finalizer: `found` are controlled by a Workload, or were by one that is gone; `others` are not and
    keep it. Each of `found` is then released, gone, or failed; `error` is the message of the first failure."""

    found: int = 0
    others: int = 0
    released: int = 0
    gone: int = 0
    failed: int = 0
    error: str = ""


async def running_operators(transport: Transport) -> list[str]:
    """`namespace/name` of the pods that haven't ended and run an operator, in the namespaces that have the fence's
    ConfigMap: every leader makes it in its own namespace. Raises ApiError."""
    found = []
    by_name = f"metadata.name={FENCE_POLICY}"
    async for fence in list_objects(transport, CONFIG_MAPS, accept=METADATA_LIST, fields=by_name):
        namespace = fence["metadata"]["namespace"]
        pods = list_objects(transport, PODS, namespace=namespace)
        found += [f"{namespace}/{pod['metadata']['name']}" async for pod in pods if _runs_operator(pod)]
    return found


async def release_finalizers(client: ApiClient, transport: Transport, *, dry_run: bool) -> FinalizerCounts:
    """Remove the finalizer from every pod that a Workload object controls, and from those whose Workload is gone and
    left them without an owner (`kubectl delete --cascade=orphan`); with `dry_run` only count. Raises ApiError if the
    pods can't be listed."""
    counts = FinalizerCounts()
    slots = asyncio.Semaphore(CONCURRENT_PATCHES)
    patches: set[asyncio.Task[None]] = set()
    async for metadata in _pods_to_release(transport, counts):
        counts.found += 1
        if dry_run:
            continue
        await slots.acquire()  # so that no more tasks than patches exist
        task = asyncio.create_task(_release(client, metadata, counts))
        patches.add(task)
        task.add_done_callback(patches.discard)
        task.add_done_callback(lambda _: slots.release())
    await asyncio.gather(*patches)
    return counts


async def _pods_to_release(transport: Transport, counts: FinalizerCounts) -> AsyncIterator[Mapping[str, Any]]:
    """Metadata of the pods to release, those without an owner last; counts the others."""
    ownerless = []
    async for pod in list_objects(transport, PODS, accept=METADATA_LIST):
        metadata = pod["metadata"]
        if OUTCOME_FINALIZER not in (metadata.get("finalizers") or ()):
            continue
        if _is_controlled_by_workload(metadata):
            yield metadata
        elif VIOLATION_KEY not in pod and WORKLOAD_UID in (metadata.get("labels") or {}) and not _controller(metadata):
            ownerless.append({key: metadata[key] for key in ("namespace", "name", "uid", "labels")})
        else:
            counts.others += 1
    if not ownerless:
        return
    # Listed after the pods: a Workload made meanwhile is among them.
    uids = {obj["metadata"]["uid"] async for obj in list_objects(transport, WORKLOADS, accept=METADATA_LIST)}
    for metadata in ownerless:
        if metadata["labels"][WORKLOAD_UID] in uids:
            counts.others += 1
        else:
            yield metadata


async def _release(client: ApiClient, metadata: Mapping[str, Any], counts: FinalizerCounts) -> None:
    try:
        patched = await client.remove_pod_finalizer(metadata["namespace"], metadata["name"], metadata["uid"])
    except ApiError as error:
        counts.failed += 1
        counts.error = counts.error or f"{metadata['namespace']}/{metadata['name']}: {error.message or error.reason}"
    else:
        counts.released += patched
        counts.gone += not patched


def _controller(metadata: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((owner for owner in metadata.get("ownerReferences") or () if owner.get("controller")), None)


def _is_controlled_by_workload(metadata: Mapping[str, Any]) -> bool:
    owner = _controller(metadata) or {}
    return owner.get("kind") == "Workload" and str(owner.get("apiVersion")).startswith(PREFIX)


def _runs_operator(pod: Mapping[str, Any]) -> bool:
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return False
    containers = (pod.get("spec") or {}).get("containers") or ()
    commands = [[*(found.get("command") or ()), *(found.get("args") or ())] for found in containers]
    return any(command[:2] == OPERATOR_COMMAND for command in commands)
