"""Control planes of three kinds: an existing one, kind where a Docker engine answers, and kwokctl everywhere else.

Each is a `ControlPlane`: a kubeconfig and a folder of binaries. `testing.cluster.cluster` builds on it.
"""

from __future__ import annotations

import enum
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from testing.cluster import build, stages
from testing.cluster.nodes import FAKE
from testing.processes.free_ports import free_ports
from testing.processes.run_directory import RunDir

ExtraArgs = Mapping[str, Mapping[str, str]]
"""Flags without their dashes, by component (such as kube-apiserver)."""

_ATTEMPTS = 3
_REQUEST_HEADERS = {
    "requestheader-allowed-names": "kwok-admin",
    "requestheader-username-headers": "X-Remote-User",
    "requestheader-group-headers": "X-Remote-Group",
    "requestheader-extra-headers-prefix": "X-Remote-Extra-",
}
_FAST_LOSS_ARGS = {
    "default-not-ready-toleration-seconds": "5",
    "default-unreachable-toleration-seconds": "5",
}

_PORT_OPTIONS = (
    "kubeApiserverPort",
    "etcdPort",
    "etcdPeerPort",
    "kubeControllerManagerPort",
    "kubeSchedulerPort",
    "kwokControllerPort",
)


class Kind(enum.Enum):
    """Kind of a control plane: existing, made by kind, or made by kwokctl."""

    EXISTING = "existing"
    KIND = "kind"
    KWOK = "kwok"


class ClusterError(RuntimeError):
    """The control plane could not be created; the message has the output of the failed command."""


@dataclass(frozen=True)
class ControlPlane:
    """A running control plane. `bin_dir` is None when kubectl and helm are on PATH."""

    kind: Kind
    kubeconfig: Path
    bin_dir: Path | None


@dataclass(frozen=True)
class Request:
    """Settings of a control plane to create.

    Attributes:
        shed_load: keep API priority and fairness and the inflight limits, so that the server answers 429 under load.
        fast_node_loss: notice a lost node in 8 s instead of minutes, and evict after 5 s. Each node renews its Lease
            every 2 s for this: turn it off with more than a few hundred nodes.
        audited_namespace: the API server logs the requests of this namespace's ServiceAccounts to `audit_log` (only a
            control plane of kwokctl does); empty: none.
        oldest: the oldest supported API server, with etcd and without controllers (only made by kwokctl).
        durable: etcd syncs its files, as in production (made by kwokctl; elsewhere it does in any case).
    """

    name: str
    run: RunDir
    shed_load: bool = False
    fast_node_loss: bool = True
    extra_args: ExtraArgs | None = None
    audited_namespace: str = ""
    oldest: bool = False
    durable: bool = False

    @property
    def audit_log(self) -> Path:
        """File with one audit event in each line."""
        return self.run.path / "audit.log"


def which_kind() -> Kind:
    if os.environ.get("NIYANTA_E2E_KUBECONFIG"):
        return Kind.EXISTING
    return Kind.KIND if build.docker_answers() else Kind.KWOK


def create(request: Request) -> ControlPlane:
    """Creates a control plane of the kind that this machine supports."""
    makers = {Kind.EXISTING: _use_existing, Kind.KIND: _create_kind, Kind.KWOK: _create_kwok}
    return makers[Kind.KWOK if request.oldest else which_kind()](request)


def delete(plane: ControlPlane, request: Request) -> None:
    """Deletes it; ends the processes of kwokctl by the records of the run."""
    if plane.kind is Kind.KIND:
        kind = _program("kind", plane.bin_dir)
        subprocess.run([kind, "delete", "cluster", "--name", request.name], capture_output=True, check=False)
    for label, process in request.run.processes().items():
        if label.startswith("cluster-"):
            process.end(grace=0)
            request.run.forget(label)
    shutil.rmtree(request.run.path / "kwok", ignore_errors=True)


def _use_existing(request: Request) -> ControlPlane:
    kubeconfig = Path(os.environ["NIYANTA_E2E_KUBECONFIG"]).expanduser().resolve()
    if not kubeconfig.exists():
        raise ClusterError(f"NIYANTA_E2E_KUBECONFIG: there is no file {kubeconfig}")
    own = request.run.path / "kubeconfig"
    own.touch(mode=0o600)
    own.write_bytes(kubeconfig.read_bytes())
    if os.environ.get("NIYANTA_E2E_KWOK"):
        _start_kwok(request, own)
    return ControlPlane(Kind.EXISTING, own, None)


