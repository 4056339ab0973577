"""The restricted Pod Security standard as a table: values that each rule allows and refuses, in each place."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from niyanta.resources.pod_security import REFUSED_ANNOTATIONS, check_template
from tests.server.make import SAFE

pytestmark = pytest.mark.unit

NOTHING = object()


def template(**changes: Any) -> dict[str, Any]:
    """A valid template with changes: path below spec -> value. The prefix `c/` is the container, `i/` the init
    container, `m/` the metadata; NOTHING removes the field."""
    found: dict[str, Any] = {
        "metadata": {},
        "spec": {
            "containers": [{"name": "c", "image": "x", "securityContext": copy.deepcopy(SAFE)}],
            "initContainers": [{"name": "i", "image": "x", "securityContext": copy.deepcopy(SAFE)}],
        },
    }
    spec = found["spec"]
    roots = {"c": spec["containers"][0], "i": spec["initContainers"][0], "m": found["metadata"]}
    for path, value in changes.items():
        first, *rest = path.split("/")
        place, steps = (roots[first], rest) if first in roots else (spec, [first, *rest])
        for step in steps[:-1]:
            place = place.setdefault(step, {})
        if value is NOTHING:
            place.pop(steps[-1], None)
        else:
            place[steps[-1]] = value
    return found


def test_a_template_that_meets_the_standard_passes() -> None:
    assert check_template(template()) == []


SC = "securityContext"
GOOD_VOLUMES = ("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "projected", "secret")
OTHER_VOLUMES = (
    *("hostPath", "nfs", "iscsi", "gcePersistentDisk", "awsElasticBlockStore", "gitRepo", "glusterfs", "rbd"),
    *("flexVolume", "cinder", "cephfs", "flocker", "fc", "azureFile", "vsphereVolume", "quobyte", "azureDisk"),
    *("portworxVolume", "scaleIO", "storageos", "photonPersistentDisk", "somethingNew"),
)
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    # HostProcess
    ("windows host process of the pod", {f"{SC}/windowsOptions": {"hostProcess": True}}, "hostProcess"),
    ("windows host process", {f"c/{SC}/windowsOptions": {"hostProcess": True}}, "containers[0]"),
    ("windows host process of init", {f"i/{SC}/windowsOptions": {"hostProcess": True}}, "initContainers[0]"),
    # Host namespaces
    ("host network", {"hostNetwork": True}, "hostNetwork"),
    ("host pid", {"hostPID": True}, "hostPID"),
    ("host ipc", {"hostIPC": True}, "hostIPC"),
    # Privileged
    ("privileged", {f"c/{SC}/privileged": True}, "containers[0].securityContext.privileged"),
    ("privileged as text", {f"c/{SC}/privileged": "true"}, "privileged"),
    ("privileged init", {f"i/{SC}/privileged": True}, "initContainers[0].securityContext.privileged"),
    # Capabilities
    ("no drop", {f"c/{SC}/capabilities": NOTHING}, "capabilities.drop"),
    ("drop of some", {f"c/{SC}/capabilities": {"drop": ["NET_RAW"]}}, "capabilities.drop"),
    ("drop as text", {f"c/{SC}/capabilities": {"drop": "ALL"}}, "capabilities.drop"),
    ("init without drop", {f"i/{SC}/capabilities": NOTHING}, "initContainers[0].securityContext.capabilities.drop"),
    ("added capability", {f"c/{SC}/capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}, "capabilities.add"),
    ("added to init", {f"i/{SC}/capabilities": {"drop": ["ALL"], "add": ["CHOWN"]}}, "initContainers[0]"),
    # Volumes
    *((f"volume {kind}", {"volumes": [{"name": "v", kind: {}}]}, f"volumes[0].{kind}") for kind in OTHER_VOLUMES),
    ("a second volume", {"volumes": [{"name": "a"}, {"name": "b", "hostPath": {"path": "/"}}]}, "volumes[1].hostPath"),
    # Host ports, probes and hooks
    ("host port", {"c/ports": [{"containerPort": 80}, {"containerPort": 81, "hostPort": 81}]}, "ports[1].hostPort"),
    ("host port of init", {"i/ports": [{"containerPort": 80, "hostPort": 80}]}, "initContainers[0].ports[0].hostPort"),
    (
        "probe of a host",
        {"c/livenessProbe": {"httpGet": {"host": "10.1", "port": 1}}},
        "livenessProbe.httpGet.host",
    ),
    ("tcp probe", {"c/readinessProbe": {"tcpSocket": {"host": "x", "port": 1}}}, "readinessProbe.tcpSocket.host"),
    ("startup probe", {"i/startupProbe": {"httpGet": {"host": "x"}}}, "initContainers[0].startupProbe.httpGet.host"),
    ("hook", {"c/lifecycle": {"preStop": {"httpGet": {"host": "x"}}}}, "lifecycle.preStop.httpGet.host"),
    ("start hook", {"c/lifecycle": {"postStart": {"tcpSocket": {"host": "x"}}}}, "lifecycle.postStart.tcpSocket.host"),
    # AppArmor
    ("apparmor of the pod", {f"{SC}/appArmorProfile": {"type": "Unconfined"}}, "appArmorProfile.type"),
    ("apparmor", {f"c/{SC}/appArmorProfile": {"type": "Unconfined"}}, "containers[0]"),
    (
        "apparmor annotation",
        {"m/annotations": {"container.apparmor.security.beta.kubernetes.io/c": "unconfined"}},
        "spec.template.metadata.annotations",
    ),
    # SELinux
    ("selinux type", {f"{SC}/seLinuxOptions": {"type": "spc_t"}}, "seLinuxOptions.type"),
    ("selinux user", {f"c/{SC}/seLinuxOptions": {"user": "root"}}, "seLinuxOptions.user"),
    (
        "selinux role",
        {f"i/{SC}/seLinuxOptions": {"role": "r"}},
        "initContainers[0].securityContext.seLinux",
    ),
    # /proc
    ("proc mount", {f"c/{SC}/procMount": "Unmasked"}, "procMount"),
    # Seccomp
    ("no seccomp", {f"c/{SC}/seccompProfile": NOTHING}, "containers[0].securityContext.seccompProfile.type"),
    ("seccomp of init", {f"i/{SC}/seccompProfile": NOTHING}, "initContainers[0].securityContext.seccompProfile.type"),
    ("unconfined", {f"c/{SC}/seccompProfile": {"type": "Unconfined"}}, "containers[0]"),
    ("unconfined pod", {f"{SC}/seccompProfile": {"type": "Unconfined"}}, "spec.template.spec.securityContext.seccomp"),
    # Sysctls
    ("sysctl", {f"{SC}/sysctls": [{"name": "kernel.msgmax", "value": "1"}]}, "sysctls[0].name"),
    ("sysctl without a name", {f"{SC}/sysctls": [{"value": "1"}]}, "sysctls[0].name"),
    # Privilege escalation
    ("escalation by default", {f"c/{SC}/allowPrivilegeEscalation": NOTHING}, "allowPrivilegeEscalation"),
    ("escalation", {f"i/{SC}/allowPrivilegeEscalation": True}, "initContainers[0]"),
    ("escalation as 0", {f"c/{SC}/allowPrivilegeEscalation": 0}, "allowPrivilegeEscalation"),
    # Root
    ("no word on root", {f"c/{SC}/runAsNonRoot": NOTHING}, "containers[0].securityContext.runAsNonRoot"),
    ("root", {f"c/{SC}/runAsNonRoot": False, f"{SC}/runAsNonRoot": True}, "containers[0].securityContext.runAsNonRoot"),
    ("root pod", {f"{SC}/runAsNonRoot": False}, "spec.template.spec.securityContext.runAsNonRoot"),
    ("uid 0", {f"c/{SC}/runAsUser": 0}, "runAsUser"),
    ("uid 0 of the pod", {f"{SC}/runAsUser": 0}, "securityContext.runAsUser"),
    ("no security context", {f"c/{SC}": NOTHING}, "containers[0]"),
    ("a security context of a wrong type", {f"c/{SC}": "safe"}, "containers[0]"),
]


@pytest.mark.parametrize(("changes", "field"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_the_standard_refuses(changes: dict[str, Any], field: str) -> None:
    found = check_template(template(**changes))
    assert any(field in violation.field for violation in found), found


ALLOWED: list[tuple[str, dict[str, Any]]] = [
    *((f"volume {kind}", {"volumes": [{"name": "v", kind: {}}]}) for kind in GOOD_VOLUMES),
    ("volume without a type", {"volumes": [{"name": "v"}]}),
    ("net bind", {f"c/{SC}/capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}),
    ("more drops", {f"c/{SC}/capabilities": {"drop": ["NET_RAW", "ALL"]}}),
    (
        "the pod speaks for its containers",
        {
            f"{SC}": {"runAsNonRoot": True, "seccompProfile": {"type": "Localhost", "localhostProfile": "p"}},
            f"c/{SC}/runAsNonRoot": NOTHING,
            f"i/{SC}/runAsNonRoot": NOTHING,
            f"c/{SC}/seccompProfile": NOTHING,
            f"i/{SC}/seccompProfile": NOTHING,
        },
    ),
    ("safe sysctl", {f"{SC}/sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}),
    ("container ports", {"c/ports": [{"containerPort": 80}, {"containerPort": 81, "hostPort": 0}]}),
    ("probe of itself", {"c/livenessProbe": {"httpGet": {"port": 1, "path": "/"}}}),
    ("apparmor", {f"{SC}/appArmorProfile": {"type": "RuntimeDefault"}}),
    ("annotations", {"m/annotations": {"example.com/iam.amazonaws.com": "x", "iam.amazonaws.community/role": "x"}}),
    ("selinux", {f"c/{SC}/seLinuxOptions": {"type": "container_t", "level": "s0"}}),
    ("proc mount", {f"c/{SC}/procMount": "Default"}),
    ("uid", {f"{SC}/runAsUser": 1000}),
    ("no init containers", {"initContainers": NOTHING}),
    ("false host fields", {"hostNetwork": False, "hostPID": False, f"c/{SC}/privileged": False}),
]


@pytest.mark.parametrize("changes", [case[1] for case in ALLOWED], ids=[case[0] for case in ALLOWED])
def test_the_standard_allows(changes: dict[str, Any]) -> None:
    assert check_template(template(**changes)) == []


@pytest.mark.parametrize("prefix", REFUSED_ANNOTATIONS)
def test_annotations_that_give_identities_and_secrets_are_refused(prefix: str) -> None:
    (found,) = check_template(template(**{"m/annotations": {f"{prefix}x": "", "example.com/team": "a"}}))
    assert found.field == f"spec.template.metadata.annotations[{prefix}x]"
    assert prefix in found.message
