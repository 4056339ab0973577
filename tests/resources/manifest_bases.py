"""Smallest valid manifest of each kind, and changes to them by path."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from niyanta.resources.models.base import Model
from niyanta.resources.models.customer import Customer
from niyanta.resources.models.worker_pool import WorkerPool
from niyanta.resources.models.workload import Workload

Manifest = dict[str, Any]
MODELS: dict[str, type[Model]] = {"Workload": Workload, "WorkerPool": WorkerPool, "Customer": Customer}

BASES: dict[str, Manifest] = {
    "Workload": {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": "job", "namespace": "default"},
        "spec": {"template": {"spec": {"containers": [{"name": "main", "image": "busybox"}]}}},
    },
    "WorkerPool": {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": "pool", "namespace": "default"},
        "spec": {"nodeSelector": {"matchLabels": {"pool": "a"}}},
    },
    "Customer": {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "Customer",
        "metadata": {"name": "acme"},
        "spec": {"namespaces": ["acme"]},
    },
}
POD = "spec.template.spec"
MAIN_CONTAINER = {"name": "main", "image": "busybox"}
DELETE = object()


def changed(manifest: Manifest, changes: Mapping[str, Any]) -> Manifest:
    """A copy with changes: dotted path -> value (DELETE removes)."""
    found = copy.deepcopy(manifest)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is DELETE:
            del place[last]
        else:
            place[last] = copy.deepcopy(value)
    return found