def _create_kind(request: Request) -> ControlPlane:
    bin_dir = None
    if missing := [name for name in build.WITH_DOCKER if shutil.which(name) is None]:
        bin_dir = build.ensure_tools(missing)
    config = request.run.path / "kind.yaml"
    config.write_text(yaml.safe_dump(kind_config(request)))
    kubeconfig = request.run.path / "kubeconfig"
    command = [_program("kind", bin_dir), "create", "cluster", "--name", request.name, "--config", str(config)]
    _run([*command, "--kubeconfig", str(kubeconfig), "--wait", "180s"])
    _start_kwok(request, kubeconfig)
    return ControlPlane(Kind.KIND, kubeconfig, bin_dir)


def kind_config(request: Request) -> dict[str, Any]:
    """Configuration of kind with the settings of a kwokctl cluster."""
    extra = request.extra_args or {}
    loss = request.fast_node_loss
    server = {**(_FAST_LOSS_ARGS if loss else {}), **extra.get("kube-apiserver", {})}
    manager = {
        "horizontal-pod-autoscaler-sync-period": "5s",
        **({"node-monitor-grace-period": "8s"} if loss else {}),
        **extra.get("kube-controller-manager", {}),
    }
    patch = {
        "kind": "ClusterConfiguration",
        "apiServer": {"extraArgs": [{"name": key, "value": value} for key, value in server.items()]},
        "controllerManager": {"extraArgs": [{"name": key, "value": value} for key, value in manager.items()]},
    }
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "nodes": [{"role": "control-plane"}],
        "kubeadmConfigPatches": [yaml.safe_dump(patch)],
    }


