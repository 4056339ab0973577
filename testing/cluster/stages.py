"""Behaviour of simulated nodes and pods: a complete set of kwok Stages, and the annotations that control a pod's life.

The set is complete because any Stage given to kwok replaces all of its defaults. `Cluster` writes it into the
configuration of the control plane. The annotations of a pod can be changed while it runs.
"""

from __future__ import annotations

import textwrap
from typing import Any

import yaml

RUN_FOR = "sim/run-for"
"""Run time of the pod ("1.5s", "2m"); without it, the pod runs for ever."""
EXIT = "sim/exit"
"""Exit code as a string; by default "0", and "143" for a pod deleted while it runs. All but "0" mean phase Failed."""
START_AFTER = "sim/start-after"
"""Time from binding to running; none by default."""
NEVER_START = "sim/never-start"
"""`"true"`: stays Pending with a container that waits for its image."""
REJECT = "sim/reject"
"""The kubelet rejects the pod: Failed with this reason (such as OutOfcpu) before any container starts."""
REJECT_ON = "sim/reject-on"
"""Restricts REJECT to the node of this name."""
STOP_AFTER = "sim/stop-after"
"""Time from deletion to the end of the containers; none by default."""
STUCK = "sim/stuck"
"""`"true"`: a deletion is never finalised."""
PARTITIONED = "sim/partitioned"
"""`"true"` on a node or pod: its kubelet changes nothing. `Cluster.partition_node` sets it."""
NOT_READY_LABEL = "node-not-ready.stage.kwok.x-k8s.io"
"""`"true"` on a node: its kubelet reports Ready=False. `Cluster.set_node_ready` sets it."""

Stage = dict[str, Any]

_FOR_EVER_MS = 24 * 3600 * 1000


def _annotation(name: str) -> str:
    return f'.metadata.annotations["{name}"]'


_DELETED = "(.metadata.deletionTimestamp != null)"
_PENDING = '((.status.phase // "Pending") == "Pending")'
_RUNNING = '(.status.phase == "Running")'
_ENDED = '(.status.phase == "Succeeded" or .status.phase == "Failed")'
_SILENT = f'({_annotation(PARTITIONED)} == "true")'
_STUCK = f'({_annotation(STUCK)} == "true")'
_NEVER = f'({_annotation(NEVER_START)} == "true")'
_REJECTED = f"({_annotation(REJECT)} != null and ({_annotation(REJECT_ON)} // .spec.nodeName) == .spec.nodeName)"
_ENDLESS = f"({_annotation(RUN_FOR)} == null)"
_NODE_READY = '([.status.conditions[]? | select(.type == "Ready") | .status] | first)'
_BROKEN = f'(.metadata.labels["{NOT_READY_LABEL}"] == "true")'

# The rest of the run time. kwok evaluates it again after every patch of the pod, so a plain duration would start over.
# containerID has the start in nanoseconds, because startTime has whole seconds only.
_REMAINING = rf"""
([{_annotation(RUN_FOR)} | match("([0-9.]+)(ms|s|m|h)"; "g")
  | (.captures[0].string | tonumber) * {{"ms": 0.001, "s": 1, "m": 60, "h": 3600}}[.captures[1].string]]
  | add // 0) as $for
| ((.status.containerStatuses[0].containerID // "" | ltrimstr("sim://")
    | capture("^(?<whole>[^.Z]+)(?<fraction>[.][0-9]+)?Z$")
    | (.whole + "Z" | fromdateiso8601) + ("0" + (.fraction // ".0") | tonumber)) // now) as $start
| "\(($start + $for - now) * 1000 | floor)ms"
"""

_NODE_INITIALIZE = """
{{ $now := Now }}
conditions:
{{ range NodeConditions }}
- type: {{ .type | Quote }}
  status: {{ .status | Quote }}
  reason: {{ .reason | Quote }}
  message: {{ .message | Quote }}
  lastHeartbeatTime: {{ $now | Quote }}
  lastTransitionTime: {{ $now | Quote }}
{{ end }}
{{ if not .status.addresses }}
addresses:
- {type: InternalIP, address: {{ NodeIP | Quote }}}
- {type: Hostname, address: {{ NodeName | Quote }}}
{{ end }}
{{ $info := or .status.nodeInfo dict }}
{{ $version := printf "kwok-%s" Version }}
nodeInfo:
  architecture: {{ or $info.architecture "amd64" | Quote }}
  operatingSystem: {{ or $info.operatingSystem "linux" | Quote }}
  osImage: {{ or $info.osImage $version | Quote }}
  kernelVersion: {{ or $info.kernelVersion $version | Quote }}
  kubeletVersion: {{ or $info.kubeletVersion $version | Quote }}
  kubeProxyVersion: {{ or $info.kubeProxyVersion $version | Quote }}
  containerRuntimeVersion: {{ or $info.containerRuntimeVersion $version | Quote }}
  bootID: ""
  machineID: ""
  systemUUID: ""
phase: Running
"""

