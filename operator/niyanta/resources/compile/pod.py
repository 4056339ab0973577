"""Manifests of a placed workload's pods, bound to their workers, as the leader creates them in the API server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from niyanta.resources import labels
from niyanta.resources.compile.requirements import injected_gpus
from niyanta.resources.models.workload import WorkloadSpec

Manifest = dict[str, Any]


def pod_name(workload_name: str, uid: str, *, attempt: int, index: int) -> str:
    """`<workload>-<8 hex of its UID>-<attempt>-<index>`, so that a repeated creation gets the same name."""
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
    workload_labels: Mapping[str, str] | None = None,
) -> Manifest:
    """The manifest of one pod of an attempt.

    `uid` is the Workload's UID, `worker_gpu_resource` the resource name of the worker's GPUs (None: no GPUs), `epoch`
    the leader's. `owner`: name and UID of the Workload object when they differ from `workload_name` and `uid` (REST).
    `workload_labels`: the labels of the Workload, which other workloads' terms select by.
    Raises ValueError if the workload needs GPUs injected and the worker has no GPU resource.
    """
    template: Manifest = _with_integers(spec.template.manifest())
    metadata: Manifest = template.get("metadata", {})
    gpus = injected_gpus(spec)
    if gpus and not worker_gpu_resource:
        raise ValueError(f"{worker} has no GPU resource, {namespace}/{workload_name} needs {gpus}")
    pod = _bound_spec(template["spec"], spec, worker)
    if gpus and worker_gpu_resource:
        _inject_gpus(pod["containers"][0], worker_gpu_resource, gpus)
    variables = {"NIYANTA_INDEX": index, "NIYANTA_ATTEMPT": attempt, "NIYANTA_REPLICAS": spec.replicas}
    for container in (*pod["containers"], *pod.get("initContainers", ())):
        _inject_env(container, variables)
    own_labels = {
        labels.WORKLOAD: labels.label_value(workload_name),
        labels.WORKLOAD_UID: uid,
        labels.CUSTOMER: labels.label_value(customer),
        labels.ATTEMPT: str(attempt),
        labels.INDEX: str(index),
        labels.EPOCH: str(epoch),
        labels.POOL: labels.label_value(pool),
    }
    if spec.type:
        own_labels[labels.TYPE] = spec.type
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(workload_name, uid, attempt=attempt, index=index),
            "namespace": namespace,
            "labels": {**metadata.get("labels", {}), **own_labels},
            "annotations": {**metadata.get("annotations", {}), **labels.pod_annotations(workload_labels or {})},
            "finalizers": [labels.OUTCOME_FINALIZER],
            "ownerReferences": [_owner_reference(*(owner or (workload_name, uid)))],
        },
        "spec": pod,
    }


def _with_integers(value: Any) -> Any:
    """Whole numbers such as 5.0 as integers: the schemas of custom resources accept them, the Pod API doesn't."""
    if isinstance(value, dict):
        return {key: _with_integers(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_integers(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**63 else value


def _bound_spec(pod: Manifest, spec: WorkloadSpec, worker: str) -> Manifest:
    """Bind the pod spec to the worker and set its restart policy."""
    pod["nodeName"] = worker
    pod.setdefault("restartPolicy", spec.template.spec.restart_policy)
    grace = pod.get("terminationGracePeriodSeconds")
    if grace is not None and grace < 1:
        # With 0 the API server drops a deleted pod at once, while its containers may run on, so that an index could run
        # twice.
        pod["terminationGracePeriodSeconds"] = 1
    return pod


def _owner_reference(name: str, uid: str) -> Manifest:
    """Reference to the Workload object, without blockOwnerDeletion: that would need permission to update the object's
    finalizers, and would block deletes.
    """
    return {"apiVersion": labels.API_VERSION, "kind": "Workload", "name": name, "uid": uid, "controller": True}


def _inject_gpus(container: Manifest, resource: str, count: int) -> None:
    """Set a limit; the API server sets the request of an extended resource to the same amount."""
    limits = container.setdefault("resources", {}).setdefault("limits", {})
    limits[resource] = str(count)


def _inject_env(container: Manifest, variables: dict[str, int]) -> None:
    """Add environment variables, except those that the user has set."""
    env = container.get("env") or []
    taken = {entry["name"] for entry in env}
    added = [{"name": name, "value": str(value)} for name, value in variables.items() if name not in taken]
    # In front, so that the user's variables may refer to them as $(NIYANTA_INDEX).
    container["env"] = added + env
