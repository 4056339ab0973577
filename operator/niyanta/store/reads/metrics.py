"""Metrics of reads from replicas. The label `replica` is host:port, never the rest of a connection string."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import Counter

from niyanta.observability.gauges import LiveGauge, Values

PRIMARY = "primary"

READS = Counter(
    "niyanta_postgres_reads_total",
    "Statements of reads that may return old data, by the server that answered (a replica, or primary)",
    ["target"],
)
ON_PRIMARY = Counter(
    "niyanta_postgres_reads_on_primary_total",
    "Requests whose reads went to the primary although replicas are configured, by reason: no_replica (no replica is "
    "fresh), position (the caller's last write isn't replayed yet), missing (row unknown to the replica), failed",
    ["reason"],
)
for _reason in ("no_replica", "position", "missing", "failed"):
    ON_PRIMARY.labels(_reason)

_LAG = LiveGauge("niyanta_postgres_replica_lag_seconds", "Seconds that a replica is behind the primary", ["replica"])
_UP = LiveGauge("niyanta_postgres_replica_up", "1 while a replica answers and follows the primary", ["replica"])
_IN_USE = LiveGauge(
    "niyanta_postgres_replica_in_use",
    "1 while reads go to a replica: it is up, and its lag is at most max_replica_lag",
    ["replica"],
)


@dataclass(frozen=True, slots=True)
class ReplicaHealth:
    """State of a replica at its last check; `lag` in seconds."""

    replica: str
    up: bool
    in_use: bool
    lag: float


HealthSource = Callable[[], list[ReplicaHealth]]
_watched: list[HealthSource] = []


def watch(source: HealthSource) -> None:
    """Export the health of a router's replicas, read at each scrape."""
    _watched.append(source)


def unwatch(source: HealthSource) -> None:
    """Stop exporting the health of a router's replicas."""
    if source in _watched:
        _watched.remove(source)


def _of(value: Callable[[ReplicaHealth], float]) -> Callable[[], Values]:
    return lambda: {(found.replica,): value(found) for source in list(_watched) for found in source()}


_LAG.ask(_of(lambda found: found.lag))
_UP.ask(_of(lambda found: found.up))
_IN_USE.ask(_of(lambda found: found.in_use))
