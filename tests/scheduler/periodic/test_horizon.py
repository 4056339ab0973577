"""The gauge of the oldest open transaction's age."""

from __future__ import annotations

from typing import cast

import pytest

from niyanta.scheduler.periodic.horizon import HORIZON_AGE, HorizonGauge
from niyanta.store.state import StateManager

pytestmark = pytest.mark.unit


class MeasuredStore:
    """Counts measurements."""

    def __init__(self) -> None:
        self.measured = 0

    async def measure_horizon(self) -> float:
        self.measured += 1
        return 7.5


async def test_the_age_is_measured_now_and_then_and_shown() -> None:
    store = MeasuredStore()
    gauge = HorizonGauge(cast(StateManager, store))
    await gauge.measure()
    await gauge.measure()
    assert store.measured == 1
    (metric,) = HORIZON_AGE.collect()
    assert [sample.value for sample in metric.samples] == [7.5]
