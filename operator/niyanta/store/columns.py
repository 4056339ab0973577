"""Columns of every kind of row: field of the dataclass in `rows` -> SQL expression that reads it.

The only list of columns. `postgres.queries` generates the SELECT fragments from it (`{{workload_row}}`, ...), and
`row_mapping` builds rows by the same names.
"""

from __future__ import annotations

from typing import Final


def _same(*names: str, **expressions: str) -> dict[str, str]:
    """Columns with the names of their fields, overridden by `expressions`."""
    return {name: name for name in names} | expressions


def _of(table: str, *names: str) -> dict[str, str]:
    return {name: f"{table}.{name}" for name in names}


def _microseconds(column: str) -> str:
    return f"(extract(epoch FROM {column}) * 1000000)::bigint"


# Code of migration 0012 places new attempts without writing pools, and door_move takes workers away and leaves them.
_POOLS_APPLY: Final = "s.pools_attempt = s.attempt AND cardinality(s.pools) = cardinality(s.workers)"
WORKLOAD: Final = (
    {"id": "w.id::text", "customer": "w.customer_id", "phase": "s.status"}
    | _of("w", "door", "namespace", "name", "type", "labels", "generation", "spec", "class_id", "replicas")
    | _of("s", "version", "priority", "tier_weight", "attempt", "failures", "rejections", "not_before", "wake_at")
    | _of("s", "scheduled_at", "started_at", "finished_at", "pool", "workers", "score", "reason", "message")
    | _of("s", "excluded", "queue_key", "created_at", "paused_at")
    | _of("w", "object_uid", "object_name")
    | {"pools": f"CASE WHEN {_POOLS_APPLY} THEN s.pools END"}
    | {"queue_class": "coalesce(s.queue_class, '')", "waited_us": "coalesce(s.waited_us, 0)"}
    | _of("s", "waiting_since")
    | {"queued_at_us": _microseconds("s.queued_at")}
    | {"spec_bytes": "coalesce(w.spec_bytes, octet_length(w.spec::text))"}
)
"""Columns of `workload_state s JOIN workloads w`."""

WORKLOAD_WITHOUT_SPEC: Final = WORKLOAD | {"spec": "'{}'::jsonb"}
"""The same with an empty spec. Specs may be large, and take up to 20 times as much memory when they are decoded."""

EVENT: Final = _same(
    *("id", "workload_id", "at", "event", "from_phase", "to_phase", "attempt", "workers", "score", "reason", "message"),
    *("reasons", "epoch", "cycle"),
    workload_id="workload_id::text",
)
ATTEMPT: Final = _same(
    *("workload_id", "attempt", "workers", "pool", "pools", "score", "epoch", "scheduled_at", "started_at"),
    *("finished_at", "outcome", "reason"),
    workload_id="workload_id::text",
)
WORKER: Final = _same(
    *("name", "pool", "region", "zone", "gpu_model", "allocatable", "used", "slots", "slots_used", "ready"),
    *("cordoned", "updated_at"),
)
CUSTOMER: Final = _same(
    *("name", "tier", "limits", "namespaces", "generation", "deleted", "service_accounts", "secrets"),
    *("allow_cluster_scope", "template_lists"),
)
POOL: Final = _same("name", "spec", "status", "updated_at")
WORKER_REQUEST: Final = _same(
    *("id", "worker", "action", "requested_by", "requested_at", "evict_at", "begun_at", "done_at", "outcome"),
    "message",
    id="id::text",
)
SCALING_DECISION: Final = _same(
    *("id", "at", "epoch", "pool", "action", "worker", "instance", "wanted", "had", "reason", "message")
)
DRAIN: Final = _same(
    *("pool", "instance", "worker", "was_cordoned"),
    **{name: _microseconds(name) for name in ("started_at", "cordoned_at", "evicted_at", "removing_at")},
)
API_KEY: Final = _same(
    *("id", "customer", "role", "name", "prefix", "created_at", "expires_at", "revoked_at"),
    id="id::text",
    customer="customer_id",
)

FRAGMENTS: Final = {
    f"{name}_row": ", ".join(columns.values())
    for name, columns in {
        "workload": WORKLOAD,
        "workload_without_spec": WORKLOAD_WITHOUT_SPEC,
        "event": EVENT,
        "attempt": ATTEMPT,
        "worker": WORKER,
        "customer": CUSTOMER,
        "pool": POOL,
        "worker_request": WORKER_REQUEST,
        "scaling_decision": SCALING_DECISION,
        "drain": DRAIN,
        "api_key": API_KEY,
    }.items()
}
"""SELECT lists by fragment name."""
