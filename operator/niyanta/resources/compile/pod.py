"""The pods of a placed workload, already bound: what the cycle's apply step sends to the API server."""

from __future__ import annotations

from typing import Any

from niyanta.resources import labels
from niyanta.resources.compile.requirements import injected_gpus
from niyanta.resources.models.workload import WorkloadSpec

Manifest = dict[str, Any]


def pod_name(workload_name: str, uid: str, *, attempt: int, index: int) -> str:
    """`<workload>-<8 hex of its UID>-<attempt>-<index>`: the same placement always gets the same name."""
    return f"{workload_name}-{uid.replace('-', '')[:8]}-{attempt}-{index}"


def build_pod(
    *,
    workload_name: str,
    namespace: str,
    uid: str,
    spec: WorkloadSpec,
    customer: str,
    attempt: int,
    index: int,
    worker: str,
    pool: str,
    worker_gpu_resource: str | None,
    epoch: int,
    owner: tuple[str, str] | None = None,
) -> Manifest:
    """The Pod of one index of one attempt.

    `uid` is the Workload object's, `worker_gpu_resource` what the worker calls its GPUs (None: it has none),
    `epoch` the leader's. `owner`: name and UID of the Workload object where they aren't `workload_name` and `uid`
    (REST). Raises ValueError if the workload needs GPUs injected and the worker has no GPU resource.
    """
    owner_name, owner_uid = owner or (workload_name, uid)
    template = spec.template.manifest()
    pod: Manifest = template["spec"]
    metadata: Manifest = template.get("metadata", {})
    pod["nodeName"] = worker
    pod.setdefault("restartPolicy", spec.template.spec.restart_policy)
    gpus = injected_gpus(spec)
    if gpus:
        if not worker_gpu_resource:
            raise ValueError(f"{worker} has no GPU resource, {namespace}/{workload_name} needs {gpus}")
        _inject_gpus(pod["containers"][0], worker_gpu_resource, gpus)
    variables = {"NIYANTA_INDEX": index, "NIYANTA_ATTEMPT": attempt, "NIYANTA_REPLICAS": spec.replicas}
    for container in (*pod["containers"], *pod.get("initContainers", ())):
        _inject_env(container, variables)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(workload_name, uid, attempt=attempt, index=index),
            "namespace": namespace,
            "labels": {
                **metadata.get("labels", {}),
                labels.WORKLOAD: labels.label_value(workload_name),
                labels.WORKLOAD_UID: uid,
                labels.CUSTOMER: labels.label_value(customer),
                labels.ATTEMPT: str(attempt),
                labels.INDEX: str(index),
                labels.EPOCH: str(epoch),
                labels.POOL: labels.label_value(pool),
            },
            "annotations": metadata.get("annotations", {}),
            "finalizers": [labels.OUTCOME_FINALIZER],
            # No blockOwnerDeletion: it would need permission to update the Workload's finalizers, and block deletes.
            "ownerReferences": [
                {
                    "apiVersion": labels.API_VERSION,
                    "kind": "Workload",
                    "name": owner_name,
                    "uid": owner_uid,
                    "controller": True,
                }
            ],
        },
        "spec": pod,
    }


def _inject_gpus(container: Manifest, resource: str, count: int) -> None:
    """A limit is enough, the API server makes the request of an extended resource equal to it."""
    limits = container.setdefault("resources", {}).setdefault("limits", {})
    limits[resource] = str(count)


def _inject_env(container: Manifest, variables: dict[str, int]) -> None:
    """What the user set wins."""
    env = container.setdefault("env", [])
    if isinstance(env, list):  # else the API server refuses the pod with its own words
        taken = {entry.get("name") for entry in env if isinstance(entry, dict)}
        # In front, so that the user's own variables may refer to them as $(NIYANTA_INDEX).
        env[:0] = [{"name": name, "value": str(value)} for name, value in variables.items() if name not in taken]
