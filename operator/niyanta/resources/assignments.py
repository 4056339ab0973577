"""Placement of a workload's pods, as its status and the REST door show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from niyanta.lifecycle import Phase
from niyanta.resources.compile.pod import pod_name


def assignments(
    name: str, uid: str, *, attempt: int, workers: Sequence[str], pool: str, pools: Sequence[str]
) -> list[dict[str, Any]]:
    """`status.assignments` of a workload, sorted by index.

    `name` and `uid`: those by which its pods are named, of the submission and not of the object made for it.
    `workers`: node of each pod, by index. `pool`: the pods' WorkerPool; empty if it isn't known. `pools`: the
    WorkerPool of each pod, if there are several; otherwise empty.
    """
    return [
        {
            "index": index,
            "nodeName": node,
            **({"poolName": its_pool} if its_pool else {}),
            "podName": pod_name(name, uid, attempt=attempt, index=index),
        }
        for index, (node, its_pool) in enumerate(zip(workers, pools or [pool] * len(workers), strict=True))
    ]


def node_names(shown: object) -> tuple[str, ...]:
    """Nodes by index, of a status' `assignments` (JSON of any kind: other writers may have changed it)."""
    entries = shown if isinstance(shown, list) else []
    return tuple(str(entry.get("nodeName")) for entry in entries if isinstance(entry, dict))


def pods_text(phase: Phase, replicas: int) -> str:
    """`status.pods`: ready and wanted pods at the last transition; at the end, succeeded and wanted pods. A workload
    runs and succeeds with all of its pods or none."""
    done = replicas if phase in (Phase.RUNNING, Phase.SUCCEEDED) else 0
    return f"{done}/{replicas}"


def placement_text(workers: Sequence[str]) -> str:
    """`status.placement`: the node of all pods, or the number of nodes; empty without a placement."""
    nodes = set(workers)
    return f"{len(nodes)} workers" if len(nodes) > 1 else "".join(nodes)