_NODE_HEARTBEAT = """
{{ $now := Now }}
conditions:
{{ range NodeConditions }}
- type: {{ .type | Quote }}
  status: {{ .status | Quote }}
  lastHeartbeatTime: {{ $now | Quote }}
{{ end }}
"""

_NODE_NOT_READY = """
{{ $now := Now }}
conditions:
- type: Ready
  status: "False"
  reason: KubeletNotReady
  message: container runtime is down (simulated)
  lastHeartbeatTime: {{ $now | Quote }}
  lastTransitionTime: {{ $now | Quote }}
phase: Running
"""

_POD_READY = """
{{ $now := Now }}
phase: Running
startTime: {{ or .status.startTime $now | Quote }}
conditions:
{{ range $type := list "PodReadyToStartContainers" "Initialized" "Ready" "ContainersReady" }}
- {type: {{ $type }}, status: "True", lastTransitionTime: {{ $now | Quote }}}
{{ end }}
{{ range .spec.readinessGates }}
- {type: {{ .conditionType | Quote }}, status: "True", lastTransitionTime: {{ $now | Quote }}}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: ""
  containerID: {{ printf "sim://%s" $now | Quote }}
  ready: true
  started: true
  restartCount: 0
  state:
    running: {startedAt: {{ $now | Quote }}}
    waiting: null
{{ end }}
{{ with .spec.initContainers }}
initContainerStatuses:
{{ range . }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: ""
  ready: true
  restartCount: 0
  state:
  {{ if eq (or .restartPolicy "") "Always" }}
    running: {startedAt: {{ $now | Quote }}}
  {{ else }}
    terminated: {exitCode: 0, reason: Completed, startedAt: {{ $now | Quote }}, finishedAt: {{ $now | Quote }}}
  {{ end }}
{{ end }}
{{ end }}
{{ with NodeIPsWith .spec.nodeName }}
hostIP: {{ index . 0 | Quote }}
hostIPs:
{{ range . }}
- ip: {{ . | Quote }}
{{ end }}
{{ end }}
{{ with PodIPsWith .spec.nodeName (or .spec.hostNetwork false) .metadata.uid .metadata.name .metadata.namespace }}
podIP: {{ index . 0 | Quote }}
podIPs:
{{ range . }}
- ip: {{ . | Quote }}
{{ end }}
{{ end }}
"""

_POD_WAITING = """
phase: Pending
startTime: {{ or .status.startTime Now | Quote }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: ""
  ready: false
  started: false
  restartCount: 0
  state:
    waiting: {reason: ImagePullBackOff, message: Back-off pulling image (simulated)}
{{ end }}
"""

_POD_REJECTED = """
phase: Failed
reason: {{ index .metadata.annotations "sim/reject" | Quote }}
message: Pod was rejected (simulated)
startTime: {{ Now | Quote }}
"""

_POD_TERMINATED = """
{{ $now := Now }}
{{ $default := "0" }}
{{ if .metadata.deletionTimestamp }}{{ $default = "143" }}{{ end }}
{{ $code := or (index (or .metadata.annotations dict) "sim/exit") $default }}
{{ $failed := ne $code "0" }}
{{ $before := or .status.containerStatuses list }}
phase: {{ if $failed }}Failed{{ else }}Succeeded{{ end }}
conditions:
{{ range $type := list "Ready" "ContainersReady" }}
- type: {{ $type }}
  status: "False"
  reason: {{ if $failed }}PodFailed{{ else }}PodCompleted{{ end }}
  lastTransitionTime: {{ $now | Quote }}
{{ end }}
containerStatuses:
{{ range $index, $container := .spec.containers }}
{{ $started := $now }}
{{ $id := "" }}
{{ if gt (len $before) $index }}
  {{ with index $before $index }}
    {{ $id = or .containerID "" }}
    {{ with .state.running }}{{ $started = .startedAt }}{{ end }}
  {{ end }}
{{ end }}
- name: {{ $container.name | Quote }}
  image: {{ $container.image | Quote }}
  imageID: ""
  containerID: {{ $id | Quote }}
  ready: false
  started: false
  restartCount: 0
  state:
    running: null
    waiting: null
    terminated:
      exitCode: {{ $code }}
      reason: {{ if $failed }}Error{{ else }}Completed{{ end }}
      startedAt: {{ $started | Quote }}
      finishedAt: {{ $now | Quote }}
      containerID: {{ $id | Quote }}
{{ end }}
"""


