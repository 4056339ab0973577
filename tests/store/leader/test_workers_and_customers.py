"""Workers with their capacity, and customers, as the REST door reads them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from niyanta.store.rows import CustomerRow, WorkerRow
from niyanta.store.state import StateManager

pytestmark = pytest.mark.store

_WORKER = WorkerRow(
    name="w1",
    pool="a100",
    region="eu",
    zone="eu-1",
    gpu_model="A100",
    allocatable={"cpu": 8000, "memory": 2**35, "nvidia.com/gpu": 8},
    used={"cpu": 3000, "nvidia.com/gpu": 9},
    slots=10,
    slots_used=4,
)


async def test_available_workers_have_their_free_capacity(state: StateManager) -> None:
    full = replace(_WORKER, name="full", slots_used=10)
    cordoned = replace(_WORKER, name="cordoned", cordoned=True)
    away = replace(_WORKER, name="away", ready=False)
    plain = replace(_WORKER, name="plain", pool="cpu", gpu_model="", region="us", slots=None)
    await state.upsert_workers([_WORKER, full, cordoned, away, plain])

    workers = await state.get_available_workers()

    assert [worker.name for worker in workers] == ["plain", "w1"]
    assert workers[1].free == {"cpu": 5000, "memory": 2**35, "nvidia.com/gpu": 0}
    assert (workers[1].free_slots, workers[0].free_slots) == (6, None)
    assert [worker.name for worker in await state.get_available_workers(pool="cpu")] == ["plain"]
    assert [worker.name for worker in await state.get_available_workers(gpu_model="A100", region="eu")] == ["w1"]


async def test_workers_are_replaced_and_deleted(state: StateManager) -> None:
    await state.upsert_workers([_WORKER])
    await state.upsert_workers([replace(_WORKER, used={}, slots_used=0, zone="eu-2")])
    (worker,) = await state.get_available_workers()
    assert (worker.used, worker.free_slots, worker.zone) == ({}, 10, "eu-2")
    await state.delete_workers(["w1", "unknown"])
    assert await state.get_available_workers() == []


async def test_customers_are_replaced_and_marked_when_deleted(state: StateManager) -> None:
    acme = CustomerRow("acme", "Premium", {"maxQueueDepth": 100}, ("team-a", "team-b"), 3)
    free = CustomerRow("free", "Free")
    await state.upsert_customers([free, acme])
    assert await state.get_customers() == [acme, free]
    await state.delete_customer("acme")
    assert await state.get_customers() == [replace(acme, deleted=True), free]
    await state.upsert_customers([acme])
    assert await state.get_customers() == [acme, free]
