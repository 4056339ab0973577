"""With 20,000 classes that waited once, reads of a class and the deletion of old ones follow indexes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from niyanta.settings import Settings
from niyanta.store.postgres.pool import Pool, open_pool
from testing.processes.postgres import Postgres
from tests.store.make import check_plans, crowded

pytestmark = pytest.mark.store


def _fill(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO queue_class_counts (customer_id, queue_class, pending, emptied_at)"
            " SELECT 'c' || n % 50, md5(n::text), 0, now() - n * interval '0.1 s' FROM generate_series(1, 20000) n"
        )
        connection.execute(
            "INSERT INTO class_states (customer_id, queue_class, since)"
            " SELECT customer_id, queue_class, now() FROM queue_class_counts"
        )
        connection.execute("VACUUM ANALYZE queue_class_counts, class_states")


@pytest.fixture(scope="module")
def many_dsn(postgres: Postgres) -> Iterator[str]:
    with crowded(postgres, "many_classes", _fill) as dsn:
        yield dsn


@pytest.fixture
async def many(many_dsn: str) -> AsyncIterator[Pool]:
    async with await open_pool(Settings(dsn=many_dsn, db_pool_min=1)) as pool:
        yield pool


async def test_reads_of_a_class_follow_the_keys(many: Pool) -> None:
    names = {"customers": ["c1", "c2"], "classes": ["a" * 32, "b" * 32]}
    one = {"customer": "c1", "queue_class": "a" * 32}
    cases = [
        ("class_states_of", names, ["class_states_pkey"]),
        ("class_count", one, ["queue_class_counts_pkey"]),
    ]
    await check_plans(many, cases, never="Seq Scan on class_states")


async def test_the_oldest_empty_classes_are_found_by_their_index(many: Pool) -> None:
    cases = [("prune_classes", {"seconds": 3600, "limit": 1000}, ["(emptied_at < (now() - "])]
    await check_plans(many, cases, never="Seq Scan on queue_class_counts")
