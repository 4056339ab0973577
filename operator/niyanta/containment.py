"""Boundaries of faults: an unexpected error stays with the object that caused it, and everything else goes on.

Code at a boundary handles one thing at a time (an object, a row, a pool, a pod). It lets faults pass that concern more
than this one thing (`SharedFaultError`: Postgres or the API server is away, leadership is over) and contains every
other exception: logs it, counts it, and leaves the thing out or parks it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter

from niyanta.observability import log

logger = log.get(__name__)


class Boundary(enum.StrEnum):
    """Places where errors are contained; values of the label `boundary`."""

    OBJECT = "object"
    """A watched Workload object."""
    CUSTOMER = "customer"
    WORKER = "worker"
    """A node."""
    ROW = "row"
    DELTA = "delta"
    """A change of the cluster that a snapshot of the engine could not follow."""
    REQUIREMENT_CLASS = "requirement_class"
    """Requirements that the engine could not decide on."""
    POD = "pod"
    """Observation of the pods of one workload."""
    POD_WRITE = "pod_write"
    OBJECT_WRITE = "object_write"
    """Creation or deletion of a Workload object."""
    STATUS = "status"
    """A status or an Event of one object."""
    POOL = "pool"
    POOL_SIZE = "pool_size"
    """Sizing of the pools for waiting workloads."""
    EXPEDITED_LANE = "expedited_lane"
    STATISTICS = "statistics"
    TIMER = "timer"
    """Work that time starts."""
    PHASE = "phase"
    """A phase of the leader's round; errors that no smaller boundary contained."""
    DRAIN = "drain"
    LISTENER = "listener"
    """A listener of a watch."""
    METRICS_ADAPTER = "metrics_adapter"
    TASK = "task"
    """A task in the background, which is started again."""
    REQUEST = "request"
    """A request to the REST door."""


CONTAINED_ERRORS = Counter(
    "niyanta_contained_errors_total",
    "Unexpected errors that were contained to the thing that caused them",
    ["boundary"],
)
for _boundary in Boundary:
    CONTAINED_ERRORS.labels(_boundary.value)


class SharedFaultError(Exception):
    """Base of errors that concern more than one object; no boundary contains them."""


def record(boundary: Boundary, subject: str, error: Exception) -> None:
    """Log and count an error that a boundary contained. `subject` names the thing: an id, or namespace/name."""
    CONTAINED_ERRORS.labels(boundary.value).inc()
    logger.error(
        "an unexpected error was contained",
        boundary=boundary.value,
        subject=subject,
        error=describe(error),
        exc_info=error,
    )


def describe(error: Exception) -> str:
    """An error in one bounded line for logs: its type and the beginning of its text."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


@contextmanager
def contained(boundary: Boundary, subject: str) -> Iterator[None]:
    """Contain any error of the block but SharedFaultError. The block's result is lost then: code that must park the
    thing catches the exception itself and calls `record`."""
    try:
        yield
    except SharedFaultError:
        raise
    except Exception as error:
        record(boundary, subject, error)
