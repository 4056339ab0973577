"""Support for tests of workloads: manifests, waits, queries of Postgres, and a recorder of all pods.

Every Workload made here requires the pool of its test, so that it is placed on that test's nodes alone.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.rows import dict_row

from testing.cluster import stages
from testing.cluster.api_client import JSON, ApiError, in_parallel
from testing.cluster.cluster import Cluster
from testing.waiting import until

GROUP = "/apis/niyanta.io/v1alpha1"
WORKLOAD_UID = "niyanta.io/workload-uid"
ATTEMPT = "niyanta.io/attempt"
INDEX = "niyanta.io/index"
EPOCH = "niyanta.io/epoch"
MARKER = "recorder-end"
TERMINAL = ("Succeeded", "Failed", "Cancelled")

_LIVES = {
    "run_for": stages.RUN_FOR,
    "exit_code": stages.EXIT,
    "start_after": stages.START_AFTER,
    "never_start": stages.NEVER_START,
    "reject": stages.REJECT,
    "reject_on": stages.REJECT_ON,
    "stop_after": stages.STOP_AFTER,
    "stuck": stages.STUCK,
}


def node_names(status: JSON) -> list[str]:
    """Node of each pod, by index, from a Workload's status or from the REST door."""
    return [entry["nodeName"] for entry in status.get("assignments") or []]


