"""Responses of the custom.metrics.k8s.io adapter by path and caller, from demand statistics that are recent enough.

`server` serves them by HTTP. Every response comes from memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import orjson

from niyanta.custom_metrics import documents
from niyanta.custom_metrics.documents import (
    GROUP,
    NAMESPACE_METRICS,
    NAMESPACES,
    POOL_METRICS,
    POOLS,
    PREFIX,
    Document,
    StatusError,
    StatusReason,
    Value,
)
from niyanta.custom_metrics.front_proxy import FrontProxy
from niyanta.custom_metrics.label_selector import parse as parse_selector
from niyanta.custom_metrics.stats_reader import StaleStatsError, StatsReader
from niyanta.store.leader.demand_stats import DemandStats, NamespaceStats

JSON = "application/json"
EVERY_OBJECT = "*"
SHOWN = 20
"""Most names listed in a message."""

PoolLabels = Callable[[], Mapping[str, Mapping[str, str]]]
"""Returns the WorkerPools with their labels."""


@dataclass(frozen=True, slots=True)
class MetricQuery:
    """One request. `path` is escaped; `certificate` is the caller's, verified by the TLS layer."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    certificate: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class MetricResponse:
    """One response. `about` is the subject of the request, a label of the adapter's own metrics."""

    status: int
    body: bytes
    about: str
    headers: Mapping[str, str] = field(default_factory=dict)


