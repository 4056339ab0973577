"""The scaling of each pool is on its own: errors of one pool leave the tasks of all others running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from niyanta.containment import Boundary
from niyanta.observability.gauges import LabelLimit
from niyanta.pools.controller import ScalingController
from niyanta.pools.providers.base import Group, Instance, Provider
from niyanta.resources.models.worker_pool import WorkerPool
from tests.fakes.leader import contained_errors, until

pytestmark = pytest.mark.unit


class EmptyGroup:
    """A provider whose group is empty; `error` is raised by each description."""

    def __init__(self, error: Exception | None = None) -> None:
        self.described = 0
        self._error = error

    async def describe(self) -> Group:
        self.described += 1
        if self._error is not None:
            raise self._error
        return Group((), 0)

    async def grow(self, group: Group, to: int) -> None:
        raise AssertionError

    async def remove(self, instance: Instance) -> None:
        raise AssertionError

    async def protect(self, instances: Sequence[str], *, on: bool) -> None:
        raise AssertionError

    def close(self) -> None:
        """There is nothing to release."""


class EmptyCluster:
    """The nodes of pools, and the store: empty."""

    def __init__(self, pools: dict[str, WorkerPool]) -> None:
        self._pools = pools
        self.failing_pool = ""

    def pool(self, name: str) -> WorkerPool | None:
        if name == self.failing_pool:
            raise ZeroDivisionError
        return self._pools.get(name)

    def workers(self, *_: object) -> list[Any]:
        return []

    def ready_instances(self, *_: object) -> set[str]:
        return set()

    def nodes_outside_group(self, *_: object) -> list[str]:
        return []

    async def record_event(self, *_: object, **__: object) -> None:
        return

    async def get_drains(self) -> list[Any]:
        return []

    async def last_scaled(self, _: object) -> dict[Any, int]:
        return {}

    async def record_scaling(self, *_: object, **__: object) -> None:
        return


def pool(name: str) -> WorkerPool:
    spec = {"nodeSelector": {"matchLabels": {"pool": name}}, "provider": {"kwok": {}}, "replicas": 0}
    return WorkerPool.model_validate({"metadata": {"name": name, "namespace": "system", "uid": name}, "spec": spec})


class Scaled:
    """A controller of the pools `bad` and `good`, without a cluster."""

    def __init__(self) -> None:
        self.pools = {name: pool(name) for name in ("bad", "good")}
        self.cluster = EmptyCluster(self.pools)
        self.good = EmptyGroup()
        self.bad: EmptyGroup | Exception = EmptyGroup()
        self.controller = ScalingController(
            nodes=cast(Any, self.cluster),
            state=cast(Any, SimpleNamespace(clock=SimpleNamespace(now=lambda: 0), epoch=1)),
            store=cast(Any, self.cluster),
            drain_queries=cast(Any, None),
            pool_labels=LabelLimit(10),
            pools=cast(Any, SimpleNamespace(items=lambda: self.pools)),
            provider_for=self._provider,
            interval=0.05,
            enabled=True,
        )
        self.task: asyncio.Task[None] | None = None

    def _provider(self, found: WorkerPool) -> Provider:
        if found.metadata.name == "good":
            return self.good
        if isinstance(self.bad, Exception):
            raise self.bad
        return self.bad

    def start(self) -> None:
        self.task = asyncio.create_task(self.controller.run())

    async def goes_on(self) -> None:
        """The good pool is looked at again."""
        before = self.good.described
        self.controller.wake()
        await until(lambda: self.good.described > before + 1, "the good pool is scaled")
        assert self.task is not None
        assert not self.task.done()


@pytest.fixture
async def scaled() -> AsyncIterator[Scaled]:
    scaled = Scaled()
    yield scaled
    if scaled.task is not None:
        scaled.task.cancel()
        await asyncio.gather(scaled.task, return_exceptions=True)


async def test_a_provider_that_cannot_be_made_leaves_the_other_pools(scaled: Scaled) -> None:
    before = contained_errors(Boundary.POOL)
    scaled.bad = ZeroDivisionError("oops")
    scaled.start()
    await scaled.goes_on()
    assert contained_errors(Boundary.POOL) > before


async def test_a_pass_that_raises_becomes_the_pools_condition_and_leaves_the_others(scaled: Scaled) -> None:
    scaled.bad = EmptyGroup(ZeroDivisionError("oops"))
    scaled.start()
    await scaled.goes_on()
    (scaling, _) = scaled.controller.conditions(scaled.pools["bad"])
    assert (scaling.holds, scaling.reason) == (False, "InternalError")


async def test_an_error_outside_a_pass_is_contained_too(scaled: Scaled) -> None:
    before = contained_errors(Boundary.POOL)
    scaled.cluster.failing_pool = "bad"
    scaled.start()
    await scaled.goes_on()
    assert contained_errors(Boundary.POOL) > before
    scaled.cluster.failing_pool = ""
    bad = scaled.bad
    assert isinstance(bad, EmptyGroup)
    await until(lambda: bad.described, "the pool is scaled when the error is over")