class Workloads:
    """The Workloads of one test's namespace; `pool` is the WorkerPool that all of them require."""

    def __init__(self, cluster: Cluster, database: OperatorDatabase, namespace: str, pool: str) -> None:
        self.cluster = cluster
        self.database = database
        self.namespace = namespace
        self.pool = pool
        self._path = f"{GROUP}/namespaces/{namespace}/workloads"

    # Making

    def manifest(
        self,
        name: str,
        *,
        cpu: str = "100m",
        memory: str = "64Mi",
        hard: Mapping[str, Any] | None = None,
        pod: Mapping[str, Any] | None = None,
        life: Mapping[str, str] | None = None,
        **spec: Any,
    ) -> JSON:
        """A Workload of one container.

        Args:
            name: of the object.
            cpu, memory: requests of the container; "" for none.
            hard: hard terms beside the pool.
            pod: further fields of the template's spec.
            life: behaviour of the simulated pods, by the keys of `_LIVES`: {"run_for": "1s", "exit_code": "3"}.
            spec: further fields of the Workload's spec; `affinity` is merged.
        """
        requests = {key: value for key, value in (("cpu", cpu), ("memory", memory)) if value}
        container: JSON = {"name": "main", "image": "registry.invalid/none", "resources": {"requests": requests}}
        affinity = {**spec.pop("affinity", {}), "hard": {"pools": [self.pool], **(hard or {})}}
        notes = {_LIVES[key]: value for key, value in (life or {}).items()}
        template = {"metadata": {"annotations": notes}, "spec": {"containers": [container], **(pod or {})}}
        return {
            "apiVersion": "niyanta.io/v1alpha1",
            "kind": "Workload",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {**copy.deepcopy(spec), "affinity": affinity, "template": template},
        }

    def apply(self, name: str, **fields: Any) -> str:
        """`kubectl apply` of `manifest(name, **fields)`; returns the object's UID."""
        return self.apply_all(self.manifest(name, **fields))[0]

    def apply_all(self, *manifests: JSON) -> list[str]:
        """`kubectl apply` of many at once; returns their UIDs."""
        self.cluster.apply(*manifests)
        return [self.uid(manifest["metadata"]["name"]) for manifest in manifests]

    def create(self, manifests: Iterable[JSON]) -> list[str]:
        """Creates many by the API, a few at a time, which is quicker than kubectl; returns their UIDs."""
        return in_parallel(lambda body: str(self.cluster.api.post(self._path, body)["metadata"]["uid"]), manifests)

    def edit(self, name: str, **spec: Any) -> None:
        """Changes fields of the spec."""
        self.cluster.api.patch(f"{self._path}/{name}", {"spec": spec})

    def delete(self, name: str) -> None:
        """`kubectl delete` without waiting."""
        self.cluster.kubectl("delete", "workloads.niyanta.io", name, "-n", self.namespace, "--wait=false")

    # Reading

    def find(self, name: str) -> JSON | None:
        return self.cluster.api.find(f"{self._path}/{name}")

    def all(self) -> list[JSON]:
        return self.cluster.api.items(self._path)

    def uid(self, name: str) -> str:
        return str(self.cluster.api.get(f"{self._path}/{name}")["metadata"]["uid"])

    def status(self, name: str) -> JSON:
        """Its status; empty before the first write."""
        found = self.find(name)
        status: JSON = (found or {}).get("status") or {}
        return status

    def pods(self, uid: str | None = None) -> list[JSON]:
        """Pods of one workload, or of all workloads of the namespace."""
        query = {"labelSelector": f"{WORKLOAD_UID}={uid}"} if uid else {}
        return self.cluster.api.items(f"/api/v1/namespaces/{self.namespace}/pods", **query)

    def live_pods(self, uid: str | None = None) -> list[JSON]:
        """Pods whose containers may still run."""
        return [pod for pod in self.pods(uid) if pod["status"].get("phase") not in ("Succeeded", "Failed")]

    def events(self, uid: str) -> list[JSON]:
        """Kubernetes Events of a Workload."""
        found = self.cluster.api.items(f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events")
        return [event for event in found if event.get("regarding", {}).get("uid") == uid]

    # Waiting

    def wait(self, name: str, phase: str, *, timeout: float = 60, **fields: Any) -> JSON:
        """Waits for a phase, and for other fields of the status; returns the status."""

        def reached() -> JSON | None:
            status = self.status(name)
            if status.get("phase") in TERMINAL and phase not in TERMINAL:
                raise AssertionError(f"{name} can no longer be {phase}: {status}")
            same = status.get("phase") == phase and all(status.get(key) == value for key, value in fields.items())
            return status if same else None

        try:
            return until(reached, what=f"{name} is {phase} {fields or ''}", timeout=timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; status {self.status(name)}") from None

    def wait_message(self, name: str, reason: str, words: str = "", *, timeout: float = 60) -> JSON:
        """Waits until the status has `reason`, and `words` in its message; returns the status."""

        def reached() -> JSON | None:
            status = self.status(name)
            same = status.get("reason") == reason and words in status.get("message", "")
            return status if same else None

        try:
            return until(reached, what=f"{name} has reason {reason} and message {words!r}", timeout=timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; status {self.status(name)}") from None

    def wait_event(self, uid: str, reason: str, *, timeout: float = 60) -> JSON:
        """Waits for a Kubernetes Event of the Workload with this reason; returns it."""

        def found() -> JSON | None:
            return next((event for event in self.events(uid) if event["reason"] == reason), None)

        return until(found, what=f"an Event {reason}", timeout=timeout, interval=0.3)

    def wait_no_pods(self, uid: str, *, timeout: float = 60) -> None:
        """Waits until the workload has no pod whose containers may run."""
        until(lambda: not self.live_pods(uid), what=f"no pod of {uid} runs", timeout=timeout)


class OperatorDatabase:
    """The operator's tables in Postgres, read without the operator's code."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def query(self, text: str, **params: Any) -> list[dict[str, Any]]:
        """Rows of a statement with %(name)s parameters, as dicts."""
        with psycopg.connect(self._dsn, autocommit=True, row_factory=dict_row) as connection:
            return connection.execute(text.encode(), params).fetchall()

    def row(self, uid: str) -> dict[str, Any] | None:
        """State of one workload; None before the operator has stored it."""
        found = self.query("SELECT * FROM workload_state WHERE id = %(id)s", id=uid)
        return found[0] if found else None

    def wait_status(self, uid: str, status: str, *, timeout: float = 60) -> dict[str, Any]:
        """Waits until the row has this status (PENDING, ...); returns the row."""

        def reached() -> dict[str, Any] | None:
            row = self.row(uid)
            return row if row is not None and row["status"] == status else None

        return until(reached, what=f"row {uid} is {status}", timeout=timeout)

    def count(self, uids: Iterable[str], status: str) -> int:
        """Number of these rows with the status."""
        text = "SELECT count(*) AS n FROM workload_state WHERE id = ANY(%(ids)s::uuid[]) AND status = %(status)s"
        return int(self.query(text, ids=list(uids), status=status)[0]["n"])

    def events(self, uid: str) -> list[dict[str, Any]]:
        """Audit events of one workload, oldest first."""
        return self.query("SELECT * FROM workload_events WHERE workload_id = %(id)s ORDER BY at, id", id=uid)

    def attempts(self, uid: str) -> list[dict[str, Any]]:
        return self.query("SELECT * FROM attempts WHERE workload_id = %(id)s ORDER BY attempt", id=uid)

    def leader(self) -> dict[str, Any]:
        return self.query("SELECT holder, epoch, expires_at > clock_timestamp() AS valid FROM leadership")[0]


class PodRecorder:
    """Watches the pods of a namespace in a thread, and records which of them were Running.

    It reads watch events in the order of the API server, so that it finds every overlap of two running pods. Use it as
    a context manager around the actions to record. `close` raises when the watch broke: the record has gaps then.
    """

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._api = cluster.api
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._broken = ""
        self._ended = False
        self._running: dict[tuple[str, str], set[str]] = {}
        self._labels: dict[str, tuple[str, str, str]] = {}
        self.overlaps: list[str] = []
        """A line for each time that two pods of the same index of a workload were Running."""
        self.ever_ran: dict[tuple[str, str, str], set[str]] = {}
        """(workload UID, index, attempt) -> UIDs of pods that were Running."""
        self.created: list[JSON] = []
        """Metadata of every pod in its first event."""
        listed = self._api.get(self._path)
        for pod in listed.get("items") or []:
            self._see("ADDED", pod)
        self._version = listed["metadata"]["resourceVersion"]
        self._thread = threading.Thread(target=self._follow, name="recorder", daemon=True)
        self._thread.start()

    def __enter__(self) -> PodRecorder:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            with suppress(Exception):
                self.close()
        else:
            self.close()
            assert not self.overlaps, f"ran twice at once: {self.overlaps[:5]} ({len(self.overlaps)} in all)"

    def close(self) -> None:
        """Ends the watch after every event until now: it creates a marker pod and waits for its event.

        Raises:
            AssertionError: the watch broke before, or is late.
        """
        if self._thread.is_alive():
            container = {"name": "main", "image": "registry.invalid/none"}
            marker = {"metadata": {"name": MARKER}, "spec": {"schedulerName": "none", "containers": [container]}}
            self._api.post(self._path, marker)
            self._thread.join(60)
            self._api.delete(f"{self._path}/{MARKER}")
        if self._thread.is_alive():
            self._broken = self._broken or "it is more than 60 s late"
        assert not self._broken, f"the recorder's watch broke: {self._broken}"

    def _follow(self) -> None:
        try:
            while not self._ended and not self._broken:
                self._watch()
        except Exception as error:  # close reports it
            self._broken = f"{type(error).__name__}: {error}"

    def _watch(self) -> None:
        """One watch. The server ends watches that read too slowly; the next one resumes at the same version."""
        query = f"watch=1&allowWatchBookmarks=true&resourceVersion={self._version}&timeoutSeconds=600"
        buffer = b""
        for data in self._api.stream(f"{self._path}?{query}"):
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for event in (json.loads(line) for line in lines if line.strip()):
                if event["type"] == "ERROR":
                    self._broken = str(event["object"])
                    return
                meta = event["object"]["metadata"]
                self._version = meta["resourceVersion"]
                if meta.get("name") == MARKER:
                    self._ended = True
                    return
                if event["type"] != "BOOKMARK":
                    self._see(event["type"], event["object"])

    def _see(self, kind: str, pod: JSON) -> None:
        meta = pod["metadata"]
        labels = meta.get("labels", {})
        if WORKLOAD_UID not in labels:
            return
        owner, index, uid = labels[WORKLOAD_UID], labels[INDEX], meta["uid"]
        if uid not in self._labels:
            self._labels[uid] = (owner, index, labels[ATTEMPT])
            self.created.append(meta)
        now = self._running.setdefault((owner, index), set())
        if kind == "DELETED" or pod["status"].get("phase") != "Running":
            now.discard(uid)
            return
        now.add(uid)
        self.ever_ran.setdefault((owner, index, labels[ATTEMPT]), set()).add(uid)
        if len(now) > 1:
            self.overlaps.append(f"{meta['namespace']}/{meta['name']} beside {sorted(now - {uid})}")

    def assert_one_pod_each(self, uids: Iterable[str]) -> None:
        """Asserts that each of these workloads ran, and that one pod only ran for each of its (index, attempt)."""
        ran = {owner for owner, _, _ in self.ever_ran}
        missing = set(uids) - ran
        assert not missing, f"{len(missing)} workloads never ran"
        twice = {key: pods for key, pods in self.ever_ran.items() if len(pods) > 1}
        assert not twice, f"several pods of one attempt ran: {twice}"


def pool_manifest(name: str, namespace: str, labels: Mapping[str, str], **spec: Any) -> JSON:
    """A WorkerPool of the nodes with these labels."""
    return {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"nodeSelector": {"matchLabels": dict(labels)}, **spec},
    }


def customer_manifest(name: str, *namespaces: str, **spec: Any) -> JSON:
    """A Customer that may use these namespaces."""
    return {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "Customer",
        "metadata": {"name": name},
        "spec": {"tier": "Standard", "namespaces": list(namespaces), **spec},
    }


def metric(text: str, name: str, **labels: str) -> float:
    """Sum of the samples of a metric with these labels in the text of /metrics; 0 without a sample."""
    total = 0.0
    for line in text.splitlines():
        head, _, value = line.rpartition(" ")
        found, _, rest = head.partition("{")
        if found == name and all(f'{key}="{wanted}"' in rest for key, wanted in labels.items()):
            total += float(value)
    return total


__all__ = ["ApiError", "OperatorDatabase", "PodRecorder", "Workloads", "customer_manifest", "metric", "pool_manifest"]