class CustomMetricsRoutes:
    """Answers queries for the pools of one namespace, and for every namespace."""

    def __init__(self, stats_reader: StatsReader, *, namespace: str, pools: PoolLabels) -> None:
        self.front_proxy = FrontProxy()
        """Authenticates callers; the server replaces it when the ConfigMap changes."""
        self._stats = stats_reader
        self._namespace = namespace
        self._pools = pools
        fixed = {
            f"/apis/{GROUP}": documents.group(),
            PREFIX: documents.resources(),
            "/openapi/v2": documents.openapi_v2(),
            "/openapi/v3": documents.openapi_v3_index(),
            f"/openapi/v3{PREFIX}": documents.openapi_v3(),
        }
        self._fixed = {path: orjson.dumps(document) for path, document in fixed.items()}
        self._groups = orjson.dumps(documents.groups())
        self._aggregated = orjson.dumps(documents.aggregated())

    def answer(self, query: MetricQuery) -> MetricResponse:
        """The response to a query; errors of the caller become a Status."""
        about = _about(query.path)
        try:
            self.front_proxy.user(query.certificate, query.headers)
            if query.method not in ("GET", "HEAD"):
                raise StatusError(
                    StatusReason.METHOD_NOT_ALLOWED, f"{query.method} is not served: metrics are only read"
                )
            return self._fixed_document(query, about) or MetricResponse(200, orjson.dumps(self._values(query)), about)
        except StatusError as error:
            return MetricResponse(error.code, orjson.dumps(error.document()), about)

    def _fixed_document(self, query: MetricQuery, about: str) -> MetricResponse | None:
        """Discovery and OpenAPI, which don't depend on Postgres or the leader; None for other paths."""
        path = query.path.rstrip("/")
        if path == "/apis":
            accepted = query.headers.get("Accept", "").replace(" ", "").split(",")
            wanted = any({"as=APIGroupDiscoveryList", "v=v2"} <= set(item.split(";")) for item in accepted)
            if not wanted:
                return MetricResponse(200, self._groups, about, {"Vary": "Accept"})
            return self._tagged(
                query, MetricResponse(200, self._aggregated, about, {"Content-Type": documents.AGGREGATED})
            )
        body = self._fixed.get(path)
        return self._tagged(query, MetricResponse(200, body, about)) if body is not None else None

    def _tagged(self, query: MetricQuery, full: MetricResponse) -> MetricResponse:
        """The response with an ETag; 304 without a body if the caller has it."""
        tag = f'"{hashlib.sha256(full.body).hexdigest().upper()}"'
        headers = {**full.headers, "ETag": tag, "Vary": "Accept"}
        if query.headers.get("If-None-Match") == tag:
            return MetricResponse(304, b"", full.about, headers)
        return MetricResponse(200, full.body, full.about, headers)

    # --- values ------------------------------------------------------------------------------------------------------

    def _values(self, query: MetricQuery) -> Document:
        parts = [unquote(part) for part in query.path.removeprefix(PREFIX).strip("/").split("/")]
        if not query.path.startswith(f"{PREFIX}/") or len(parts) < 2 or parts[0] != "namespaces":
            raise _no_path(query.path)
        if query.query.get("metricLabelSelector"):
            raise StatusError(StatusReason.BAD_REQUEST, "these metrics have no labels: leave metric.selector out")
        namespace, rest = parts[1], parts[2:]
        match rest:
            case ["metrics", metric]:
                return self._of_namespaces(namespace, metric, query.query.get("labelSelector", ""))
            case [resource, name, metric] if resource == POOLS:
                return self._of_pools(namespace, name, metric, query.query.get("labelSelector", ""))
            case [resource, _, _]:
                message = f"there are no metrics of {resource}: only of {POOLS} and {NAMESPACES}"
                raise StatusError(StatusReason.NOT_FOUND, message)
        raise _no_path(query.path)

    def _of_pools(self, namespace: str, name: str, metric: str, selector: str) -> Document:
        if metric not in POOL_METRICS:
            raise _no_metric(metric, "a WorkerPool", POOL_METRICS)
        pools = self._pools()
        if namespace != self._namespace:
            message = f"WorkerPools are served in the namespace {self._namespace} only, not in {namespace}"
            raise StatusError(StatusReason.NOT_FOUND, message)
        if name != EVERY_OBJECT:
            stats = self._current_stats()
            found = stats.pool(name)
            if found is None and name in pools:
                raise StatusError(StatusReason.SERVICE_UNAVAILABLE, f"the WorkerPool {name} was not counted yet")
            if found is None:
                message = f"there is no WorkerPool {name}; there are: {_listed(pools)}"
                raise StatusError(StatusReason.NOT_FOUND, message)
            return documents.value_list([documents.pool_value(namespace, metric, found)], stats)
        try:
            selects = parse_selector(selector)
        except ValueError as error:
            raise StatusError(StatusReason.BAD_REQUEST, str(error)) from None
        stats = self._current_stats()
        chosen = [pool for pool in stats.pools if selects(pools.get(pool.pool, {}))]
        return documents.value_list([documents.pool_value(namespace, metric, pool) for pool in chosen], stats)

    def _of_namespaces(self, namespace: str, metric: str, selector: str) -> Document:
        if metric not in NAMESPACE_METRICS:
            raise _no_metric(metric, "a Namespace", NAMESPACE_METRICS)
        if namespace == EVERY_OBJECT and selector:
            message = "labels of namespaces are not known to Niyanta: leave labelSelector out"
            raise StatusError(StatusReason.BAD_REQUEST, message)
        stats = self._current_stats()
        chosen: Iterable[NamespaceStats] = stats.namespaces
        if namespace != EVERY_OBJECT:
            # A namespace without workloads isn't in the statistics; its values are 0.
            chosen = [stats.namespace(namespace) or NamespaceStats(namespace)]
        return documents.value_list([_value(metric, one) for one in chosen], stats)

    def _current_stats(self) -> DemandStats:
        try:
            return self._stats.current()
        except StaleStatsError as error:
            raise StatusError(StatusReason.SERVICE_UNAVAILABLE, str(error)) from None


def _value(metric: str, stats: NamespaceStats) -> Value:
    return documents.namespace_value(metric, stats)


def _no_metric(metric: str, of: str, known: Iterable[str]) -> StatusError:
    return StatusError(StatusReason.NOT_FOUND, f"{of} has no metric {metric}; it has: {', '.join(known)}")


def _no_path(path: str) -> StatusError:
    return StatusError(
        StatusReason.NOT_FOUND,
        f"{path[:200]} is not served; metrics are at {PREFIX}/namespaces/NAMESPACE/{POOLS}/NAME/METRIC and "
        f"{PREFIX}/namespaces/NAMESPACE/metrics/METRIC",
    )


def _listed(names: Iterable[str]) -> str:
    found = sorted(names)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return (", ".join(found[:SHOWN]) or "none") + more


def _about(path: str) -> str:
    """Subject of a path as a metric label, one of few values."""
    if path.startswith(f"{PREFIX}/"):
        return "pools" if f"/{POOLS}/" in path else "namespaces" if "/metrics/" in path else "other"
    if path == "/apis" or path.startswith(("/apis/", "/apis?")):
        return "discovery"
    return "openapi" if path.startswith("/openapi/") else "other"
