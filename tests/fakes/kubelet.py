"""The kubelets of a fake cluster, controlled by the test: they start, end, reject and stop pods."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from niyanta.cluster.api.objects import (
    ContainerState,
    ContainerStatus,
    Pod,
    PodStatus,
    Running,
    StatusCondition,
    Terminated,
)
from tests.fakes.cluster import FakeCluster


class Kubelet:
    """All kubelets. Each method changes the pods of a workload, or only the pod with `index`."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster

    def run(self, workload_id: str, *, index: int | None = None) -> None:
        """Pending pods start to run."""
        state = ContainerState(running=Running("2026-01-01T00:00:00Z"))
        self._move(workload_id, index, PodStatus("Running", container_statuses=(ContainerStatus("main", 0, state),)))

    def run_named(self, name: str) -> None:
        """One pending pod starts to run."""
        pod = self._cluster.pod_named(name)
        assert pod is not None
        state = ContainerState(running=Running("2026-01-01T00:00:00Z"))
        status = PodStatus("Running", container_statuses=(ContainerStatus("main", 0, state),))
        self._cluster.set_pod(msgspec.structs.replace(pod, status=status))

    def succeed(self, workload_id: str, *, index: int | None = None) -> None:
        """Containers end with exit code 0."""
        self._move(workload_id, index, PodStatus("Succeeded", container_statuses=(_ended(0),)))

    def fail(self, workload_id: str, *, index: int | None = None, exit_code: int = 1) -> None:
        """Containers end with an error."""
        self._move(workload_id, index, PodStatus("Failed", container_statuses=(_ended(exit_code),)))

    def reject(self, workload_id: str, *, reason: str = "OutOfcpu") -> None:
        """The kubelet rejects pods at admission: no container starts."""
        self._move(workload_id, None, PodStatus("Failed", reason, "the node was low on cpu"))

    def disrupt(self, workload_id: str, *, reason: str = "EvictionByEvictionAPI") -> None:
        """The cluster evicts pods, and their containers end."""
        condition = StatusCondition("DisruptionTarget", "True", reason)
        self._move(workload_id, None, PodStatus("Failed", conditions=(condition,), container_statuses=(_ended(137),)))

    def stop(self, workload_id: str) -> None:
        """Pods that are being deleted end; the API server removes those without finalizers."""
        for pod in self._cluster.live_pods(workload_id):
            if pod.metadata.deletion_timestamp is not None:
                status = pod.status if pod.terminal else PodStatus("Failed", container_statuses=(_ended(137),))
                metadata = msgspec.structs.replace(pod.metadata, deletion_grace_period_seconds=0)
                self._cluster.set_pod(msgspec.structs.replace(pod, metadata=metadata, status=status))

    def lose(self, workload_id: str) -> None:
        """Pods disappear despite their finalizers, as after a restored backup of etcd."""
        for pod in self._cluster.live_pods(workload_id):
            metadata = msgspec.structs.replace(
                pod.metadata, finalizers=(), deletion_timestamp="2026-01-01T00:00:00Z", deletion_grace_period_seconds=0
            )
            self._cluster.set_pod(msgspec.structs.replace(pod, metadata=metadata))

    def _move(self, workload_id: str, index: int | None, status: PodStatus) -> None:
        wanted: Callable[[Pod], bool] = lambda pod: index is None or pod.name.endswith(f"-{index}")  # noqa: E731
        pods = [pod for pod in self._cluster.live_pods(workload_id) if not pod.terminal and wanted(pod)]
        assert pods, "no pod to move"
        for pod in pods:
            self._cluster.set_pod(msgspec.structs.replace(pod, status=status))


def _ended(exit_code: int) -> ContainerStatus:
    reason = "Completed" if exit_code == 0 else "Error"
    return ContainerStatus("main", 0, ContainerState(terminated=Terminated(exit_code, reason)))
