"""Rules for pod templates submitted by REST: the restricted Pod Security standard (Kubernetes 1.37). The REST door
checks them, and the leader again before it queues a row. Annotations by which other controllers give a pod an identity
or a secret are refused too, because the author has no account in the cluster that would be allowed to use these.

The rules are data: `RULES` has, for each control, the paths it reads and the values it allows. Fields that the models
don't validate can hold any JSON, so everything that isn't expressly allowed is a violation. One point is stricter than
the standard: `os.name: windows` gives no exemption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from niyanta.resources.template_fields import POD, Manifest, Violation, as_list, as_map, containers_of, walk

REFUSED_ANNOTATIONS = (
    "azure.workload.identity/",
    "container.apparmor.security.beta.kubernetes.io/",
    "eks.amazonaws.com/",
    "iam.amazonaws.com/",
    "iam.gke.io/",
    "sidecar.istio.io/",
    "vault.hashicorp.com/",
)
"""Prefixes of annotations that node agents and webhooks act on: cloud identities, secrets, sidecars, and AppArmor's
old form, which `appArmorProfile` replaces."""


@dataclass(frozen=True, slots=True)
class PodSecurityRule:
    """`holds(value)` for the value at each of `paths` (None where it is absent).

    Paths start at the pod's spec, or with `*` at each container and init container; `[]` iterates over a list.
    """

    control: str
    paths: tuple[str, ...]
    holds: Callable[[Any], bool]
    message: str


def _only(*allowed: Any) -> Callable[[Any], bool]:
    """Accepts these values and None (absent). Types must match: 1 is not True."""
    return lambda value: value is None or any(value == item and type(value) is type(item) for item in allowed)


def _exactly(*allowed: Any) -> Callable[[Any], bool]:
    """Accepts these values; None (absent) only if it is one of them."""
    return lambda value: any(value == item and type(value) is type(item) for item in allowed)


def _drops_all(value: Any) -> bool:
    return isinstance(value, list) and "ALL" in value


def _adds_only_net_bind(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(item == "NET_BIND_SERVICE" for item in value))


def _not_root(value: Any) -> bool:
    return value is None or (type(value) is int and value != 0)


SAFE_SYSCTLS = (
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_notsent_lowat",
)
VOLUMES = frozenset(
    (
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    )
)
_HANDLERS = ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle.postStart", "lifecycle.preStop")

RULES: tuple[PodSecurityRule, ...] = (
    # Baseline.
    PodSecurityRule(
        "HostProcess",
        ("securityContext.windowsOptions.hostProcess", "*.securityContext.windowsOptions.hostProcess"),
        _only(False),
        "must be false",
    ),
    PodSecurityRule("Host Namespaces", ("hostNetwork", "hostPID", "hostIPC"), _only(False), "must be false"),
    PodSecurityRule("Privileged Containers", ("*.securityContext.privileged",), _only(False), "must be false"),
    PodSecurityRule("Host Ports", ("*.ports[].hostPort",), _only(0), "must not be set"),
    PodSecurityRule(
        "Host Probes / Lifecycle Hooks",
        tuple(f"*.{handler}.{kind}.host" for handler in _HANDLERS for kind in ("httpGet", "tcpSocket")),
        _only(""),
        "must not be set",
    ),
    PodSecurityRule(
        "AppArmor",
        ("securityContext.appArmorProfile.type", "*.securityContext.appArmorProfile.type"),
        _only("RuntimeDefault", "Localhost"),
        "must be RuntimeDefault or Localhost",
    ),
    PodSecurityRule(
        "SELinux",
        ("securityContext.seLinuxOptions.type", "*.securityContext.seLinuxOptions.type"),
        _only("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"),
        "must be container_t, container_init_t, container_kvm_t or container_engine_t",
    ),
    PodSecurityRule(
        "SELinux",
        tuple(f"{where}securityContext.seLinuxOptions.{part}" for where in ("", "*.") for part in ("user", "role")),
        _only(""),
        "must not be set",
    ),
    PodSecurityRule("/proc Mount Type", ("*.securityContext.procMount",), _only("Default"), "must be Default"),
    PodSecurityRule(
        "Sysctls",
        ("securityContext.sysctls[].name",),
        _exactly(*SAFE_SYSCTLS),
        "is not one of the safe sysctls",
    ),
    # Restricted.
    PodSecurityRule(
        "Privilege Escalation",
        ("*.securityContext.allowPrivilegeEscalation",),
        _exactly(False),
        "must be set to false",
    ),
    PodSecurityRule(
        "Running as Non-root user",
        ("securityContext.runAsUser", "*.securityContext.runAsUser"),
        _not_root,
        "must not be 0",
    ),
    PodSecurityRule("Capabilities", ("*.securityContext.capabilities.drop",), _drops_all, 'must include "ALL"'),
    PodSecurityRule(
        "Capabilities",
        ("*.securityContext.capabilities.add",),
        _adds_only_net_bind,
        "may contain only NET_BIND_SERVICE",
    ),
)
"""Controls of single values. Volume types and fields that a container inherits from the pod are checked below."""


def check_template(template: Manifest) -> list[Violation]:
    """Violations of the restricted standard in a pod template."""
    pod = as_map(template.get("spec"))
    found = [
        Violation(f"{POD}.{path}", f"{rule.message} ({rule.control})")
        for rule in RULES
        for pattern in rule.paths
        for path, value in walk(pod, pattern)
        if not rule.holds(value)
    ]
    found += _volumes(pod)
    found += _inherited(pod)
    found += _annotations(as_map(template.get("metadata")))
    return found


def _volumes(pod: Manifest) -> Iterator[Violation]:
    for index, volume in enumerate(as_list(pod.get("volumes"))):
        for kind in sorted(as_map(volume).keys() - VOLUMES - {"name"}):
            if volume[kind] is not None:
                message = "this type of volume is not allowed (Volume Types)"
                yield Violation(f"{POD}.volumes[{index}].{kind}", message)


def _inherited(pod: Manifest) -> Iterator[Violation]:
    """Violations of runAsNonRoot and seccompProfile, where a container's own value overrides the pod's."""
    of_pod = as_map(pod.get("securityContext"))
    profile = as_map(of_pod.get("seccompProfile")).get("type")
    if profile is not None and profile not in ("RuntimeDefault", "Localhost"):
        yield Violation(f"{POD}.securityContext.seccompProfile.type", "must be RuntimeDefault or Localhost (Seccomp)")
    if of_pod.get("runAsNonRoot") not in (None, True):
        yield Violation(f"{POD}.securityContext.runAsNonRoot", "must be true (Running as Non-root)")
    for path, container in containers_of(pod):
        own = as_map(container.get("securityContext"))
        non_root = own.get("runAsNonRoot", None)
        if (of_pod.get("runAsNonRoot") if non_root is None else non_root) is not True:
            message = "must be true, here or for the pod (Running as Non-root)"
            yield Violation(f"{POD}.{path}.securityContext.runAsNonRoot", message)
        kind = as_map(own.get("seccompProfile")).get("type")
        if (profile if kind is None else kind) not in ("RuntimeDefault", "Localhost"):
            message = "must be RuntimeDefault or Localhost, here or for the pod (Seccomp)"
            yield Violation(f"{POD}.{path}.securityContext.seccompProfile.type", message)


def _annotations(metadata: Manifest) -> Iterator[Violation]:
    for key in sorted(as_map(metadata.get("annotations"))):
        if prefix := next((prefix for prefix in REFUSED_ANNOTATIONS if key.startswith(prefix)), None):
            field = f"spec.template.metadata.annotations[{key}]"
            yield Violation(field, f"annotations under {prefix} are not allowed for submissions by REST")
