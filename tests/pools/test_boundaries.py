"""Boundaries of the pools: one worker, Customer, pool or action that raises leaves all others as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from niyanta.cluster.api.errors import ApiError, WritesClosedError
from niyanta.cluster.api.kinds import WORKER_POOLS, ResourceKind
from niyanta.containment import Boundary
from niyanta.engine.types import WorkerInfo
from niyanta.pools.actions import PoolWorker, ReleaseInstance, ScalingPlan, ScalingReason
from niyanta.pools.executor import Executor
from niyanta.pools.pool_status import PoolStatusWriter
from niyanta.pools.providers.base import Group
from niyanta.resources.models.worker_pool import WorkerPool
from niyanta.settings import Settings
from niyanta.store.errors import StoreUnavailableError
from tests.fakes import objects
from tests.fakes.leader import contained_errors

pytestmark = pytest.mark.unit


def pool(name: str) -> WorkerPool:
    return WorkerPool.model_validate(
        {
            "metadata": {"name": name, "namespace": "niyanta-system", "uid": f"uid-{name}"},
            "spec": {"nodeSelector": {"matchLabels": {"pool": name}}},
        }
    )


def worker(name: str, pool_name: str, *, ready: bool = True) -> WorkerInfo:
    return WorkerInfo(
        name=name, pool=pool_name, labels=(), tags=(), allocatable=(("cpu", 4000), ("pods", 110)), ready=ready
    )


class Recorder:
    """The store and the client: they record what is written, and fail for chosen names."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}
        self.statuses: dict[str, Mapping[str, Any]] = {}
        self.failing: dict[str, Exception] = {}
        self.remade = ""
        """UID of a pool that was deleted and made again."""

    def _check(self, name: str) -> None:
        if name in self.failing:
            raise self.failing[name]

    async def _upsert(self, rows: Iterable[Any]) -> None:
        rows = list(rows)
        for row in rows:
            self._check(row.name)
        self.rows |= {row.name: row for row in rows}

    upsert_workers = upsert_customers = upsert_pools = _upsert

    async def delete_workers(self, names: Iterable[str]) -> None:
        for name in names:
            del self.rows[name]

    async def apply_status(
        self, kind: ResourceKind, name: str, uid: str, status: Mapping[str, Any], *, namespace: str
    ) -> str:
        assert (kind, uid) == (WORKER_POOLS, self.remade or f"uid-{name}")
        self._check(f"status of {name}")
        self.statuses[name] = status
        return "7"


class Reported:
    """A status writer on simulated collaborators."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.workers = {
            info.name: info
            for info in (worker("a-1", "pool-a"), worker("a-2", "pool-a", ready=False), worker("b-1", "pool-b"))
        }
        self.usage_fails = ""
        customers = {name: objects.customer(name, name) for name in ("acme", "umbrella")}
        self.pools = {name: pool(name) for name in ("pool-a", "pool-b")}
        self.clock = SimpleNamespace(seconds=0)
        clock = SimpleNamespace(now=lambda: self.clock.seconds * 1_000_000)
        snapshot = SimpleNamespace(worker_usage=self._usage)
        self.writer = PoolStatusWriter(
            cache=cast(Any, SimpleNamespace(workers=self.workers, overlaps=dict)),
            client=cast(Any, self.recorder),
            state=cast(Any, SimpleNamespace(snapshot=snapshot, demand_stats=None, clock=clock)),
            store=cast(Any, self.recorder),
            pools=cast(Any, SimpleNamespace(items=lambda: self.pools)),
            customers=cast(Any, SimpleNamespace(items=lambda: customers)),
            settings=Settings(),
            conditions=lambda _: (),
        )

    def _usage(self, name: str) -> Any:
        if name == self.usage_fails:
            raise ZeroDivisionError
        raise KeyError(name)


async def test_workers_are_counted_by_their_pool() -> None:
    reported = Reported()
    await reported.writer.report()
    counts = {name: (s["replicas"], s["readyReplicas"]) for name, s in reported.recorder.statuses.items()}
    assert counts == {"pool-a": (2, 1), "pool-b": (1, 1)}
    assert set(reported.recorder.rows) == {"a-1", "a-2", "b-1", "acme", "umbrella", "pool-a", "pool-b"}


@pytest.mark.parametrize("name", ["a-1", "acme", "pool-a"])
async def test_a_row_that_cannot_be_written_leaves_the_others(name: str) -> None:
    reported = Reported()
    reported.recorder.failing[name] = ZeroDivisionError("oops")
    await reported.writer.report()
    assert {"a-2", "b-1", "umbrella", "pool-b"} <= set(reported.recorder.rows)
    assert name not in reported.recorder.rows
    assert "pool-b" in reported.recorder.statuses
    reported.recorder.failing.clear()
    await reported.writer.report()
    assert name in reported.recorder.rows


async def test_a_worker_that_raises_leaves_the_others() -> None:
    reported, before = Reported(), contained_errors(Boundary.WORKER)
    reported.usage_fails = "a-1"
    await reported.writer.report()
    assert contained_errors(Boundary.WORKER) == before + 1
    assert {"a-2", "b-1"} <= set(reported.recorder.rows)
    assert set(reported.recorder.statuses) == {"pool-a", "pool-b"}


@pytest.mark.parametrize("error", [ApiError(500, "InternalError", "no"), ZeroDivisionError("oops")])
async def test_a_status_that_cannot_be_written_leaves_the_others(error: Exception) -> None:
    reported = Reported()
    reported.recorder.failing["status of pool-a"] = error
    await reported.writer.report()
    assert set(reported.recorder.statuses) == {"pool-b"}


@pytest.mark.parametrize("error", [WritesClosedError(), StoreUnavailableError("away")])
async def test_the_end_of_leadership_and_an_outage_of_postgres_pass(error: Exception) -> None:
    reported = Reported()
    reported.recorder.failing["status of pool-a"] = error
    with pytest.raises(type(error)):
        await reported.writer.report()


# --- actions ----------------------------------------------------------------------------------------------------------


class UncordonedNodes:
    """Nodes of a pool; uncordoning `bad` raises `error`."""

    def __init__(self, error: Exception) -> None:
        self.uncordoned: list[str] = []
        self._error = error

    async def uncordon(self, node: str, *, unschedulable: bool) -> bool:
        if node == "bad":
            raise self._error
        self.uncordoned.append(node)
        return True


async def released(error: Exception) -> tuple[list[str], type[Exception] | None]:
    """Release the workers bad and good; the released ones, and the type of the error."""
    nodes = UncordonedNodes(error)
    executor = Executor(
        provider=cast(Any, None),
        nodes=cast(Any, nodes),
        scaling_record=cast(Any, None),
        drain_queries=cast(Any, None),
        clock=cast(Any, None),
    )
    actions = tuple(ReleaseInstance(PoolWorker(f"i-{name}", name)) for name in ("bad", "good"))
    plan = ScalingPlan(actions=actions, target=2, have=2, reason=ScalingReason.DRAINING)
    try:
        await executor.run(pool("pool-a"), Group((), 2), plan)
    except Exception as raised:
        return nodes.uncordoned, type(raised)
    return nodes.uncordoned, None


@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), ApiError(500, "InternalError", "no")])
async def test_an_action_that_raises_leaves_the_others_and_is_reported(error: Exception) -> None:
    assert await released(error) == (["good"], type(error))
