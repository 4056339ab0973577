"""Metrics of submissions and of the queue at the REST door."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY

from niyanta.server.app import create_ops_app
from niyanta.settings import Settings
from niyanta.store.rest.record import RestStore
from tests.server.conftest import door
from tests.server.make import manifest, ndjson

pytestmark = pytest.mark.store

NDJSON = {"Content-Type": "application/x-ndjson"}


def counts() -> dict[str, float]:
    """Submissions so far: accepted of tier Premium, replayed, and refused by reason."""

    def value(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"niyanta_api_submissions_{name}_total", labels) or 0.0

    found = {"accepted": value("accepted", tier="Premium"), "replayed": value("replayed")}
    for reason in ("invalid-manifest", "name-taken", "bad-request", "unsupported-media-type"):
        found[reason] = value("refused", reason=reason)
    return found


async def test_every_submission_is_counted_once(client: httpx.AsyncClient, store: RestStore) -> None:
    before = counts()
    keyed = {"Idempotency-Key": "one"}
    for _ in range(3):
        assert (await client.post("/v1/workloads", json=manifest("job"), headers=keyed)).status_code == 202
    assert (await client.post("/v1/workloads", json=manifest("job"))).status_code == 409
    assert (await client.post("/v1/workloads", content=b"x", headers={"Content-Type": "text/plain"})).status_code == 415
    lines = ndjson(manifest("b1"), manifest("b2"), manifest("job"))
    assert (await client.post("/v1/workloads:batch", content=lines, headers=NDJSON)).status_code == 207
    assert (await client.post("/v1/workloads:batch", content=b"", headers=NDJSON)).status_code == 400
    changes = {name: count - before[name] for name, count in counts().items() if count != before[name]}
    assert changes == {
        "accepted": 3,
        "replayed": 2,
        "name-taken": 2,
        "bad-request": 1,
        "unsupported-media-type": 1,
    }


async def test_metrics_have_the_depth_and_limit_of_the_queue(settings: Settings, store: RestStore, key: str) -> None:
    async with door(settings) as (app, client), operations(app) as ops:
        client.headers["Authorization"] = f"Bearer {key}"
        for number in range(3):
            await client.post("/v1/workloads", json=manifest(f"job-{number}"))
        async with asyncio.timeout(30):
            while "\nniyanta_api_queue_depth 3.0\n" not in (text := (await ops.get("/metrics")).text):  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # the sum may be 100 ms old
    assert "\nniyanta_api_queue_limit 1e+06\n" in text


async def test_metrics_are_on_the_metrics_port_alone(settings: Settings, store: RestStore) -> None:
    async with door(settings) as (app, client), operations(app) as ops:
        assert (await ops.get("/metrics")).status_code == 200
        assert (await client.get("/metrics")).status_code == 404
        assert (await client.get("/healthz")).status_code == (await ops.get("/healthz")).status_code == 200


def operations(app: FastAPI) -> httpx.AsyncClient:
    """A client of the metrics port."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_ops_app(app)), base_url="http://operations")
