"""Names of labels, annotations and finalizers under `niyanta.io/`, and conversion of text to a valid label value."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Final

GROUP = "niyanta.io"
VERSION = "v1alpha1"
API_VERSION: Final = "niyanta.io/v1alpha1"
PREFIX = f"{GROUP}/"

WORKLOAD = "niyanta.io/workload"
"""Name of the Workload object."""
WORKLOAD_UID = "niyanta.io/workload-uid"
CUSTOMER = "niyanta.io/customer"
ATTEMPT = "niyanta.io/attempt"
INDEX = "niyanta.io/index"
EPOCH = "niyanta.io/epoch"
"""Epoch of the leader that made the pod; the fence policy compares it."""
POOL = "niyanta.io/pool"
TYPE = "niyanta.io/type"
"""Type of the workload. With the customer and WORKLOAD_LABELS it is the subject of other workloads' terms: a pod of a
past attempt stays a peer after a failover, when only the pod is left to tell."""
WORKLOAD_LABELS = "niyanta.io/workload-labels"
"""Annotation of a pod: the labels of the Workload as a JSON object."""
REST_ID = "niyanta.io/rest-id"
"""On the Workload object of a REST submission: the id of its row."""
ENABLED = "niyanta.io/enabled"
"""On a Namespace: "true" lets the operator create pods in it."""
OUTCOME_FINALIZER = "niyanta.io/outcome"
"""Keeps a finished pod until its outcome is committed."""
SCALE_DOWN = "niyanta.io/scale-down"
"""Annotation of a Node that was cordoned for removal: the pool that is scaled down."""
SCALE_DOWN_DISABLED = "niyanta.io/scale-down-disabled"
"""Annotation that users set on a Node: "true" protects the worker from removal."""

_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?")


def pod_annotations(workload_labels: Mapping[str, str]) -> dict[str, str]:
    """The operator's annotations of a pod."""
    if not workload_labels:
        return {}
    return {WORKLOAD_LABELS: json.dumps(dict(sorted(workload_labels.items())), separators=(",", ":"))}


def workload_labels(annotations: Mapping[str, str]) -> dict[str, str]:
    """Labels of the Workload, from the annotations of one of its pods; empty if they can't be read."""
    try:
        found = json.loads(annotations.get(WORKLOAD_LABELS, "{}"))
    except (ValueError, RecursionError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def label_value(text: str) -> str:
    """`text` if it is a valid label value, else a valid prefix and 8 hex digits of its hash (at most 63 characters)."""
    if _VALUE.fullmatch(text):
        return text
    head = re.sub(r"[^-A-Za-z0-9_.]", "-", text)[:54].strip("-_.") or "x"
    return f"{head}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
