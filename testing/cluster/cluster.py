"""A Kubernetes cluster for tests, demo and bench: a real control plane, simulated nodes, and faults of these nodes.

`testing.cluster.control_plane` creates the control plane; `stages` defines how simulated nodes and pods behave.
"""

from __future__ import annotations

import datetime
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import yaml

from testing.cluster import components, control_plane, stages
from testing.cluster.api_client import JSON, Api, ApiError, in_parallel
from testing.cluster.control_plane import ControlPlane, ExtraArgs, Kind, Request
from testing.cluster.nodes import FAKE, NodeSpec, is_usable, ready_status
from testing.processes.run_directory import RunDir
from testing.waiting import until

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
ENABLED = "niyanta.io/enabled"
"""Label of a namespace in which the operator may create pods."""

_PARTITIONER = "niyanta-e2e-partition"


class CommandError(RuntimeError):
    """kubectl or helm failed; the message has its standard error."""


class Cluster:
    """A cluster. `create` makes one; as a context manager it deletes itself at the end.

    Attributes:
        name: unique per run.
        kind: the kind of its control plane; every kind needs kwok for simulated nodes.
        kubeconfig: file with administrator credentials.
        api: raw requests with those credentials.
    """

    def __init__(self, plane: ControlPlane, request: Request, *, owns_run: bool) -> None:
        self._plane = plane
        self._request = request
        self._owns_run = owns_run
        self.name = request.name
        self.kind: Kind = plane.kind
        self.kubeconfig: Path = plane.kubeconfig

    @classmethod
    def create(
        cls,
        name: str = "niyanta",
        *,
        run: RunDir | None = None,
        shed_load: bool = False,
        fast_node_loss: bool = True,
        extra_args: ExtraArgs | None = None,
        audited_namespace: str = "",
        oldest: bool = False,
        durable: bool = False,
    ) -> Cluster:
        """Creates a cluster; takes 4-10 s with kwokctl.

        Args:
            name: prefix of its name; a unique suffix is added.
            run: the run it belongs to; by default a new one.
            shed_load: let the API server answer 429 under load, as a production one does.
            fast_node_loss: a lost node is noticed in 8 s and its pods are evicted 5 s later. Each node renews its Lease
                every 2 s for this: turn it off with more than a few hundred nodes.
            extra_args: further flags by component, without dashes.
            audited_namespace: log the requests of this namespace's ServiceAccounts (`audit_events`; only with kwokctl).
            oldest: the oldest supported API server, without controllers: no pod runs there.
            durable: etcd syncs its files, as in production.

        Raises:
            ClusterError: it did not come up.
            ToolError: its tools can't be built; the message says what to install.
        """
        owner = run or RunDir.create(name)
        unique = f"{name}-{secrets.token_hex(3)}"
        request = Request(unique, owner, shed_load, fast_node_loss, extra_args, audited_namespace, oldest, durable)
        try:
            plane = control_plane.create(request)
            cluster = cls(plane, request, owns_run=run is None)
            cluster._settle()
        except BaseException:
            if run is None:
                owner.destroy()
            raise
        return cluster

    @classmethod
    def attach(cls, name: str, run: RunDir, kind: Kind, bin_dir: Path | None) -> Cluster:
        """A cluster that another process created in `run`."""
        plane = ControlPlane(kind, run.path / "kubeconfig", bin_dir)
        return cls(plane, Request(name, run), owns_run=False)

    @cached_property
    def api(self) -> Api:
        return Api(self.kubeconfig)

    @property
    def bin_dir(self) -> Path | None:
        """Folder of kubectl and helm; None when they are on PATH."""
        return self._plane.bin_dir

    def audit_events(self) -> list[JSON]:
        """The audit events so far (audit.k8s.io/v1 Event)."""
        return [json.loads(line) for line in self._request.audit_log.read_text().splitlines()]

    def api_server(self) -> psutil.Process:
        """The API server's process, of a control plane that kwokctl started."""
        return components.process_of(self._request.run, self.name, components.API_SERVER)

    def restart_api_server(self, *, timeout: float = 120) -> None:
        """Kills the API server, starts another on the same etcd, and waits until it is ready."""
        components.replace(
            self._request.run,
            self.name,
            components.API_SERVER,
            ready=lambda: self.kubectl("get", "--raw", "/readyz"),
            timeout=timeout,
        )

    def delete(self) -> None:
        """Deletes the cluster, and its run when it created that."""
        control_plane.delete(self._plane, self._request)
        if self._owns_run:
            self._request.run.destroy()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.delete()

    # Commands

    def kubectl(self, *args: str, input: str | None = None, timeout: float = 120) -> str:  # noqa: A002
        """Runs kubectl as administrator; returns its output.

        Raises:
            CommandError: it failed.
        """
        return self._command("kubectl", *args, stdin=input, timeout=timeout)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """`kubectl apply --server-side` of these objects."""
        self.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all(objects))

    def helm(self, *args: str, timeout: float = 300) -> str:
        """Runs helm as administrator, with caches in the run; returns its output."""
        home = self._request.run.sub("helm")
        places = {f"HELM_{what}_HOME": str(home / what.lower()) for what in ("CACHE", "CONFIG", "DATA")}
        return self._command("helm", *args, timeout=timeout, env=places)

    def install_chart(
        self,
        release: str,
        chart: Path | str,
        *,
        namespace: str,
        values: Mapping[str, Any] | None = None,
        hooks: bool = True,
        timeout: int = 120,
    ) -> str:
        """`helm upgrade --install --wait`; creates the namespace. Without `hooks`, Jobs of hooks are skipped."""
        file = self._request.run.sub("helm") / f"{release}-values.yaml"
        file.write_text(yaml.safe_dump(dict(values or {})))
        flags = ["--namespace", namespace, "--create-namespace", "--wait", "--timeout", f"{timeout}s"]
        if not hooks:
            flags.append("--no-hooks")
        return self.helm("upgrade", "--install", release, str(chart), "--values", str(file), *flags)

    def uninstall_chart(self, release: str, *, namespace: str) -> str:
        return self.helm("uninstall", release, "--namespace", namespace, "--wait", "--ignore-not-found")

    # Nodes

    def create_nodes(self, specs: Iterable[NodeSpec], *, wait: bool = True, timeout: float = 120) -> list[str]:
        """Creates simulated nodes a few at a time; with `wait`, returns when all are Ready and free of taints."""
        wanted = list(specs)
        in_parallel(lambda spec: self.api.post("/api/v1/nodes", spec.manifest()), wanted)
        names = [spec.name for spec in wanted]
        if wait:
            self.wait_nodes_usable(names, timeout=timeout)
        return names

    def wait_nodes_usable(self, names: Iterable[str], *, timeout: float = 120) -> None:
        wanted = set(names)
        pause = max(0.2, len(wanted) / 250)  # a list of all nodes loads the server

        def all_usable() -> bool:
            nodes = self.api.items("/api/v1/nodes", resourceVersion="0")
            return wanted <= {node["metadata"]["name"] for node in nodes if is_usable(node)}

        until(all_usable, what=f"{len(wanted)} nodes are Ready", timeout=timeout, interval=pause)

    def delete_nodes(self, names: Iterable[str]) -> None:
        """Deletes nodes and their Leases: a partitioned node's Lease would partition the next node of its name."""

        def delete(name: str) -> None:
            self.api.delete(f"/api/v1/nodes/{name}")
            self.api.delete(f"{LEASES}/{name}")

        in_parallel(delete, names)

    def set_node_ready(self, name: str, ready: bool, *, wait: bool = True) -> None:
        """Makes the node's kubelet report this Ready condition; it still finalises deletions of pods."""
        labels = {stages.NOT_READY_LABEL: None if ready else "true"}
        self.api.patch(f"/api/v1/nodes/{name}", {"metadata": {"labels": labels}})
        if wait:
            self.wait_node(name, "True" if ready else "False")

    def wait_node(self, name: str, status: str, *, timeout: float = 90) -> None:
        """Waits until the node's Ready condition is "True", "False" or "Unknown"."""
        path = f"/api/v1/nodes/{name}"
        until(
            lambda: ready_status(self.api.get(path)) == status,
            what=f"node {name} has Ready={status}",
            timeout=timeout,
            interval=0.2,
        )

    def partition_node(self, name: str, *, wait: bool = True) -> None:
        """Partitions the node from the network: its kubelet reports, starts and finalises nothing. With `wait`, returns
        when the control plane has noticed it (Ready Unknown; about 10 s with `fast_node_loss`).

        Kubernetes stops evictions in a zone (by topology labels) whose nodes are all lost, so an eviction needs a
        healthy node in the zone; with three or more lost nodes, almost half of the zone's nodes must be healthy."""
        self._set_silent(name, True)
        # kwok does not manage a node whose Lease has another holder. This holder never renews it again, so the control
        # plane takes the kubelet for dead.
        lease = {"holderIdentity": _PARTITIONER, "leaseDurationSeconds": 86400, "renewTime": _micro_now()}
        self.api.patch(f"{LEASES}/{name}", {"spec": lease})
        # Pods that were bound before the Lease changed hands.
        self._set_silent(name, True)
        if wait:
            self.wait_node(name, "Unknown")

    def heal_node(self, name: str, *, wait: bool = True) -> None:
        """Ends a partition: the kubelet acts on all changes of its pods since, deletions included."""
        self._set_silent(name, False)
        self.api.patch(f"{LEASES}/{name}", {"spec": {"holderIdentity": None}})
        if wait:
            self.wait_nodes_usable([name])

    def cordon(self, name: str, unschedulable: bool = True) -> None:
        self.api.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": unschedulable}})

    def _set_silent(self, node: str, silent: bool) -> None:
        patch = {"metadata": {"annotations": {stages.PARTITIONED: "true" if silent else None}}}
        self.api.patch(f"/api/v1/nodes/{node}", patch)
        pods = self.api.items("/api/v1/pods", fieldSelector=f"spec.nodeName={node}")
        changed = [pod for pod in pods if silent != (stages.PARTITIONED in pod["metadata"].get("annotations", {}))]
        in_parallel(lambda pod: self._patch_pod(pod, patch), changed)

    # Namespaces and identities

    def create_namespace(self, name: str, *, labels: Mapping[str, str] | None = None, enabled: bool = True) -> None:
        """Creates a namespace; with `enabled`, with the label that lets the operator create pods in it."""
        wanted = {**({ENABLED: "true"} if enabled else {}), **(labels or {})}
        self.api.post("/api/v1/namespaces", {"metadata": {"name": name, "labels": wanted}})
        # Pods are refused until the controllers have made the default ServiceAccount.
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        until(lambda: self.api.find(account), what=f"namespace {name} has its ServiceAccount")

    def delete_namespace(self, name: str, *, wait: bool = True) -> None:
        """Deletes a namespace and its contents, stuck pods and pods with finalizers included."""
        freeing = {
            "metadata": {"finalizers": None, "annotations": {stages.STUCK: None, stages.PARTITIONED: None}},
        }
        path = f"/api/v1/namespaces/{name}"

        def gone() -> bool:
            self.api.delete(path)
            for pod in self.api.items(f"{path}/pods"):
                self._patch_pod(pod, freeing)
                self._delete_pod_now(pod)
            return self.api.find(path) is None

        if wait:
            until(gone, what=f"namespace {name} is gone", timeout=120, interval=0.3, tolerate=True)
        else:
            gone()

    def service_account_kubeconfig(self, namespace: str, name: str, *, hours: int = 24) -> Path:
        """A kubeconfig with the ServiceAccount's token alone, because a client certificate would take precedence."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        answer = self.api.post(path, {"spec": {"expirationSeconds": hours * 3600}})
        mine = yaml.safe_load(self.kubeconfig.read_text())
        user = f"{namespace}-{name}"
        mine["users"] = [{"name": user, "user": {"token": answer["status"]["token"]}}]
        active = next(item for item in mine["contexts"] if item["name"] == mine["current-context"])
        active["context"].update(user=user, namespace=namespace)
        mine["contexts"] = [active]
        mine["clusters"] = [item for item in mine["clusters"] if item["name"] == active["context"]["cluster"]]
        file = self._request.run.path / f"{user}.kubeconfig"
        file.touch(mode=0o600)
        file.write_text(yaml.safe_dump(mine))
        return file

    def _patch_pod(self, pod: JSON, patch: JSON) -> None:
        meta = pod["metadata"]
        try:
            self.api.patch(f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}", patch)
        except ApiError as error:
            if error.status != 404:
                raise

    def _delete_pod_now(self, pod: JSON) -> None:
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        self.api.delete(path, {"gracePeriodSeconds": 0})

    def _settle(self) -> None:
        """Waits until the API server is ready and pods can be created in its first namespace."""
        until(lambda: self.api.get("/readyz"), what="the API server is ready", tolerate=True)
        if self._request.oldest:
            return
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        until(lambda: self.api.find(account), what="the controllers work", tolerate=True)
        if self.kind is not Kind.KWOK and not self.api.items("/api/v1/nodes"):
            raise control_plane.ClusterError("the cluster has no node")

    def _command(
        self, program: str, *args: str, stdin: str | None = None, timeout: float, env: Mapping[str, str] | None = None
    ) -> str:
        folder = self._plane.bin_dir
        path = str(folder / program) if folder is not None and (folder / program).exists() else shutil.which(program)
        if path is None:
            raise CommandError(f"{program} is not installed")
        done = subprocess.run(
            [path, *args],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig), **(env or {})},
        )
        if done.returncode != 0:
            raise CommandError(f"{program} {' '.join(args)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def get(self, *args: str) -> Any:
        """Output of `kubectl get ... -o json`, parsed."""
        return json.loads(self.kubectl("get", *args, "-o", "json"))


def _micro_now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


__all__ = ["FAKE", "Cluster", "CommandError", "Kind", "NodeSpec"]
