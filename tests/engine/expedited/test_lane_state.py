"""The lane's account keeps the lane to its share in every window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from niyanta.engine.expedited.lane_state import WINDOW_US, LaneAccount, LaneSettings
from niyanta.engine.queue.order import MINUTE_US
from niyanta.engine.snapshot.snapshot import WHOLE_WORKER

pytestmark = pytest.mark.unit
LANE = LaneSettings()
events = st.lists(st.tuples(st.integers(0, 3 * MINUTE_US), st.integers(0, WHOLE_WORKER), st.booleans()), max_size=60)


@given(events, st.integers(1, 8 * WHOLE_WORKER))
def test_in_any_ten_minutes_the_lane_takes_at_most_its_share(made: list[tuple[int, int, bool]], size: int) -> None:
    account, now, seen = LaneAccount(0), 0, 0
    freed: list[tuple[int, int]] = []
    taken: list[tuple[int, int]] = []
    charged = last = 0
    for step, more, wants in made:
        now += step
        seen += more
        freed.append((now, more))
        owed = account.debt
        account = account.follow(seen, now, LANE.share)
        paid = owed - account.debt
        if wants and account.is_open(LANE.share):
            account = account.charge(size, now, LANE.share)
            paid += size - account.debt
            charged += size
            last = size
        if paid:
            taken.append((now, paid))
            within = [sum(a for at, a in log if at > now - WINDOW_US) for log in (freed, taken)]
            assert within[1] <= LANE.share * within[0]
        assert charged - last <= LANE.share * seen
