"""With 50,000 rows, frequent reads use their partial indexes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest

from niyanta.settings import Settings
from niyanta.store.postgres.pool import Pool, open_pool
from testing.processes.postgres import Postgres
from tests.store.make import check_plans, crowded

pytestmark = pytest.mark.store

_ROWS = 50_000
_FILL = f"""
INSERT INTO workloads (id, door, namespace, name, customer_id, generation, spec, class_id, replicas)
SELECT gen_random_uuid(), 'rest', 'n', 'w' || n, 'c' || n % 50, 1, '{{}}', 'class-' || n % 40, 1
  FROM generate_series(1, {_ROWS}) n;
"""
_STATES = """
INSERT INTO workload_state (id, door, customer_id, class_id, queue_class, status, priority, tier_weight, queue_key,
                            queued_at, created_at, workers)
SELECT id, door, customer_id, class_id, class_id,
       CASE WHEN random() < 0.5 THEN 'PENDING' WHEN random() < 0.1 THEN 'RUNNING' ELSE 'SUCCEEDED' END,
       100 * random(), 10, 1e12 * random(), now() - random() * interval '1 hour', now(),
       ARRAY['w' || (1000 * random())::int]
  FROM workloads
"""


def _fill(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")  # no foreign key checks: twice as fast
        connection.execute(_FILL.encode())
        connection.execute(_STATES.encode())
        connection.execute("VACUUM ANALYZE workloads, workload_state")


@pytest.fixture(scope="module")
def big_dsn(postgres: Postgres) -> Iterator[str]:
    with crowded(postgres, "big", _fill) as dsn:
        yield dsn


@pytest.fixture
async def big(big_dsn: str) -> AsyncIterator[Pool]:
    async with await open_pool(Settings(dsn=big_dsn, db_pool_min=1)) as pool:
        yield pool


async def test_frequent_reads_follow_partial_indexes(big: Pool) -> None:
    first = "00000000-0000-0000-0000-000000000000"
    cases: list[tuple[str, dict[str, Any], list[str]]] = [
        (
            "waiting_classes_of",
            {"records": '[{"customer": "c1", "queue_class": "class-1"}]'},
            [f"workload_state_class_{name}" for name in ("key", "oldest")],
        ),
        (
            "class_heads",
            {"records": '[{"customer": "c1", "queue_class": "class-1", "most": 64}]'},
            [f"workload_state_class_{name}" for name in ("key", "oldest", "priority")],
        ),
        ("unclassed", {"limit": 100}, ["workload_state_unclassed"]),
        ("rows_due", {"limit": 100}, ["workload_state_wake"]),
        ("rows_by_worker", {"worker": "w7"}, ["workload_state_workers"]),
        ("rows_active", {"after": first, "limit": 500}, ["workload_state_active"]),
        ("rows_tracked", {"after": first, "limit": 500}, ["workload_state_tracked"]),
        ("lock_full", {"customer": "c1", "limit": 100, "seen": []}, ["workload_state_full"]),
        (
            "changes_window",
            {"xid": "99999999", "id": first, "end": "99999999", "limit": 50, "not_by": 1},
            ["_changed"],
        ),
        (
            "changes_late",
            {"ended": ["99999999", "99999998"], "xid": "0", "id": first, "limit": 50, "not_by": 1},
            ["_changed"],
        ),
    ]
    await check_plans(big, cases, never="Seq Scan on workload_state")
