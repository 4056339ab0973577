"""REST rows of many customers are held and released in turns; one customer's error stops nobody else's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from niyanta.scheduler.backlog.backlog import Backlog
from niyanta.scheduler.intake import rest_holds
from niyanta.scheduler.intake.rest_holds import SLICE_ROWS, RestHolds
from niyanta.store.errors import StaleEpochError, StoreError, StoreUnavailableError

pytestmark = pytest.mark.unit


class Rows:
    """A store with the Held rows of each customer, by number; `errors` has the error of a customer's release."""

    def __init__(self, **held: int) -> None:
        self.held = held
        self.errors: dict[str, Exception] = {}
        self.asked: defaultdict[str, int] = defaultdict(int)

    async def get_queue_depth(self) -> Any:
        depths = {name: SimpleNamespace(held=held, pending=0) for name, held in self.held.items()}
        return SimpleNamespace(customers=depths)

    async def release_rows(self, customer: str, *, limit: int, **_: object) -> list[Any]:
        self.asked[customer] += 1
        if customer in self.errors:
            raise self.errors[customer]
        count = min(limit, self.held[customer])
        self.held[customer] -= count
        return [
            SimpleNamespace(id=f"{customer}-{number}", customer=customer, queue_class="a") for number in range(count)
        ]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(rest_holds, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.fixture
def make_holds(clock: list[float]) -> Callable[[Rows], RestHolds]:
    def make(rows: Rows) -> RestHolds:
        cluster: Any = SimpleNamespace(
            customer_tier=lambda _: "Standard",
            customer_limits=lambda _: SimpleNamespace(queue_depth=None),
            namespace_enabled=lambda _: True,
        )
        state: Any = SimpleNamespace(epoch=1, workloads={}, backlog=Backlog())
        store: Any = rows
        transitions: Any = None
        return RestHolds(state, store=store, cluster=cluster, transitions=transitions)

    return make


@pytest.mark.parametrize("error", [StoreError("bad row"), StoreUnavailableError("too slow"), ZeroDivisionError()])
async def test_the_error_of_one_customer_delays_no_other(
    make_holds: Callable[[Rows], RestHolds], clock: list[float], error: Exception
) -> None:
    rows = Rows(aaa=1, zed=1)
    rows.errors["aaa"] = error
    holds = make_holds(rows)
    holds.request_all()
    for _ in range(2):
        await holds.run_slice()
    assert rows.held == {"aaa": 1, "zed": 0}
    assert not holds.unfinished, "the loop isn't woken for it again and again"
    await holds.run_slice()
    assert rows.asked["aaa"] == 1
    clock[0] += rest_holds.FIRST_PAUSE_SECONDS
    assert holds.unfinished
    await holds.run_slice()
    assert rows.asked["aaa"] == 2
    rows.errors.clear()
    clock[0] += rest_holds.LONGEST_PAUSE_SECONDS
    await holds.run_slice()
    assert rows.held["aaa"] == 0


async def test_customers_take_turns(make_holds: Callable[[Rows], RestHolds]) -> None:
    rows = Rows(aaa=10 * SLICE_ROWS, zed=1)
    holds = make_holds(rows)
    holds.request_all()
    for _ in range(2):
        await holds.run_slice()
    assert rows.held["zed"] == 0
    while holds.unfinished:
        await holds.run_slice()
    assert rows.held["aaa"] == 0


async def test_the_end_of_leadership_is_not_contained(make_holds: Callable[[Rows], RestHolds]) -> None:
    rows = Rows(aaa=1)
    rows.errors["aaa"] = StaleEpochError("another leader")
    holds = make_holds(rows)
    holds.request_all()
    with pytest.raises(StaleEpochError):
        await holds.run_slice()
