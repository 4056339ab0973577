"""How a pool was scaled, as the REST door tells admins."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from niyanta.store.leader.scaling import ScalingDecision
from niyanta.store.leadership import Leadership
from niyanta.store.postgres.pool import Pool
from niyanta.store.rest.api_keys import ApiKeys, Role
from niyanta.store.rest.record import RestStore

pytestmark = pytest.mark.store

PATH = "/v1/pools/gpu/decisions"


async def test_admins_read_decisions_page_by_page(
    app_client: tuple[FastAPI, httpx.AsyncClient], pool: Pool, record: RestStore
) -> None:
    epoch = await Leadership(pool, "leader", 60.0).try_acquire()
    await record.record_scaling([ScalingDecision("gpu", "ScaleUp", wanted=n) for n in range(5)], epoch=epoch)
    client = app_client[1]
    for role, status in ((Role.CUSTOMER, 403), (Role.ADMIN, 200)):
        _, token = await ApiKeys(pool).create("ops", role)
        client.headers["Authorization"] = f"Bearer {token}"
        answer = await client.get(PATH, params={"limit": 3})
        assert answer.status_code == status
    page = answer.json()
    rest = (await client.get(PATH, params={"limit": 3, "cursor": page["next"]})).json()
    assert [item["wanted"] for item in (*page["items"], *rest["items"])] == [4, 3, 2, 1, 0]
    assert rest["next"] is None
    assert (await client.get("/v1/pools/none/decisions")).json() == {"items": [], "next": None}
