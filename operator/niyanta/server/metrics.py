"""Metrics of submissions. Metrics of all requests are in `middleware`."""

from __future__ import annotations

from collections import Counter as Sum
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prometheus_client import Counter

from niyanta.observability.gauges import LiveGauge
from niyanta.resources.models.customer import Tier
from niyanta.server.problems import INTERNAL, KINDS, PREFIX, UNAVAILABLE, Problem
from niyanta.store.errors import ConflictError, StoreError, StoreUnavailableError

ACCEPTED = Counter("niyanta_api_submissions_accepted_total", "Workloads accepted, by the customer's tier", ["tier"])
REFUSED = Counter(
    "niyanta_api_submissions_refused_total",
    "Workloads refused, by problem type; a batch that is refused as a whole counts once",
    ["reason"],
)
REPLAYED = Counter(
    "niyanta_api_submissions_replayed_total", "Submissions answered with the stored answer of their Idempotency-Key"
)
QUEUE_DEPTH = LiveGauge(
    "niyanta_api_queue_depth", "Pending, held and suspended workloads, as the REST door counts them"
)
QUEUE_LIMIT = LiveGauge("niyanta_api_queue_limit", "Waiting workloads above which the REST door answers 503")

for _tier in Tier:
    ACCEPTED.labels(_tier.value)
for _kind in KINDS:
    REFUSED.labels(_kind.name)


@contextmanager
def submission() -> Iterator[None]:
    """Count the refusal when the enclosed submission raises one."""
    try:
        yield
    except Problem as problem:
        REFUSED.labels(problem.kind.name).inc()
        raise
    except (StoreUnavailableError, ConflictError):
        REFUSED.labels(UNAVAILABLE.name).inc()
        raise
    except StoreError:
        REFUSED.labels(INTERNAL.name).inc()
        raise


def batch(items: Iterable[Mapping[str, Any]], tier: str) -> None:
    """Count the accepted and refused items of a batch."""
    refused = Sum(item["problem"]["type"].removeprefix(PREFIX) if item["problem"] else "" for item in items)
    ACCEPTED.labels(tier).inc(refused.pop("", 0))
    for reason, count in refused.items():
        REFUSED.labels(reason).inc(count)
