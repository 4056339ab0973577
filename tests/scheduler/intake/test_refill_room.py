"""Room in memory: a customer's backlog is bounded, and a reserve is kept for the first rows and for other customers."""

from __future__ import annotations

import pytest

from niyanta.scheduler.intake.refill_room import Claim, RefillRoom

pytestmark = pytest.mark.unit


def _room(**waiting: int) -> RefillRoom:
    return RefillRoom(waiting, window=100, reserve=20, per_customer=40, assured=5)


def _admitted(room: RefillRoom, customer: str, claim: Claim) -> int:
    return sum(room.admit(customer, claim) for _ in range(1000))


def test_a_customer_has_its_share_and_a_little_more_for_its_classes() -> None:
    room = _room()
    assert _admitted(room, "a", Claim.ANY) == 40
    assert _admitted(room, "a", Claim.CLASS) == 10


def test_a_full_window_has_room_for_customers_with_few_rows_and_for_the_first_of_the_queue() -> None:
    room = _room(a=40, b=40, c=20)
    assert _admitted(room, "c", Claim.CLASS) == 0
    assert _admitted(room, "d", Claim.ANY) == 5
    assert _admitted(room, "a", Claim.FIRST) == 15
    assert _admitted(room, "e", Claim.FIRST) == 0, "the reserve is a bound too"
