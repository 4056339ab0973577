"""What the operator takes from a WorkerPool."""

from __future__ import annotations

import pytest

from niyanta.cluster.pools import pool_views
from niyanta.resources.worker_pool import WorkerPool

pytestmark = pytest.mark.unit


def test_a_pools_gpu_keeps_the_resource_it_names() -> None:
    gpu = {"model": "MI300X", "count": 2, "memory": "192Gi", "resource": "example.com/accelerator"}
    pool = WorkerPool.model_validate(
        {"metadata": {"name": "odd"}, "spec": {"nodeSelector": {"matchLabels": {"a": "b"}}, "gpu": gpu}}
    )
    (view,) = pool_views([pool])
    assert view.gpu is not None
    assert (view.gpu.model, view.gpu.count, view.gpu.memory) == ("MI300X", 2, 192 * 2**30)
    assert view.gpu.resource == "example.com/accelerator"
