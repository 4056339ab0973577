"""Metrics of the read/write split. `replica` is host:port, never more of a connection string."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import Counter

from niyanta.observability.gauges import LiveGauge, Values

PRIMARY = "primary"

READS = Counter(
    "niyanta_postgres_reads_total",
    "Statements of reads that may show old data, by the server that answered (a replica, or primary)",
    ["target"],
)
ON_PRIMARY = Counter(
    "niyanta_postgres_reads_on_primary_total",
    "Requests whose reads went to the primary although there are replicas, by reason: no_replica (none is fresh), "
    "position (the caller's own write isn't there yet), missing (unknown to the replica), failed",
    ["reason"],
)
for _reason in ("no_replica", "position", "missing", "failed"):
    ON_PRIMARY.labels(_reason)

_LAG = LiveGauge("niyanta_postgres_replica_lag_seconds", "How far a replica is behind the primary", ["replica"])
_UP = LiveGauge("niyanta_postgres_replica_up", "1 while a replica answers and follows the primary", ["replica"])
_IN_USE = LiveGauge(
    "niyanta_postgres_replica_in_use",
    "1 while reads go to a replica: it is up, and behind by less than max_replica_lag",
    ["replica"],
)


@dataclass(frozen=True, slots=True)
class ReplicaHealth:
    """How a replica was found last; `lag` in seconds."""

    replica: str
    up: bool
    in_use: bool
    lag: float


ReplicaHealths = Callable[[], list[ReplicaHealth]]
_watched: list[ReplicaHealths] = []


def watch(standings: ReplicaHealths) -> None:
    """Show a router's replicas, as they are whenever somebody asks."""
    _watched.append(standings)


def unwatch(standings: ReplicaHealths) -> None:
    """Show them no longer."""
    if standings in _watched:
        _watched.remove(standings)


def _of(figure: Callable[[ReplicaHealth], float]) -> Callable[[], Values]:
    return lambda: {(found.replica,): figure(found) for standings in list(_watched) for found in standings()}


_LAG.ask(_of(lambda found: found.lag))
_UP.ask(_of(lambda found: found.up))
_IN_USE.ask(_of(lambda found: found.in_use))
