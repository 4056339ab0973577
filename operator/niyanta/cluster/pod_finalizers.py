"""Removal of the outcome finalizer from Niyanta's pods when Niyanta is uninstalled (`niyanta release-finalizers`).

A running operator removes it after a pod's outcome is committed. Without an operator it would keep finished and deleted
pods, and with them their namespaces, for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError
from niyanta.cluster.api.kinds import PODS
from niyanta.cluster.api.transport import METADATA_LIST, Transport
from niyanta.cluster.old_objects import list_objects
from niyanta.resources.labels import OUTCOME_FINALIZER, PREFIX

CONCURRENT_PATCHES = 16

OPERATOR_PODS = "app.kubernetes.io/name=niyanta,app.kubernetes.io/component=operator"
"""Label selector of the chart's operator pods."""


@dataclass(slots=True)
class FinalizerCounts:
    """Pods with the finalizer: `found` are controlled by a Workload, `others` are not and keep it. Each of `found` is
    then released, gone, or failed; `error` is the message of the first failure."""

    found: int = 0
    others: int = 0
    released: int = 0
    gone: int = 0
    failed: int = 0
    error: str = ""


async def running_operators(transport: Transport) -> list[str]:
    """`namespace/name` of the pods of Niyanta's operator that haven't ended. Raises ApiError."""
    return [
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        async for pod in list_objects(transport, PODS, labels=OPERATOR_PODS)
        if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    ]


async def release_finalizers(client: ApiClient, transport: Transport, *, dry_run: bool) -> FinalizerCounts:
    """Remove the finalizer from every pod that a Workload object controls; with `dry_run` only count. Raises ApiError
    if the pods can't be listed."""
    counts = FinalizerCounts()
    slots = asyncio.Semaphore(CONCURRENT_PATCHES)
    patches: set[asyncio.Task[None]] = set()
    async for pod in list_objects(transport, PODS, accept=METADATA_LIST):
        metadata = pod["metadata"]
        if OUTCOME_FINALIZER not in (metadata.get("finalizers") or ()):
            continue
        if not _is_controlled_by_workload(metadata):
            counts.others += 1
            continue
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


async def _release(client: ApiClient, metadata: Mapping[str, Any], counts: FinalizerCounts) -> None:
    try:
        patched = await client.remove_pod_finalizer(metadata["namespace"], metadata["name"], metadata["uid"])
    except ApiError as error:
        counts.failed += 1
        counts.error = counts.error or f"{metadata['namespace']}/{metadata['name']}: {error.message or error.reason}"
    else:
        counts.released += patched
        counts.gone += not patched


def _is_controlled_by_workload(metadata: Mapping[str, Any]) -> bool:
    return any(
        owner.get("controller") and owner.get("kind") == "Workload" and str(owner.get("apiVersion")).startswith(PREFIX)
        for owner in metadata.get("ownerReferences") or ()
    )
