"""Manifests that both doors must accept, as data."""

from __future__ import annotations

from tests.resources.manifest_bases import MAIN_CONTAINER, POD
from tests.resources.wrong_manifests import Case

_LABELS = {"fieldPath": "metadata.labels"}

RIGHT: list[Case] = [
    Case("smallest", "Workload", {}),
    Case("name of 48", "Workload", {"metadata.name": "n" * 48}),
    Case("nulls", "Workload", {"spec.type": None, "spec.affinity": None, f"{POD}.nodeSelector": None}),
    Case("nulls in maps", "Workload", {f"{POD}.nodeSelector": {"a": None}}),
    Case("whole number written as a fraction", "Workload", {"spec.priority": 20.0}),
    Case("fields of the Pod API", "Workload", {f"{POD}.terminationGracePeriodSeconds": 5, f"{POD}.hostPID": False}),
    Case(
        "lists with duplicates that pods may have",
        "Workload",
        {
            f"{POD}.containers": [
                {
                    **MAIN_CONTAINER,
                    "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}],
                    "ports": [{"containerPort": 80}, {"containerPort": 80}],
                }
            ],
            f"{POD}.tolerations": [{"operator": "Exists"}, {"operator": "Exists"}],
            f"{POD}.imagePullSecrets": [{"name": "a"}, {"name": "a"}],
        },
    ),
    Case(
        "most of a container",
        "Workload",
        {
            f"{POD}.containers": [
                {
                    **MAIN_CONTAINER,
                    "command": ["sh", "-c"],
                    "args": ["sleep 1", ""],
                    "imagePullPolicy": "",
                    "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                    "envFrom": [{"prefix": "A_", "configMapRef": {"name": "c", "optional": True}}],
                    "livenessProbe": {"httpGet": {"port": "web", "path": "/"}, "periodSeconds": 5.0},
                    "readinessProbe": {"tcpSocket": {"port": 80}, "initialDelaySeconds": 1},
                    "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
                    "ports": [{"containerPort": 80, "name": "web"}],
                    "securityContext": {"runAsUser": 1000, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp", "readOnly": False}],
                }
            ],
            f"{POD}.securityContext": {"fsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            f"{POD}.volumes": [
                {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
                {
                    "name": "all",
                    "projected": {"sources": [{"downwardAPI": {"items": [{"path": "a", "fieldRef": _LABELS}]}}]},
                },
                {"name": "host", "hostPath": {"path": "/data", "type": ""}},
            ],
            f"{POD}.dnsConfig": {"nameservers": ["10.0.0.1"], "options": [{"name": "ndots", "value": "2"}]},
        },
    ),
    Case("a template made by kubectl", "Workload", {"spec.template.metadata": {"creationTimestamp": None}}),
    Case(
        "everything in affinity",
        "Workload",
        {
            "spec.gpu": {"models": ["A100", "H100"], "count": 2, "minMemory": "40Gi"},
            "spec.affinity": {
                "hard": {
                    "nodeNames": ["node-1.example.com"],
                    "workerTags": {"example.com/disk": "ssd", "empty": ""},
                    "workerExpressions": [
                        {"key": "cores", "operator": "Gt", "values": ["-8"]},
                        {"key": "spot", "operator": "DoesNotExist"},
                    ],
                    "capabilities": ["ffmpeg"],
                    "regions": ["eu-west-1"],
                    "zones": ["eu-west-1a"],
                    "pools": ["gpu"],
                    "compliance": ["hipaa"],
                    "near": [{"workloadSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "zone"}],
                },
                "soft": [{"weight": 100, "gpu": {"minMemory": 85899345920}}, {"weight": 1, "pools": ["cheap"]}],
                "anti": [
                    {"types": ["noisy"], "scope": "Customer"},
                    {"customers": ["rival"], "scope": "Cluster", "topologyKey": "topology.kubernetes.io/zone"},
                    {"workloadSelector": {}},
                ],
            },
        },
    ),
    Case("one zone for all pods", "Workload", {"spec.topology": {"key": "topology.kubernetes.io/zone"}}),
    Case("one rack if possible", "Workload", {"spec.topology": {"key": "example.com/rack", "mode": "Preferred"}}),
    Case(
        "quantities of every kind",
        "Workload",
        {
            f"{POD}.containers": [
                {**MAIN_CONTAINER, "resources": {"requests": {"cpu": 0.5, "memory": 1024, "ephemeral-storage": "1e3"}}},
                {"name": "side", "image": "a", "resources": {"limits": {"cpu": "100m", "memory": ".5Gi"}}},
            ]
        },
    ),
    Case(
        "sidecar, tolerations, volumes",
        "Workload",
        {
            f"{POD}.initContainers": [{"name": "proxy", "image": "a", "restartPolicy": "Always"}],
            f"{POD}.tolerations": [{"operator": "Exists"}, {"key": "a", "value": "b", "effect": "NoSchedule"}],
            f"{POD}.volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "c", "configMap": {"name": "c"}}],
        },
    ),
    Case(
        "pool with everything",
        "WorkerPool",
        {
            "spec.gpu": {"model": "A100", "count": 8, "memory": "80Gi"},
            "spec.replicas": 3,
            "spec.maxReplicas": 10,
            "spec.strategy": "Spread",
            "spec.provider": {"kwok": {"nodeTemplate": {"metadata": {"labels": {"a": "b"}}}}},
            "spec.tags": {"disk": "ssd"},
            "spec.slotsPerWorker": 10,
            "spec.workerShape": {
                "allocatable": {"cpu": 96, "memory": "1100Gi", "pods": "250", "nvidia.com/gpu": 8},
                "labels": {"example.com/rack": "r1"},
                "taints": [
                    {"key": "gpu", "value": "only", "effect": "NoSchedule"},
                    {"key": "a", "effect": "NoExecute"},
                ],
            },
        },
    ),
    Case("customer of every namespace", "Customer", {"spec.namespaces": ["*"], "spec.tier": "Enterprise"}),
    Case("customer of low priorities", "Customer", {"spec.maxPriority": 0}),
    Case("customer without namespaces", "Customer", {"spec": {}}),
    Case(
        "lists of a customer",
        "Customer",
        {
            "spec.topologyKeys": ["example.com/rack"],
            "spec.tolerations": [
                {"operator": "Exists"},
                {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},
                {"key": "spot", "value": "yes"},
            ],
            "spec.priorityClasses": ["urgent"],
            "spec.runtimeClasses": ["gvisor"],
            "spec.configMaps": ["settings"],
            "spec.csiDrivers": ["secrets-store.csi.k8s.io"],
            "spec.tokenAudiences": ["https://vault.example.com"],
        },
    ),
    Case("pool of two customers", "WorkerPool", {"spec.customers": ["acme", "globex"]}),
]
