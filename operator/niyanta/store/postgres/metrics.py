"""Prometheus metrics of the connections to Postgres: errors counted by `pool`, and statistics of psycopg's pools."""

from __future__ import annotations

from collections import Counter as Sum
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import Counter, Gauge

from niyanta.observability.gauges import LiveCounter, LiveGauge, Values
from niyanta.store.errors import ConflictError, StaleEpochError, StoreError, StoreUnavailableError, too_slow

UP = Gauge("niyanta_postgres_up", "1 when the last use of the primary succeeded, 0 when it did not answer")
ERRORS = Counter("niyanta_postgres_errors_total", "Statements and connections that ended in an error", ["error"])
for _kind in ("unavailable", "conflict", "other"):
    ERRORS.labels(_kind)

_CONNECTIONS = LiveGauge(
    "niyanta_postgres_pool_connections", "Open connections of this process's pool", ["role", "state"]
)
_MOST = LiveGauge("niyanta_postgres_pool_max_connections", "Maximum connections of the pool", ["role"])
_WAITING = LiveGauge("niyanta_postgres_pool_waiting_requests", "Requests that wait for a connection", ["role"])
_REQUESTS = LiveCounter("niyanta_postgres_pool_requests_total", "Requests for a connection", ["role"])
_REFUSED = LiveCounter(
    "niyanta_postgres_pool_request_errors_total", "Requests for a connection that timed out", ["role"]
)
_WAITED = LiveCounter(
    "niyanta_postgres_pool_wait_seconds_total", "Time that requests waited for a connection", ["role"]
)
_LOST = LiveCounter("niyanta_postgres_pool_connections_lost_total", "Connections found broken", ["role"])

Stats = Callable[[], Mapping[str, int]]
_watched: dict[Stats, str] = {}


@contextmanager
def counted(*, primary: bool) -> Iterator[None]:
    """Count an error raised by the block, and record whether the primary answered."""
    up = 1.0
    try:
        yield
    except StoreUnavailableError as error:
        ERRORS.labels("unavailable").inc()
        up = 1.0 if too_slow(error) else 0.0
        raise
    except ConflictError:
        ERRORS.labels("conflict").inc()
        raise
    except StaleEpochError:
        raise
    except StoreError:
        ERRORS.labels("other").inc()
        raise
    finally:
        if primary:
            UP.set(up)


def watch(stats: Stats, role: str) -> None:
    """Export a pool's statistics; pools of the same role (primary, replica) are added up."""
    _watched[stats] = role


def unwatch(stats: Stats) -> None:
    """Stop exporting a pool's statistics."""
    _watched.pop(stats, None)


def _total(*, plus: str, minus: str = "", scale: float = 1.0) -> Callable[[], dict[str, float]]:
    """A function for role -> sum over the pools of one of psycopg's statistics, minus another."""

    def total() -> dict[str, float]:
        found: Sum[str] = Sum()
        for stats, role in list(_watched.items()):
            values = stats()
            found[role] += values.get(plus, 0) - values.get(minus, 0)
        return {role: count * scale for role, count in found.items()}

    return total


def _by_role(total: Callable[[], dict[str, float]]) -> Callable[[], Values]:
    return lambda: {(role,): value for role, value in total().items()}


def _connections() -> Values:
    idle, in_use = _total(plus="pool_available")(), _total(plus="pool_size", minus="pool_available")()
    return {(role, state): found[role] for state, found in (("idle", idle), ("in_use", in_use)) for role in found}


_CONNECTIONS.ask(_connections)
_MOST.ask(_by_role(_total(plus="pool_max")))
_WAITING.ask(_by_role(_total(plus="requests_waiting")))
_REQUESTS.ask(_by_role(_total(plus="requests_num")))
_REFUSED.ask(_by_role(_total(plus="requests_errors")))
_WAITED.ask(_by_role(_total(plus="requests_wait_ms", scale=0.001)))
_LOST.ask(_by_role(_total(plus="connections_lost")))
