"""API keys: authentication, roles, and isolation between customers."""

from __future__ import annotations

import uuid

import httpx
import pytest

from niyanta.server import auth
from niyanta.store.postgres.pool import Pool
from niyanta.store.rest.api_keys import ApiKeys, Role
from niyanta.store.rest.record import RestStore
from tests.server.make import manifest

pytestmark = pytest.mark.store


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer x",
        "Basic abc",
        "Bearer nyt_acme_" + "0" * 64,
        "Bearer nyt_acme_g",
        "Bearer \x7f",
    ],
)
async def test_a_request_without_a_valid_key_is_refused(
    app_client: tuple[object, httpx.AsyncClient], header: str
) -> None:
    answer = await app_client[1].get("/v1/workloads", headers={"Authorization": header} if header else {})
    assert (answer.status_code, answer.json()["type"]) == (401, "urn:niyanta:problem:unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_a_key_fails_under_another_customers_name(client: httpx.AsyncClient, key: str) -> None:
    forged = key.replace("nyt_acme_", "nyt_other_")
    assert (await client.get("/v1/customer", headers={"Authorization": f"Bearer {forged}"})).status_code == 401


async def test_expired_and_revoked_keys_stop_working(
    client: httpx.AsyncClient, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "CACHE_SECONDS", 0.0)
    chain = ApiKeys(pool)
    made, token = await chain.create("acme", Role.CUSTOMER, expires_in_days=1)
    headers = {"Authorization": f"Bearer {token}"}
    assert (await client.get("/v1/customer", headers=headers)).status_code == 200
    async with pool.connection() as connection:
        await connection.execute("UPDATE api_keys SET expires_at = now() WHERE id = %s", [made.id])
    assert (await client.get("/v1/customer", headers=headers)).status_code == 401
    other, token = await chain.create("acme", Role.CUSTOMER)
    headers = {"Authorization": f"Bearer {token}"}
    assert (await client.get("/v1/customer", headers=headers)).status_code == 200
    assert [key.id for key in await chain.revoke(other.prefix)] == [other.id]
    assert await chain.revoke(other.id) == []
    assert (await client.get("/v1/customer", headers=headers)).status_code == 401


async def test_keys_are_hashed_at_rest(pool: Pool) -> None:
    _, token = await ApiKeys(pool).create("acme", Role.CUSTOMER, name="ci")
    assert token.startswith("nyt_acme_")
    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT to_jsonb(k)::text FROM api_keys k")
        (text,) = await cursor.fetchone() or ("",)
    assert token not in text
    assert token.rsplit("_", 1)[1] not in text
    with pytest.raises(ValueError, match="Customer"):
        await ApiKeys(pool).create("No_Name", Role.CUSTOMER)


async def test_another_customers_workload_is_not_found(
    client: httpx.AsyncClient, admin: httpx.AsyncClient, store: RestStore
) -> None:
    body = manifest(customer="other")
    body["metadata"]["namespace"] = "other"
    foreign = (await admin.post("/v1/workloads", json=body)).json()["id"]
    missing = str(uuid.uuid4())
    paths = ["", "/explain", "/events"]
    for path in paths:
        theirs, unknown = [await client.get(f"/v1/workloads/{id_}{path}") for id_ in (foreign, missing)]
        assert theirs.status_code == unknown.status_code == 404
        assert theirs.json() == unknown.json()
        assert (await admin.get(f"/v1/workloads/{foreign}{path}")).status_code == 200
    for action in ("cancel", "suspend", "resume"):
        assert (await client.post(f"/v1/workloads/{foreign}/{action}")).status_code == 404
    assert (await client.get("/v1/workloads")).json()["items"] == []
    assert (await client.get("/v1/workloads", params={"customer": "other"})).json()["items"] == []
    assert (await client.get("/v1/customer", params={"customer": "other"})).status_code == 404
    assert (await client.get("/v1/customer/stats", params={"customer": "other"})).status_code == 404
    depth = (await client.get("/v1/metrics/queue-depth")).json()
    assert (depth["total"], depth["byCustomer"], depth["oldestAgeSeconds"]) == (0, {}, None)
    row = await store.get_workload(foreign)
    assert row is not None
    assert row.version == 1


async def test_a_customer_may_submit_only_for_itself(client: httpx.AsyncClient) -> None:
    body = manifest(customer="other")
    body["metadata"]["namespace"] = "other"
    answer = await client.post("/v1/workloads", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "spec.customer")


@pytest.mark.parametrize("namespace", ["other", "kube-system", "niyanta-system", "missing"])
async def test_a_namespace_must_be_listed_by_name(client: httpx.AsyncClient, namespace: str) -> None:
    body = manifest()
    body["metadata"]["namespace"] = namespace
    answer = await client.post("/v1/workloads", json=body)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:niyanta:problem:customer-not-allowed")
    assert answer.json()["errors"][0]["field"] == "metadata.namespace"
