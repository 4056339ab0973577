"""Create a backlog of REST submissions with a few set-based statements, including counters and names."""

from __future__ import annotations

import json
from typing import Any

import psycopg

POD: dict[str, Any] = {
    "containers": [
        {
            "name": "main",
            "image": "registry.example/job:1",
            "resources": {"requests": {"cpu": "500m", "memory": "256Mi"}},
            "securityContext": {
                "runAsNonRoot": True,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        }
    ]
}

_SPECS = """
INSERT INTO workloads (id, door, namespace, name, customer_id, generation, spec, class_id, replicas, created_at,
                       queue_base)
SELECT gen_random_uuid(), 'rest', 'n' || n %% %(customers)s, 'w-' || n, 'c' || n %% %(customers)s, 1,
       jsonb_set(%(spec)s::jsonb, '{template,spec,containers,0,resources,requests,cpu}',
                 to_jsonb((%(cpu)s + n %% %(classes)s) || 'm')),
       md5((n %% %(classes)s)::text), 1, now() - n * interval '1 millisecond',
       md5((n %% %(customers)s) || '/' || (n %% %(classes)s))
  FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
"""
_STATES = """
INSERT INTO workload_state (id, door, customer_id, class_id, status, priority, tier_weight, queue_key, queued_at,
                            created_at, queue_class, waited_us, waiting_since)
SELECT id, 'rest', customer_id, class_id, 'PENDING', priority, 10,
       priority * 10 * 60000000::bigint - 5 * (extract(epoch FROM created_at) * 1000000)::bigint, created_at,
       created_at, md5(queue_base), 0, created_at -- the class without visible labels, as migration 0014 computes it
  FROM (SELECT *, abs(hashtext(name)) % 101 AS priority FROM workloads) AS w
"""
_REST = """
INSERT INTO queue_counters (customer_id, class_id, pending)
SELECT customer_id, class_id, count(*) FROM workload_state GROUP BY 1, 2;
INSERT INTO customer_counts (customer_id, pending) SELECT customer_id, count(*) FROM workload_state GROUP BY 1;
INSERT INTO queue_class_counts (customer_id, queue_class, pending, pending_rest)
SELECT customer_id, queue_class, count(*), count(*) FROM workload_state GROUP BY 1, 2;
INSERT INTO rest_names (customer_id, name, id) SELECT customer_id, name, id FROM workloads;
"""
_CHUNK_ROWS = 250_000


def fill(dsn: str, rows: int, *, customers: int, classes: int, cpu: int = 500) -> None:
    """Fill an empty, migrated database with `rows` pending submissions and analyze it.

    The submissions are spread over `customers` customers and `classes` requirement classes, which ask for `cpu`
    millicores and more, each for another amount.
    """
    spec = json.dumps({"template": {"spec": POD}})
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")  # skips foreign key checks
        connection.execute("SET synchronous_commit = off")
        for first in range(1, rows + 1, _CHUNK_ROWS):
            params = {"customers": customers, "classes": classes, "spec": spec, "cpu": cpu}
            connection.execute(_SPECS.encode(), {**params, "first": first, "last": min(rows, first + _CHUNK_ROWS - 1)})
        connection.execute(_STATES.encode())
        connection.execute(_REST.encode())
        connection.execute("VACUUM ANALYZE workloads, workload_state, queue_counters, queue_class_counts, rest_names")