def _start_kwok(request: Request, kubeconfig: Path) -> None:
    """Starts a local kwok that simulates the annotated nodes of a cluster that kwokctl did not create."""
    program = shutil.which("kwok") or str(build.ensure_tools(("kwok",)) / "kwok")
    config = request.run.path / "kwok.yaml"
    config.write_text(stages.render())
    lease = "8" if request.fast_node_loss else "40"
    with (request.run.path / "kwok.log").open("ab") as log:
        process = subprocess.Popen(
            [
                program,
                f"--kubeconfig={kubeconfig}",
                f"--config={config}",
                f"--manage-nodes-with-annotation-selector={FAKE}=fake",
                f"--node-lease-duration-seconds={lease}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "TZ": "UTC"},
        )
    request.run.adopt("cluster-kwok", process.pid)


def _create_kwok(request: Request) -> ControlPlane:
    bin_dir = build.ensure_tools((*build.CONTROL_PLANE, *([build.OLDEST_API_SERVER] if request.oldest else [])))
    kubeconfig = request.run.path / "kubeconfig"
    config = request.run.path / "kwokctl.yaml"
    (request.run.path / "kwok").mkdir(mode=0o700, exist_ok=True)  # holds private keys
    for attempt in range(1, _ATTEMPTS + 1):
        config.write_text(kwokctl_config(request, bin_dir))
        command: list[str | Path] = [
            bin_dir / "kwokctl",
            "create",
            "cluster",
            "--name",
            request.name,
            "--config",
            config,
        ]
        try:
            _run([*command, "--kubeconfig", kubeconfig, "--wait", "120s"], env=_kwokctl_env(request, bin_dir))
        except ClusterError:
            # Another process may have taken one of the ports, which were free before.
            _adopt_kwok(request)
            if attempt == _ATTEMPTS:
                raise
            delete(ControlPlane(Kind.KWOK, kubeconfig, bin_dir), request)
            (request.run.path / "kwok").mkdir(mode=0o700, exist_ok=True)
        else:
            break
    _adopt_kwok(request)
    kubeconfig.chmod(0o600)
    return ControlPlane(Kind.KWOK, kubeconfig, bin_dir)


def kwokctl_config(request: Request, bin_dir: Path) -> str:
    """The complete configuration of kwokctl with its Stages, as YAML documents.

    Extra arguments are here and not in --extra-args, because kwokctl 0.8.0 panics when those name a second component
    more than once.
    """
    extra = request.extra_args or {}
    authority = request.run.path / "kwok" / "clusters" / request.name / "pki" / "ca.crt"
    server = {
        "requestheader-client-ca-file": str(authority),
        **_REQUEST_HEADERS,
        **(_FAST_LOSS_ARGS if request.fast_node_loss else {}),
        **(_audit_args(request) if request.audited_namespace else {}),
        **extra.get("kube-apiserver", {}),
    }
    # Nothing restarts a component that ends itself because it lost its lease while the API server hung.
    alone = {"leader-elect": "false"}
    manager = {"horizontal-pod-autoscaler-sync-period": "5s", **alone, **extra.get("kube-controller-manager", {})}
    scheduler = {**alone, **extra.get("kube-scheduler", {})}
    if not request.durable:
        extra = {**extra, "etcd": {"unsafe-no-fsync": "true", **extra.get("etcd", {})}}
    patches = {**extra, "kube-apiserver": server, "kube-controller-manager": manager, "kube-scheduler": scheduler}
    options: dict[str, Any] = {
        # By default kwokctl counts down from 32767, so that two simultaneous runs choose the same ports.
        **dict(zip(_PORT_OPTIONS, free_ports(len(_PORT_OPTIONS)), strict=True)),
        "runtime": "binary",
        "securePort": True,
        "bindAddress": "127.0.0.1",
        "kubeVersion": build.OLDEST_KUBERNETES_VERSION if request.oldest else build.KUBERNETES_VERSION,
        "disableKubeControllerManager": request.oldest,
        "disableKubeScheduler": request.oldest,
        "disableQPSLimits": not request.shed_load,
        "heartbeatFactor": 0.2 if request.fast_node_loss else 1.0,
        "etcdBinary": str(bin_dir / "etcd"),
        "kubeApiserverBinary": str(bin_dir / (build.OLDEST_API_SERVER if request.oldest else "kube-apiserver")),
        "kubeControllerManagerBinary": str(bin_dir / "kube-controller-manager"),
        "kubeSchedulerBinary": str(bin_dir / "kube-scheduler"),
        "kubectlBinary": str(bin_dir / "kubectl"),
        "kwokControllerBinary": str(bin_dir / "kwok"),
    }
    head = {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokctlConfiguration",
        "metadata": {"name": request.name},
        "options": options,
        "componentsPatches": [
            {"name": name, "extraArgs": [{"key": key, "value": value} for key, value in arguments.items()]}
            for name, arguments in patches.items()
        ],
    }
    return yaml.safe_dump(head, sort_keys=False, width=1000) + "---\n" + stages.render()


def _audit_args(request: Request) -> dict[str, str]:
    """Flags of the audit log, and its policy in a file."""
    group = f"system:serviceaccounts:{request.audited_namespace}"
    rules = [{"level": "Metadata", "userGroups": [group], "omitStages": ["RequestReceived"]}, {"level": "None"}]
    policy = request.run.path / "audit-policy.yaml"
    policy.write_text(yaml.safe_dump({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
    return {"audit-policy-file": str(policy), "audit-log-path": str(request.audit_log), "audit-log-mode": "blocking"}


def _kwokctl_env(request: Request, bin_dir: Path) -> dict[str, str]:
    # kwokctl downloads kubectl when it is not on PATH. The Stages compute with times in UTC.
    path = f"{bin_dir}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "KWOK_WORKDIR": str(request.run.path / "kwok"), "TZ": "UTC"}


def _adopt_kwok(request: Request) -> None:
    """Records the processes that kwokctl started, from the id files in its working directory."""
    for note in (request.run.path / "kwok" / "clusters" / request.name / "pids").glob("*.pid"):
        try:
            request.run.adopt(f"cluster-{note.stem}", int(note.read_text()))
        except (OSError, ValueError, psutil.NoSuchProcess):
            continue


def _program(name: str, bin_dir: Path | None) -> str:
    if bin_dir is not None and (bin_dir / name).exists():
        return str(bin_dir / name)
    return name


def _run(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env=None if env is None else dict(env),
        timeout=600,
    )
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise ClusterError(f"{' '.join(map(str, command[:3]))} failed ({done.returncode}):\n{tail}")
