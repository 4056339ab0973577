"""The reader of statistics: an unexpected error stays with the adapter, and the former statistics stay."""

from __future__ import annotations

import pytest

from niyanta.containment import Boundary
from niyanta.custom_metrics.stats_reader import StaleStatsError, StatsReader
from niyanta.store.leader.demand_stats import DemandStats
from tests.custom_metrics.adapter_scenario import FIGURES
from tests.fakes.leader import contained_errors

pytestmark = pytest.mark.unit


class Store:
    """A row of statistics that can't be decoded while `broken`."""

    def __init__(self) -> None:
        self.broken = False

    async def read(self) -> tuple[DemandStats, float] | None:
        if self.broken:
            raise KeyError("pools")
        return FIGURES, 0.0


async def test_a_row_that_cannot_be_decoded_is_counted_once_and_former_statistics_stay() -> None:
    before = contained_errors(Boundary.METRICS_ADAPTER)
    store = Store()
    reader = StatsReader(store.read)
    await reader.read()
    store.broken = True
    await reader.read()
    await reader.read()
    assert reader.current() is FIGURES
    assert contained_errors(Boundary.METRICS_ADAPTER) == before + 1
    store.broken = False
    await reader.read()
    assert reader.current() is FIGURES


async def test_without_any_statistics_the_cause_is_told() -> None:
    store = Store()
    store.broken = True
    reader = StatsReader(store.read)
    await reader.read()
    with pytest.raises(StaleStatsError, match="can't be read"):
        reader.current()
