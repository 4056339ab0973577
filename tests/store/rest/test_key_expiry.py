"""Keys that expire soon are counted while a process leads."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY

from niyanta.store.errors import StoreUnavailableError
from niyanta.store.postgres.pool import Pool
from niyanta.store.rest import key_expiry
from niyanta.store.rest.api_keys import ApiKeys, Role
from niyanta.store.rest.key_expiry import report_expiring_keys
from tests.fakes.scripted_api_server import until

pytestmark = pytest.mark.store


def shown() -> float | None:
    return REGISTRY.get_sample_value("niyanta_api_keys_expiring")


async def test_only_live_keys_that_expire_within_the_time_count(pool: Pool) -> None:
    keys = ApiKeys(pool)
    before = await keys.expiring(7)
    for days in (None, 90, 8, 6, 0.5):
        await keys.create("expiring", Role.CUSTOMER, expires_in_days=days)
    revoked, _ = await keys.create("expiring", Role.CUSTOMER, expires_in_days=3)
    await keys.revoke(revoked.id)
    expired, _ = await keys.create("expiring", Role.CUSTOMER, expires_in_days=1e-9)
    assert expired.expires_at is not None
    assert await keys.expiring(7) - before == 2


async def test_the_metric_is_shown_while_the_task_runs(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_expiry, "INTERVAL_SECONDS", 0.01)
    keys = ApiKeys(pool)
    asked = 0

    async def expiring(days: float) -> int:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise StoreUnavailableError("away")
        return 3

    monkeypatch.setattr(keys, "expiring", expiring)
    task = asyncio.create_task(report_expiring_keys(keys))
    await until(lambda: shown() == 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert shown() is None
