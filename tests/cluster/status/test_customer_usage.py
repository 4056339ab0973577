"""Usage of customers: requests of placed pods, their GPUs under the name that the worker gives them."""

from __future__ import annotations

import pytest

from niyanta.cluster.status.customer_usage import as_quantities, usage_by_customer
from niyanta.engine.types import Charge, Gpu, Subject, WorkerInfo

pytestmark = pytest.mark.unit


def worker(name: str, resource: str | None = None) -> WorkerInfo:
    gpu = Gpu("A100", 8, 80 * 2**30, resource) if resource else None
    return WorkerInfo(name=name, pool="p", labels=(), tags=(), allocatable=(), gpu=gpu)


def charge(number: int, customer: str | None, worker_name: str = "cpu", *, gpus: int = 0) -> Charge:
    subject = None if customer is None else Subject("ns", customer, "")
    requests = (("cpu", 1500), ("memory", 2**30), ("pods", 1))
    return Charge(f"w/1/{number}", worker_name, requests, gpu_count=gpus, subject=subject)


async def test_requests_are_added_up_by_customer_and_other_pods_left_out() -> None:
    workers = {"cpu": worker("cpu"), "gpu": worker("gpu", "nvidia.com/gpu")}
    charges = [
        charge(0, "acme"),
        charge(1, "acme", "gpu", gpus=8),
        charge(2, "acme", "gone", gpus=1),
        charge(3, "umbrella"),
        charge(4, None),
    ]
    usage = await usage_by_customer(charges, workers)
    assert {name: as_quantities(used) for name, used in usage.items()} == {
        "acme": {"cpu": "4500m", "memory": "3Gi", "nvidia.com/gpu": "8", "pods": "3"},
        "umbrella": {"cpu": "1500m", "memory": "1Gi", "pods": "1"},
    }
