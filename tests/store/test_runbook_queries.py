"""Every query in the runbooks runs on the current schema."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

pytestmark = pytest.mark.store

RUNBOOKS = Path(__file__).parent.parent.parent / "docs" / "runbooks"
QUERIES = [
    pytest.param(query, id=f"{path.stem}-{number}")
    for path in sorted(RUNBOOKS.glob("*.md"))
    for number, query in enumerate(re.findall(r'psql "\$NIYANTA_DSN" -c "([^"]+)"', path.read_text()))
]


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_of_a_runbook_runs(dsn: str, query: str) -> None:
    assert query.startswith("SELECT ")
    with psycopg.connect(dsn) as connection:
        connection.execute(query.encode())
