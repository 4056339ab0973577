"""Documents of the custom.metrics.k8s.io adapter as plain data: discovery, OpenAPI, metric values and errors.

`routes` chooses among them.
"""

from __future__ import annotations

import datetime as dt
import enum
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from niyanta import __version__
from niyanta.resources.labels import API_VERSION
from niyanta.store.leader.demand_stats import DemandStats, NamespaceStats, PoolStats

Document = dict[str, Any]

GROUP = "custom.metrics.k8s.io"
VERSION = "v1beta2"
GROUP_VERSION = f"{GROUP}/{VERSION}"
PREFIX = f"/apis/{GROUP_VERSION}"
POOLS = "workerpools.niyanta.io"
NAMESPACES = "namespaces"

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
"""Media type of aggregated discovery, in requests and responses."""

POOL_METRICS: Mapping[str, Callable[[PoolStats], float]] = {
    "demand": lambda pool: pool.demand,
    "workers_needed": lambda pool: pool.workers_needed,
    "utilization_percent_sum": lambda pool: pool.utilization_percent_sum,
    "queue_depth": lambda pool: pool.queued_workloads,
    "queue_oldest_age_seconds": lambda pool: pool.oldest_age_seconds,
}
NAMESPACE_METRICS: Mapping[str, Callable[[NamespaceStats], float]] = {
    "demand": lambda namespace: namespace.demand,
    "queue_depth": lambda namespace: namespace.queued_workloads,
    "queue_oldest_age_seconds": lambda namespace: namespace.oldest_age_seconds,
}


class StatusReason(enum.Enum):
    """Reasons of error responses: HTTP status and reason of the metav1.Status."""

    BAD_REQUEST = 400, "BadRequest"
    UNAUTHORIZED = 401, "Unauthorized"
    FORBIDDEN = 403, "Forbidden"
    NOT_FOUND = 404, "NotFound"
    METHOD_NOT_ALLOWED = 405, "MethodNotAllowed"
    INTERNAL_ERROR = 500, "InternalError"
    SERVICE_UNAVAILABLE = 503, "ServiceUnavailable"


class StatusError(Exception):
    """An error response; `code` is the HTTP status."""

    def __init__(self, reason: StatusReason, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = reason.value
        self.message = message

    def document(self) -> Document:
        """The error as a metav1.Status."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }


@dataclass(frozen=True, slots=True)
class Value:
    """One metric of one object."""

    kind: str
    api_version: str
    namespace: str
    """"" for objects without a namespace."""
    name: str
    metric: str
    value: float


def pool_value(namespace: str, metric: str, stats: PoolStats) -> Value:
    """A metric of a WorkerPool."""
    return Value("WorkerPool", API_VERSION, namespace, stats.pool, metric, POOL_METRICS[metric](stats))


def namespace_value(metric: str, stats: NamespaceStats) -> Value:
    """A metric of a Namespace."""
    return Value("Namespace", "v1", "", stats.namespace, metric, NAMESPACE_METRICS[metric](stats))


def quantity(value: float) -> str:
    """A value in Kubernetes' notation: whole, or in thousandths rounded up, so that an age is never shown too small."""
    thousandths = math.ceil(round(value * 1000, 6))
    whole, rest = divmod(thousandths, 1000)
    return f"{thousandths}m" if rest else str(whole)


def value_list(values: Iterable[Value], stats: DemandStats) -> Document:
    """A MetricValueList; its timestamp is the time at which the leader counted."""
    counted = dt.datetime.fromtimestamp(stats.at // 1_000_000, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    items = []
    for value in values:
        described = {"kind": value.kind, "namespace": value.namespace, "name": value.name}
        if not value.namespace:
            del described["namespace"]
        items.append(
            {
                "describedObject": {**described, "apiVersion": value.api_version},
                "metric": {"name": value.metric},
                "timestamp": counted,
                "value": quantity(value.value),
            }
        )
    return {"kind": "MetricValueList", "apiVersion": GROUP_VERSION, "metadata": {}, "items": items}


# --- discovery -------------------------------------------------------------------------------------------------------


def group() -> Document:
    """The APIGroup."""
    version = {"groupVersion": GROUP_VERSION, "version": VERSION}
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": GROUP,
        "versions": [version],
        "preferredVersion": version,
    }


def groups() -> Document:
    """The APIGroupList with that group only."""
    item = {key: value for key, value in group().items() if key not in ("kind", "apiVersion")}
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [item]}


def resources() -> Document:
    """The APIResourceList: each metric is listed as a subresource of the described kind."""
    listed = [(POOLS, metric, True) for metric in POOL_METRICS]
    listed += [(NAMESPACES, metric, False) for metric in NAMESPACE_METRICS]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": GROUP_VERSION,
        "resources": [
            {
                "name": f"{resource}/{metric}",
                "singularName": "",
                "namespaced": namespaced,
                "kind": "MetricValueList",
                "verbs": ["get"],
            }
            for resource, metric, namespaced in listed
        ],
    }


def aggregated() -> Document:
    """The same as an APIGroupDiscoveryList, which takes one request instead of three, and an empty one while the ETag
    is valid.

    The described kinds are listed without kind and verbs, because they aren't served here (the API server converts an
    APIResourceList in the same way).
    """
    described = [(POOLS, "Namespaced", POOL_METRICS), (NAMESPACES, "Cluster", NAMESPACE_METRICS)]
    kind = {"group": "", "version": "", "kind": "MetricValueList"}
    found = [
        {
            "resource": resource,
            "scope": scope,
            "singularResource": "",
            "verbs": [],
            "subresources": [{"subresource": metric, "responseKind": kind, "verbs": ["get"]} for metric in metrics],
        }
        for resource, scope, metrics in described
    ]
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": [
            {
                "metadata": {"name": GROUP, "creationTimestamp": None},
                "versions": [{"version": VERSION, "resources": found, "freshness": "Current"}],
            }
        ],
    }


# --- OpenAPI ---------------------------------------------------------------------------------------------------------

_INFO = {"title": "Niyanta metrics adapter", "version": __version__}


def openapi_v2() -> Document:
    """An OpenAPI v2 document without paths; the API server requests one of each aggregated server regularly."""
    return {"swagger": "2.0", "info": _INFO, "paths": {}, "definitions": {}}


def openapi_v3_index() -> Document:
    """Path of the only OpenAPI v3 document. The hash identifies its content, which is constant within a release."""
    place = f"apis/{GROUP_VERSION}"
    return {"paths": {place: {"serverRelativeURL": f"/openapi/v3/{place}?hash={__version__}"}}}


def openapi_v3() -> Document:
    """The OpenAPI v3 document, without paths."""
    return {"openapi": "3.0.0", "info": _INFO, "paths": {}}
