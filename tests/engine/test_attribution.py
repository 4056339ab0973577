"""Pending work counts for exactly one pool: the best by score that could hold it on an empty worker, then by name."""

from __future__ import annotations

import pytest

from niyanta.engine.columns import Snapshot
from niyanta.engine.empty import attribute
from niyanta.engine.model import Charge, Gpu, Matcher, Requirements, SoftTerm, Subject, WorkerInfo
from niyanta.engine.place import Options

pytestmark = pytest.mark.unit

SMALL = (("cpu", 1000), ("pods", 1))


def snapshot() -> Snapshot:
    """Pools a (4 cores, eu), b (16 cores, us) and g (16 cores and 4 GPUs, us), one worker each."""
    made = Snapshot()
    for pool, cpu, region, gpu in (("a", 4, "eu", 0), ("b", 16, "us", 0), ("g", 16, "us", 4)):
        allocatable = [("cpu", cpu * 1000), ("pods", 100)] + ([("nvidia.com/gpu", gpu)] if gpu else [])
        made.upsert_worker(
            WorkerInfo(
                name=f"{pool}-0",
                pool=pool,
                labels=(),
                tags=(),
                allocatable=tuple(sorted(allocatable)),
                region=region,
                gpu=Gpu("A100", gpu) if gpu else None,
            )
        )
    return made


def pool_for(requirements: Requirements, made: Snapshot | None = None) -> str | None:
    return attribute(made or snapshot(), {"x": requirements}, Options()).get("x")


def test_equal_pools_go_by_name() -> None:
    assert pool_for(Requirements(SMALL)) == "a"


def test_a_wish_decides_before_the_name() -> None:
    wish = SoftTerm(50, matcher=Matcher(regions=("us",)))
    assert pool_for(Requirements(SMALL, soft=(wish,))) == "b"


def test_what_is_too_big_for_a_pool_counts_for_another() -> None:
    assert pool_for(Requirements((("cpu", 8000), ("pods", 1)))) == "b"


def test_gpu_work_counts_for_gpu_pools_alone() -> None:
    assert pool_for(Requirements(SMALL, gpu_count=2, wants_gpu=True)) == "g"


def test_a_full_pool_still_counts_because_it_could_hold_it_empty() -> None:
    made = snapshot()
    made.charge(Charge("w/1/0", "a-0", (("cpu", 4000), ("pods", 1)), subject=Subject("ns", "acme")))
    assert pool_for(Requirements(SMALL), made) == "a"


def test_pods_of_others_take_their_room_away() -> None:
    made = snapshot()
    made.charge(Charge("uid", "a-0", (("cpu", 4000), ("pods", 1))))
    assert pool_for(Requirements(SMALL), made) == "b"


def test_what_fits_nowhere_counts_for_no_pool() -> None:
    assert pool_for(Requirements((("cpu", 64000), ("pods", 1)))) is None
    assert pool_for(Requirements(SMALL, hard=Matcher(regions=("ap",)))) is None
