"""Specs of Workloads with the field names of releases before v0.1.0-alpha.1, and what becomes of them."""

from __future__ import annotations

from typing import Any

TEMPLATE: dict[str, Any] = {"spec": {"containers": [{"name": "main", "image": "busybox"}]}}
GPU = {"models": ["A100"], "count": 2, "minMemory": "40Gi"}

SPECS: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    ({"template": TEMPLATE}, {"template": TEMPLATE}, []),
    ({"maxRetries": 0}, {"backoffLimit": 0}, ["spec.maxRetries"]),
    ({"maxRetries": None, "priority": 3}, {"backoffLimit": None, "priority": 3}, ["spec.maxRetries"]),
    ({"affinity": {"hard": {"gpu": GPU}}}, {"gpu": GPU}, ["spec.affinity.hard.gpu"]),
    (
        {"affinity": {"hard": {"gpu": {}}, "soft": []}},
        {"gpu": {}, "affinity": {"soft": []}},
        ["spec.affinity.hard.gpu"],
    ),
    (
        {"affinity": {"hard": {"workerIds": ["n1"], "pools": ["a"]}}},
        {"affinity": {"hard": {"nodeNames": ["n1"], "pools": ["a"]}}},
        ["spec.affinity.hard.workerIds"],
    ),
    (
        {
            "affinity": {
                "hard": {},
                "soft": [{"weight": 1, "workerIds": ["n1"]}, {"weight": 2, "gpu": {"models": ["T4"]}}],
            }
        },
        {
            "affinity": {
                "hard": {},
                "soft": [{"weight": 1, "nodeNames": ["n1"]}, {"weight": 2, "gpu": {"models": ["T4"]}}],
            }
        },
        ["spec.affinity.soft[0].workerIds"],
    ),
    (
        {"maxRetries": 2, "affinity": {"hard": {"gpu": GPU, "near": [{"types": ["t"]}]}, "anti": [{"types": ["t"]}]}},
        {"backoffLimit": 2, "gpu": GPU, "affinity": {"hard": {"near": [{"types": ["t"]}]}, "anti": [{"types": ["t"]}]}},
        ["spec.maxRetries", "spec.affinity.hard.gpu"],
    ),
    ({"maxRetries": 2, "affinity": {}}, {"backoffLimit": 2}, ["spec.maxRetries"]),
    ({"maxRetries": 2, "affinity": None}, {"backoffLimit": 2, "affinity": None}, ["spec.maxRetries"]),
    ({"gpu": GPU, "backoffLimit": 1, "affinity": {}}, {"gpu": GPU, "backoffLimit": 1, "affinity": {}}, []),
]
"""(spec of an earlier release, present spec, paths of the old fields)."""
