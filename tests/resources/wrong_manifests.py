"""Manifests that must be rejected, as data; `right_manifests` has some that must be accepted.

The unit tests parse them with the models, the end-to-end tests send them to a real API server; the results must agree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.resources.manifest_bases import BASES, DELETE, MAIN_CONTAINER, POD, Manifest, changed

_OFFERS = {"cpu": "4", "memory": "16Gi"}


@dataclass(frozen=True)
class Case:
    """A base manifest with changes: dotted path -> value (DELETE removes). The error must name `field`."""

    name: str
    kind: str
    changes: dict[str, Any] = field(hash=False)
    field: str = ""

    @property
    def manifest(self) -> Manifest:
        return changed(BASES[self.kind], self.changes)

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


def _workload(name: str, path: str, value: Any, field: str | None = None) -> Case:
    return Case(name, "Workload", {path: value}, path if field is None else field)


def _container(title: str, field: str, **changes: Any) -> Case:
    return _workload(title, f"{POD}.containers", [{**MAIN_CONTAINER, **changes}], f"{POD}.containers[0]{field}")


def _hard(name: str, value: Any, field: str) -> Case:
    return _workload(name, "spec.affinity.hard", value, f"spec.affinity.hard.{field}")


def _shape(name: str, value: Any, field: str) -> Case:
    return Case(name, "WorkerPool", {"spec.workerShape": value}, f"spec.workerShape{field}")


def _soft(name: str, value: Any, field: str = "") -> Case:
    return _workload(name, "spec.affinity.soft", [value], f"spec.affinity.soft[0]{field}")


def _anti(name: str, value: Any, field: str = "") -> Case:
    return _workload(name, "spec.affinity.anti", [value], f"spec.affinity.anti[0]{field}")


def _node_affinity(name: str, term: Any, field: str) -> Case:
    required = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
    return _workload(name, f"{POD}.{required}", [term], f"{POD}.{required}[0]{field}")


def _volume(source: str) -> Case:
    volume = {"name": "data", source: {}}
    return _workload(f"volume {source}", f"{POD}.volumes", [volume], f"{POD}.volumes[0].{source}")


def _expression(operator: str, *values: str) -> dict[str, Any]:
    return {"workerExpressions": [{"key": "disk", "operator": operator, "values": list(values)}]}


_OPEN = {"port": True}
_REFERENCE = {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name", "path": "x"}}}
_VALUES = "workerExpressions[0].values"
_LONG = "x" * 64

WRONG: list[Case] = [
    # Workload: names and scalars
    Case("name too long", "Workload", {"metadata.name": "n" * 49}, "metadata.name"),
    Case("name with a dot", "Workload", {"metadata.name": "a.b"}, "metadata.name"),
    Case("no spec", "Workload", {"spec": DELETE}, "spec"),
    _workload("no template", "spec.template", DELETE),
    _workload("no pod spec", "spec.template", {}, "spec.template.spec"),
    _workload("unknown field", "spec.replica", 2, "spec.replica"),
    _workload("unknown field in affinity", "spec.affinity.hard.zone", ["a"], "spec.affinity.hard.zone"),
    _workload("unknown field that is null", "spec.foo", None),
    _workload("replicas 0", "spec.replicas", 0),
    _workload("replicas 513", "spec.replicas", 513),
    _workload("replicas as text", "spec.replicas", "3"),
    _workload("replicas as boolean", "spec.replicas", True),
    _workload("replicas a fraction", "spec.replicas", 1.5),
    _workload("priority -1", "spec.priority", -1),
    _workload("priority 101", "spec.priority", 101),
    _workload("timeout 0", "spec.timeoutSeconds", 0),
    _workload("start timeout 0", "spec.startTimeoutSeconds", 0),
    _workload("negative retries", "spec.backoffLimit", -1),
    _workload("negative ttl", "spec.ttlSecondsAfterFinished", -1),
    _workload("unknown node loss policy", "spec.nodeLossPolicy", "Ignore"),
    _workload("suspend as text", "spec.suspend", "yes"),
    _workload("expected duration 0", "spec.expectedDurationSeconds", 0),
    _workload("customer with a slash", "spec.customer", "a/b"),
    _workload("customer with a capital letter", "spec.customer", "Acme"),
    _workload("customer with a dot", "spec.customer", "a.b"),
    _workload("empty customer", "spec.customer", ""),
    _workload("type too long", "spec.type", _LONG),
    # affinity.hard
    _hard("node name with a space", {"nodeNames": ["node 1"]}, "nodeNames[0]"),
    _hard("too many node names", {"nodeNames": ["n"] * 257}, "nodeNames"),
    _hard("tag with a wrong key", {"workerTags": {"-bad": "x"}}, "workerTags"),
    _hard("tag with a wrong value", {"workerTags": {"a": "b c"}}, "workerTags.a"),
    _hard("In without values", _expression("In"), _VALUES),
    _hard("Exists with values", _expression("Exists", "a"), _VALUES),
    _hard("Gt with two values", _expression("Gt", "1", "2"), _VALUES),
    _hard("Lt with a word", _expression("Lt", "ten"), _VALUES),
    _hard("unknown operator", _expression("Like", "a"), "workerExpressions[0].operator"),
    _hard("expression without key", {"workerExpressions": [{"operator": "Exists"}]}, "workerExpressions[0].key"),
    _hard("gpus as a condition", {"gpu": {"count": 1}}, "gpu"),
    # gpu
    _workload("gpu count 0", "spec.gpu.count", 0),
    _workload("gpu count 65", "spec.gpu.count", 65),
    _workload("gpu memory not a quantity", "spec.gpu.minMemory", "lots"),
    _workload("gpu memory a fraction", "spec.gpu.minMemory", 1.5),
    _workload("gpu memory negative", "spec.gpu.minMemory", "-1Gi"),
    _hard("regions as text", {"regions": "eu"}, "regions"),
    _hard("compliance as object", {"compliance": {"hipaa": True}}, "compliance"),
    _hard("near without selector", {"near": [{"topologyKey": "kubernetes.io/hostname"}]}, "near[0]"),
    _hard("near in scope Cluster", {"near": [{"types": ["a"], "scope": "Cluster"}]}, "near[0].scope"),
    _hard("near a wrong key", {"near": [{"types": ["a"], "topologyKey": "a b"}]}, "near[0].topologyKey"),
    _hard(
        "Gt in a label selector",
        {"near": [{"workloadSelector": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}}]},
        "near[0].workloadSelector.matchExpressions[0].operator",
    ),
    # topology
    _workload("topology without a key", "spec.topology", {"mode": "Required"}, "spec.topology.key"),
    _workload("topology of a wrong key", "spec.topology.key", "a b"),
    _workload("topology of an unknown mode", "spec.topology", {"key": "a", "mode": "Maybe"}, "spec.topology.mode"),
    # affinity.soft and affinity.anti
    _soft("preference without weight", {"regions": ["eu"]}, ".weight"),
    _soft("preference of weight 0", {"weight": 0, "regions": ["eu"]}, ".weight"),
    _soft("preference of weight 101", {"weight": 101, "regions": ["eu"]}, ".weight"),
    _soft("preference without matcher", {"weight": 10}),
    _soft("preference with an empty matcher", {"weight": 10, "regions": []}),
    _soft("preference with an empty gpu", {"weight": 10, "gpu": {}}, ".gpu"),
    _soft("preference with a gpu count", {"weight": 10, "gpu": {"models": ["A100"], "count": 1}}, ".gpu.count"),
    _soft("preference with near", {"weight": 10, "near": [{"types": ["a"]}]}, ".near"),
    _anti("anti without selector", {"topologyKey": "kubernetes.io/hostname"}),
    _anti("customer in capitals", {"customers": ["ACME"], "scope": "Cluster"}, ".customers[0]"),
    _anti("customers in scope Namespace", {"customers": ["other"]}, ".customers"),
    _anti("customers in scope Customer", {"customers": ["other"], "scope": "Customer"}, ".customers"),
    _anti("unknown scope", {"types": ["a"], "scope": "World"}, ".scope"),
    _workload("too many anti terms", "spec.affinity.anti", [{"types": ["a"]}] * 17),
    # Pod template
    _workload("operator's label", "spec.template.metadata.labels", {"niyanta.io/epoch": "9"}),
    _workload("operator's annotation", "spec.template.metadata.annotations", {"niyanta.io/x": "9"}),
    _workload(
        "label with a wrong value", "spec.template.metadata.labels", {"a": "-"}, "spec.template.metadata.labels.a"
    ),
    _workload("no containers", f"{POD}.containers", []),
    _workload("too many containers", f"{POD}.containers", [{"name": f"c{n}", "image": "a"} for n in range(17)]),
    _workload("container names twice", f"{POD}.containers", [MAIN_CONTAINER, MAIN_CONTAINER]),
    _workload("container without image", f"{POD}.containers", [{"name": "a"}], f"{POD}.containers[0].image"),
    _container("container name in capitals", ".name", name="Main"),
    _container("container that always restarts", ".restartPolicy", restartPolicy="Always"),
    _container("cpu not a quantity", ".resources.requests.cpu", resources={"requests": {"cpu": "many"}}),
    _container("cpu a negative number", ".resources.requests.cpu", resources={"requests": {"cpu": -1}}),
    _container("memory negative", ".resources.limits.memory", resources={"limits": {"memory": "-1Gi"}}),
    _container("port 0", ".ports[0].containerPort", ports=[{"containerPort": 0}]),
    _container("host port 70000", ".ports[0].hostPort", ports=[{"containerPort": 80, "hostPort": 70000}]),
    _container("unknown protocol", ".ports[0].protocol", ports=[{"containerPort": 80, "protocol": "ICMP"}]),
    _container("a quantity as a list", ".resources.requests.cpu", resources={"requests": {"cpu": [1]}}),
    _container("a quantity as an object", ".resources.requests.cpu", resources={"requests": {"cpu": {"a": 1}}}),
    # Fields of the pod template without a model
    _container("a misspelt command", ".commnad", commnad=["x"]),
    _container("a pull policy as a number", ".imagePullPolicy", imagePullPolicy=17),
    _container("arguments as text", ".args", args="x"),
    _container("a variable's value as a number", ".env[0].value", env=[{"name": "A", "value": 5}]),
    _container("a variable without a name", ".env[0].name", env=[{"value": "5"}]),
    _container("a misspelt key of a reference", ".env[0].valueFrom.fieldRef.path", env=[_REFERENCE]),
    _container("a probe's port as a boolean", ".livenessProbe.tcpSocket.port", livenessProbe={"tcpSocket": _OPEN}),
    _container("a period over 32 bits", ".livenessProbe.periodSeconds", livenessProbe={"periodSeconds": 2**31}),
    _container("a user as a fraction", ".securityContext.runAsUser", securityContext={"runAsUser": 1.5}),
    _container("a long image", ".image", image="x" * 1025),
    _workload("fields in snake case", f"{POD}.init_containers", [MAIN_CONTAINER]),
    _workload("host PID as text", f"{POD}.hostPID", "yes"),
    _workload("host aliases as an object", f"{POD}.hostAliases", {"ip": "10.0.0.1"}),
    _workload("unknown volume source", f"{POD}.volumes", [{"name": "v", "floppy": {}}], f"{POD}.volumes[0].floppy"),
    _workload(
        "size of a volume as text",
        f"{POD}.volumes",
        [{"name": "v", "emptyDir": {"sizeLimit": "large"}}],
        f"{POD}.volumes[0].emptyDir.sizeLimit",
    ),
    _workload("name in the template's metadata", "spec.template.metadata.name", "a"),
    # Refused fields
    _workload("node name", f"{POD}.nodeName", "node-1"),
    _workload("scheduler name", f"{POD}.schedulerName", "default-scheduler"),
    _workload("system priority class", f"{POD}.priorityClassName", "system-node-critical"),
    _workload("restart policy Always", f"{POD}.restartPolicy", "Always"),
    _workload("unknown restart policy", f"{POD}.restartPolicy", "Sometimes"),
    _workload("pod affinity", f"{POD}.affinity.podAffinity", {}),
    _workload("pod anti-affinity", f"{POD}.affinity.podAntiAffinity", {}),
    _workload("topology spread", f"{POD}.topologySpreadConstraints", [{"maxSkew": 1}]),
    _workload("resource claims", f"{POD}.resourceClaims", [{"name": "gpu"}]),
    _workload("scheduling gates", f"{POD}.schedulingGates", [{"name": "wait"}]),
    _workload("ephemeral containers", f"{POD}.ephemeralContainers", [MAIN_CONTAINER]),
    _workload("gang of kube-scheduler", f"{POD}.workloadRef", {"name": "gang"}),
    *map(_volume, ("persistentVolumeClaim", "ephemeral", "awsElasticBlockStore", "gcePersistentDisk", "azureDisk")),
    *map(_volume, ("cinder", "vsphereVolume", "portworxVolume", "iscsi", "rbd")),
    _workload("node selector with a wrong key", f"{POD}.nodeSelector", {"a b": "c"}),
    _workload("toleration Equal without key", f"{POD}.tolerations", [{"value": "a"}], f"{POD}.tolerations[0].operator"),
    _workload(
        "toleration Exists with value",
        f"{POD}.tolerations",
        [{"key": "a", "operator": "Exists", "value": "b"}],
        f"{POD}.tolerations[0].value",
    ),
    _workload(
        "toleration seconds without NoExecute",
        f"{POD}.tolerations",
        [{"key": "a", "operator": "Exists", "tolerationSeconds": 5}],
        f"{POD}.tolerations[0].tolerationSeconds",
    ),
    _workload(
        "toleration Lt", f"{POD}.tolerations", [{"key": "a", "operator": "Lt"}], f"{POD}.tolerations[0].operator"
    ),
    _workload("toleration of a wrong key", f"{POD}.tolerations", [{"key": "a b"}], f"{POD}.tolerations[0].key"),
    _node_affinity("empty node selector term", {}, ""),
    _node_affinity(
        "node affinity Gt with a word",
        {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["b"]}]},
        ".matchExpressions[0].values",
    ),
    _node_affinity(
        "match field of another field",
        {"matchFields": [{"key": "spec.podCIDR", "operator": "In", "values": ["a"]}]},
        ".matchFields[0].key",
    ),
    # WorkerPool
    Case("name with a dot", "WorkerPool", {"metadata.name": "a.b"}, "metadata.name"),
    Case("no node selector", "WorkerPool", {"spec.nodeSelector": DELETE}, "spec.nodeSelector"),
    Case("empty node selector", "WorkerPool", {"spec.nodeSelector": {}}, "spec.nodeSelector"),
    Case("negative replicas", "WorkerPool", {"spec.replicas": -1}, "spec.replicas"),
    Case("minimum above maximum", "WorkerPool", {"spec.minReplicas": 3, "spec.maxReplicas": 2}, "spec.maxReplicas"),
    Case(
        "drain timeout of years",
        "WorkerPool",
        {"spec.scaling": {"drainTimeoutSeconds": 10**9}},
        "spec.scaling.drainTimeoutSeconds",
    ),
    Case("slots 0", "WorkerPool", {"spec.slotsPerWorker": 0}, "spec.slotsPerWorker"),
    Case("unknown strategy", "WorkerPool", {"spec.strategy": "Random"}, "spec.strategy"),
    Case("gpu without model", "WorkerPool", {"spec.gpu": {"count": 8}}, "spec.gpu.model"),
    Case("gpu memory not a quantity", "WorkerPool", {"spec.gpu": {"model": "A", "memory": "big"}}, "spec.gpu.memory"),
    Case(
        "two providers",
        "WorkerPool",
        {"spec.provider": {"kwok": {}, "ec2AutoScalingGroup": {"name": "a", "region": "eu-west-1"}}},
        "spec.provider",
    ),
    Case("no provider named", "WorkerPool", {"spec.provider": {}}, "spec.provider"),
    _shape("shape without memory", {"allocatable": {"cpu": "4"}}, ".allocatable"),
    _shape("shape with an invalid quantity", {"allocatable": {**_OFFERS, "cpu": "many"}}, ".allocatable.cpu"),
    _shape("shape with negative pods", {"allocatable": {**_OFFERS, "pods": "-1"}}, ".allocatable.pods"),
    _shape("shape with an odd resource", {"allocatable": {**_OFFERS, "a b": 1}}, ".allocatable"),
    _shape("shape with an odd label", {"allocatable": _OFFERS, "labels": {"a": "b c"}}, ".labels.a"),
    _shape(
        "shape with an unknown effect",
        {"allocatable": _OFFERS, "taints": [{"key": "a", "effect": "Never"}]},
        ".taints[0].effect",
    ),
    _shape(
        "shape with a taint without effect", {"allocatable": _OFFERS, "taints": [{"key": "a"}]}, ".taints[0].effect"
    ),
    # Customer
    Case("unknown tier", "Customer", {"spec.tier": "Gold"}, "spec.tier"),
    Case("namespace of the cluster", "Customer", {"spec.namespaces": ["kube-system"]}, "spec.namespaces"),
    Case("pattern of namespaces", "Customer", {"spec.namespaces": ["team-*"]}, "spec.namespaces[0]"),
    Case("priority limit above 100", "Customer", {"spec.maxPriority": 101}, "spec.maxPriority"),
    Case("negative limit", "Customer", {"spec.maxConcurrent": -1}, "spec.maxConcurrent"),
    Case("name too long", "Customer", {"metadata.name": "c" * 64}, "metadata.name"),
    Case(
        "list without a toleration's key",
        "Customer",
        {"spec.tolerations": [{"key": "a"}, {"value": "b"}]},
        "spec.tolerations[1].operator",
    ),
    Case(
        "list with seconds",
        "Customer",
        {"spec.tolerations": [{"key": "a", "effect": "NoExecute", "tolerationSeconds": 5}]},
        "tolerationSeconds",
    ),
    Case("pattern of topology keys", "Customer", {"spec.topologyKeys": ["*"]}, "spec.topologyKeys[0]"),
    Case("pattern of secrets", "Customer", {"spec.secrets": ["*"]}, "spec.secrets[0]"),
    Case("empty audience", "Customer", {"spec.tokenAudiences": [""]}, "spec.tokenAudiences[0]"),
    Case("pattern of a pool's customers", "WorkerPool", {"spec.customers": ["*"]}, "spec.customers[0]"),
    Case(
        "too many customers of a pool",
        "WorkerPool",
        {"spec.customers": [f"c{number}" for number in range(65)]},
        "spec.customers",
    ),
]

# Accepted by the API server, because CEL can't express the check, and rejected by the compile step.
UNSEEN: list[Case] = [
    _container("template too big", "", env=[{"name": name, "value": "x" * 35_000} for name in ("A", "B")]),
    _container("NUL in a template", "", args=["a\0b"]),
    _container("quantity as a boolean", ".resources.requests.cpu", resources={"requests": {"cpu": True}}),
    _container(
        "request above its limit", ".resources.requests.cpu", resources={"requests": {"cpu": 2}, "limits": {"cpu": 1}}
    ),
    _container("GPU request without limit", ".resources.limits", resources={"requests": {"nvidia.com/gpu": 1}}),
    Case(
        "GPU count in two places",
        "Workload",
        {
            "spec.gpu.count": 2,
            f"{POD}.containers": [{**MAIN_CONTAINER, "resources": {"limits": {"nvidia.com/gpu": 1}}}],
        },
        "spec.gpu.count",
    ),
    Case(
        "host port other than the container's",
        "Workload",
        {
            f"{POD}.hostNetwork": True,
            f"{POD}.containers": [{**MAIN_CONTAINER, "ports": [{"containerPort": 80, "hostPort": 81}]}],
        },
        f"{POD}.containers[0].ports[0].hostPort",
    ),
    _workload("overhead without RuntimeClass", f"{POD}.overhead", {"cpu": "1"}),
]
UNSEEN[:2] = [Case(case.name, case.kind, case.changes, "spec.template") for case in UNSEEN[:2]]

UNSEEN.append(
    Case(
        "affinity too big",
        "Workload",
        {"spec.affinity.soft": [{"weight": 1, "nodeNames": ["n" * 240] * 250}] * 2},
        "spec.affinity",
    )
)
