"""Updates of an existing Workload that the API server must accept or reject."""

from __future__ import annotations

from typing import Any

from tests.resources.manifest_bases import MAIN_CONTAINER

CHANGES_ALLOWED: dict[str, Any] = {
    "priority": 90,
    "suspend": True,
    "timeoutSeconds": 60,
    "backoffLimit": 0,
    "ttlSecondsAfterFinished": 1,
    "expectedDurationSeconds": 90,
}
"""Fields of the spec that may change, with a new value."""

CHANGES_REFUSED: dict[str, Any] = {
    "customer": "other",
    "type": "other",
    "replicas": 2,
    "gpu": {"count": 2},
    "affinity": {"hard": {"regions": ["eu"]}},
    "topology": {"key": "topology.kubernetes.io/zone"},
    "template": {"spec": {"containers": [{**MAIN_CONTAINER, "image": "other"}]}},
    "startTimeoutSeconds": 5,
    "nodeLossPolicy": "Replace",
}

"""Fields of the spec that may not change, with a new value."""

TEMPLATE_BEFORE: dict[str, Any] = {
    "containers": [{**MAIN_CONTAINER, "command": ["x"], "resources": {"requests": {"cpu": 1}}}],
    "initContainers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}],
    "volumes": [{"name": "v", "emptyDir": {}}],
    "dnsConfig": {"searches": ["x"]},
    "terminationGracePeriodSeconds": 5,
}
"""A pod spec, the base of TEMPLATE_CHANGES."""

TEMPLATE_CHANGES: dict[str, dict[str, Any]] = {
    "command to args": {"containers": [{**MAIN_CONTAINER, "args": ["x"], "resources": {"requests": {"cpu": 1}}}]},
    "requests to limits": {"containers": [{**MAIN_CONTAINER, "command": ["x"], "resources": {"limits": {"cpu": 1}}}]},
    "cpu to memory": {"containers": [{**MAIN_CONTAINER, "command": ["x"], "resources": {"requests": {"memory": 1}}}]},
    "another quantity": {"containers": [{**MAIN_CONTAINER, "command": ["x"], "resources": {"requests": {"cpu": 2}}}]},
    "order of init containers": {"initContainers": [{"name": "b", "image": "i"}, {"name": "a", "image": "i"}]},
    "emptyDir to hostPath": {"volumes": [{"name": "v", "hostPath": {"path": "/a"}}]},
    "inside of emptyDir": {"volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]},
    "key inside of dnsConfig": {"dnsConfig": {"nameservers": ["x"]}},
    "dnsConfig to hostAliases": {"dnsConfig": None, "hostAliases": [{"ip": "10.0.0.1"}]},
    "grace": {"terminationGracePeriodSeconds": 6},
    "grace to deadline": {"terminationGracePeriodSeconds": None, "activeDeadlineSeconds": 5},
}
"""Changes of TEMPLATE_BEFORE that must be rejected: exchanged keys, another order, fields without a model."""


def template_after(change: str) -> dict[str, Any]:
    """`spec.template.spec` after one of TEMPLATE_CHANGES."""
    after = {**TEMPLATE_BEFORE, **TEMPLATE_CHANGES[change]}
    return {key: value for key, value in after.items() if value is not None}