def _stage(
    kind: str,
    name: str,
    when: str,
    *,
    status: str | None = None,
    delete: bool = False,
    delay: str | int = 0,
    jitter_to: int | None = None,
) -> Stage:
    """One Stage; `delay` is in milliseconds, or a jq expression of a duration."""
    wait: dict[str, Any] = {"durationMilliseconds": delay if isinstance(delay, int) else 0}
    if isinstance(delay, str):
        wait["durationFrom"] = {"expressionFrom": delay}
    if jitter_to is not None:
        wait["jitterDurationMilliseconds"] = jitter_to
    following: dict[str, Any] = {}
    if status is not None:
        following["statusTemplate"] = textwrap.dedent(status).strip()
    if delete:
        following["delete"] = True
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": [{"key": when, "operator": "In", "values": ["true"]}]},
            "delay": wait,
            "next": following,
        },
    }


def _hold(kind: str, when: str) -> Stage:
    """A Stage that does nothing for a day. kwok plays a queued Stage even when its object no longer matches any; this
    one replaces it in the queue."""
    return _stage(kind, f"{kind.lower()}-hold", when, delay=_FOR_EVER_MS)


def node_stages() -> list[Stage]:
    alive = f"({_SILENT} | not) and ({_BROKEN} | not)"
    return [
        _stage("Node", "node-initialize", f'{alive} and {_NODE_READY} != "True"', status=_NODE_INITIALIZE),
        # The Lease is the heartbeat; the status is posted seldom, as by real kubelets.
        _stage(
            "Node",
            "node-heartbeat-with-lease",
            f'{alive} and {_NODE_READY} == "True"',
            status=_NODE_HEARTBEAT,
            delay=600_000,
            jitter_to=660_000,
        ),
        _stage(
            "Node",
            "node-not-ready",
            f'({_SILENT} | not) and {_BROKEN} and {_NODE_READY} != "False"',
            status=_NODE_NOT_READY,
        ),
        _hold("Node", f'{_SILENT} or ({_BROKEN} and {_NODE_READY} == "False")'),
    ]


def pod_stages() -> list[Stage]:
    heard = f"({_SILENT} | not)"
    starting = f"{heard} and ({_DELETED} | not) and {_PENDING}"
    leaving = f"{heard} and {_DELETED} and ({_STUCK} | not)"
    rejected = f"({_REJECTED} and ({_NEVER} | not))"
    return [
        _stage(
            "Pod",
            "pod-ready",
            f"{starting} and ({_NEVER} | not) and ({rejected} | not)",
            status=_POD_READY,
            delay=_annotation(START_AFTER),
        ),
        _stage("Pod", "pod-never-start", f"{starting} and {_NEVER}", status=_POD_WAITING),
        _stage("Pod", "pod-reject", f"{starting} and {rejected}", status=_POD_REJECTED),
        _stage(
            "Pod",
            "pod-complete",
            f"{heard} and ({_DELETED} | not) and {_RUNNING} and ({_ENDLESS} | not)",
            status=_POD_TERMINATED,
            delay=_REMAINING,
        ),
        # A kubelet reports the containers of a deleted pod as terminated before it deletes the object.
        _stage(
            "Pod",
            "pod-stop",
            f"{leaving} and ({_ENDED} | not)",
            status=_POD_TERMINATED,
            delay=_annotation(STOP_AFTER),
        ),
        # Deletes with grace 0, as a kubelet does: finalizers keep the object until they are removed.
        _stage(
            "Pod", "pod-delete", f"{leaving} and {_ENDED} and .metadata.deletionGracePeriodSeconds != 0", delete=True
        ),
        _hold(
            "Pod",
            f"{_SILENT} or ({_DELETED} and {_STUCK}) or (({_DELETED} | not) and {_RUNNING} and {_ENDLESS})",
        ),
    ]


def all_stages() -> list[Stage]:
    return node_stages() + pod_stages()


def render() -> str:
    """The set as YAML documents."""
    return yaml.safe_dump_all(all_stages(), sort_keys=False, width=1000)
