"""Creates of pods go before other writes."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from niyanta.cluster.api.pod_lane import BUSY_CREATES, PodLane

pytestmark = pytest.mark.unit


async def test_it_is_busy_while_many_creates_are_under_way() -> None:
    lane = PodLane()
    with ExitStack() as creates:
        for _ in range(BUSY_CREATES - 1):
            creates.enter_context(lane)
        assert not lane.busy
        assert await lane.quiet(0.0)
        with lane:
            assert lane.busy
            assert not await lane.quiet(0.01)
        assert not lane.busy


async def test_writes_go_on_when_the_last_create_of_many_ends() -> None:
    lane = PodLane()
    with ExitStack() as creates:
        for _ in range(BUSY_CREATES):
            creates.enter_context(lane)
        waiting = asyncio.create_task(lane.quiet(60.0))
        await asyncio.sleep(0)
        assert not waiting.done()
    assert await waiting
