"""Manifests that the REST door accepts."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import orjson

SAFE: dict[str, Any] = {
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}
_numbers = itertools.count()


def manifest(name: str | None = None, **spec: Any) -> dict[str, Any]:
    """A Workload that meets the restricted Pod Security standard; `spec` adds or replaces fields."""
    container = {"name": "main", "image": "busybox", "securityContext": copy.deepcopy(SAFE)}
    return {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": name or f"job-{next(_numbers)}", "namespace": "acme"},
        "spec": {"template": {"spec": {"containers": [container]}}, **spec},
    }


def ndjson(*items: Any) -> bytes:
    return b"".join(orjson.dumps(item) + b"\n" for item in items)
