"""Customers over REST."""

from __future__ import annotations

import httpx
import pytest

pytestmark = pytest.mark.store


async def test_only_admins_list_all_customers(client: httpx.AsyncClient, admin: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/customers")).status_code == 403
    assert [item["name"] for item in (await admin.get("/v1/customers")).json()["items"]] == ["acme", "other"]
