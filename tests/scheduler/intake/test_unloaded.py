"""Unloaded workloads are read beside the leader's loop, a bounded number at once, and fair between namespaces."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from niyanta.containment import Boundary
from niyanta.scheduler.cluster_api import ClusterAwayError
from niyanta.scheduler.intake import unloaded
from niyanta.scheduler.intake.unloaded import MOST_UNDER_WAY, MOST_UNDER_WAY_IN_NAMESPACE, UnloadedWorkloads
from tests.fakes.faults import Faults
from tests.fakes.leader import contained_errors, until

pytestmark = pytest.mark.unit


class Bench:
    """Unloaded workloads, named `<namespace>/<number>`, with objects that can be read."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.asked: list[str] = []
        self.admitted: list[str] = []
        self.unloaded: dict[str, None] = {}
        state: Any = SimpleNamespace(
            workloads=SimpleNamespace(unloaded=self.unloaded, get=self._tracked, has_room=lambda *_: True)
        )
        bench: Any = self
        self.workloads = UnloadedWorkloads(state, cluster=bench, admission=bench)

    def add(self, namespace: str, count: int) -> None:
        self.unloaded.update({f"{namespace}/{number}": None for number in range(count)})

    def _tracked(self, id_: str) -> Any:
        namespace, name = id_.split("/")
        row = SimpleNamespace(customer="acme", namespace=namespace, object=(name, id_))
        return SimpleNamespace(id=id_, row=row)

    async def get_workload(self, namespace: str, name: str) -> Any:
        self.asked.append(f"{namespace}/{name}")
        await self.faults.before(f"read {namespace}")
        return {"metadata": {"uid": f"{namespace}/{name}"}}

    async def take_in(self, objects: list[Any]) -> None:
        for obj in objects:
            self.admitted.append(obj["metadata"]["uid"])
            del self.unloaded[obj["metadata"]["uid"]]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(unloaded, "LOAD_EVERY_SECONDS", 0.0)
    return Bench()


async def test_reads_that_hang_delay_neither_the_loop_nor_other_namespaces(bench: Bench) -> None:
    bench.faults.hang("read stuck", times=None)
    bench.add("stuck", 50)
    bench.add("quick", 3)
    async with asyncio.timeout(30):
        await bench.workloads.run()
        await until(lambda: len(bench.asked) >= MOST_UNDER_WAY_IN_NAMESPACE + 3, "reads have begun")
        await bench.workloads.run()
        await bench.workloads.run()
    assert sorted(bench.admitted) == [f"quick/{number}" for number in range(3)]
    assert bench.faults.under_way["read stuck"] == MOST_UNDER_WAY_IN_NAMESPACE
    await bench.workloads.close()
    assert bench.faults.under_way["read stuck"] == 0


async def test_namespaces_take_turns(bench: Bench) -> None:
    for number in range(30):
        bench.add(f"ns{number}", 5)
    for rounds in (1, 2, 3):
        await bench.workloads.run()
        await until(lambda wanted=rounds * MOST_UNDER_WAY: len(bench.asked) == wanted, "reads have begun")
    counts = Counter(id_.split("/")[0] for id_ in bench.asked)
    assert set(counts.values()) == {2}
    assert len(counts) == 30


@pytest.mark.parametrize("error", [ClusterAwayError("no answer"), ZeroDivisionError()])
async def test_an_object_that_cannot_be_read_goes_behind_the_others(bench: Bench, error: Exception) -> None:
    bench.faults.fail("read team", error, times=MOST_UNDER_WAY_IN_NAMESPACE)
    bench.add("team", MOST_UNDER_WAY_IN_NAMESPACE + 1)
    before = contained_errors(Boundary.OBJECT)
    await bench.workloads.run()
    await until(lambda: len(bench.asked) == MOST_UNDER_WAY_IN_NAMESPACE, "reads have failed")
    await bench.workloads.run()
    await until(lambda: len(bench.asked) > MOST_UNDER_WAY_IN_NAMESPACE, "the last one is read")
    await bench.workloads.run()
    assert f"team/{MOST_UNDER_WAY_IN_NAMESPACE}" in bench.admitted
    is_unexpected = isinstance(error, ZeroDivisionError)
    assert contained_errors(Boundary.OBJECT) - before == (MOST_UNDER_WAY_IN_NAMESPACE if is_unexpected else 0)
    await bench.workloads.close()
