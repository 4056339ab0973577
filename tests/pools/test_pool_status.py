"""WorkerPools: their conversion to PoolInfo, and transition times of conditions."""

from __future__ import annotations

import pytest

from niyanta.cluster.state.pool_info import pool_infos
from niyanta.pools.pool_status import stamped
from niyanta.resources.models.worker_pool import WorkerPool

pytestmark = pytest.mark.unit


def test_a_pools_gpu_keeps_the_resource_it_names() -> None:
    gpu = {"model": "MI300X", "count": 2, "memory": "192Gi", "resource": "example.com/accelerator"}
    pool = WorkerPool.model_validate(
        {"metadata": {"name": "odd"}, "spec": {"nodeSelector": {"matchLabels": {"a": "b"}}, "gpu": gpu}}
    )
    (view,) = pool_infos([pool])
    assert view.gpu is not None
    assert (view.gpu.model, view.gpu.count, view.gpu.memory) == ("MI300X", 2, 192 * 2**30)
    assert view.gpu.resource == "example.com/accelerator"


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = stamped([{"type": "Ready", "status": "False", "reason": "NoNodeSelected"}], [], 0)
    assert first[0]["lastTransitionTime"] == "1970-01-01T00:00:00Z"
    other_reason = stamped([{"type": "Ready", "status": "False", "reason": "NoWorkerReady"}], first, 5_000_000)
    assert other_reason[0]["lastTransitionTime"] == "1970-01-01T00:00:00Z"
    ready = stamped([{"type": "Ready", "status": "True", "reason": "WorkersReady"}], other_reason, 9_000_000)
    assert ready[0]["lastTransitionTime"] == "1970-01-01T00:00:09Z"
