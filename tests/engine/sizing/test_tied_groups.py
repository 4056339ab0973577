"""Groups tied to one domain: as many new workers as one domain needs, compared with every zone by brute force."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from niyanta.engine.schedule import schedule
from niyanta.engine.sizing.planner import EmptyPool, FitKind
from niyanta.engine.types import (
    HOSTNAME_TOPOLOGY,
    ZONE_TOPOLOGY,
    Charge,
    PeerTerm,
    PendingWorkload,
    Requirements,
    Topology,
    WorkerInfo,
)
from tests.engine.sizing.pools import SELF, amounts, needed, running, size, template, waiting
from tests.engine.worlds import snapshot_of

pytestmark = pytest.mark.unit

ZONES = ("z1", "z2", "z3")
TIED = Requirements(amounts(2000), topology=Topology(ZONE_TOPOLOGY))


def zones(*names: str, most: int | None = None) -> EmptyPool:
    return EmptyPool("a", tuple(template("a", zone=zone) for zone in names), most)


def at(name: str, zone: str) -> WorkerInfo:
    return replace(template("a", zone=zone), name=name)


def test_a_tied_group_needs_new_workers_of_one_zone() -> None:
    sizing = size([zones(*ZONES)], waiting(1, TIED, replicas=8))
    assert needed(sizing) == {"a": 4}
    assert sizing.pool_fits["w0000"].fit is FitKind.NEW


def test_room_in_a_zone_saves_new_workers_there() -> None:
    real = at("n1", "z1"), at("n2", "z2"), at("n3", "z2")
    busy = running("n1", 3000, key="r/1/0"), running("n2", key="r/1/1"), running("n3", key="r/1/2")
    asked = waiting(1, TIED, replicas=4)
    assert needed(size([zones(*ZONES)], asked, workers=real, charges=busy)) == {"a": 4}


def test_a_preferred_topology_orders_no_more_than_the_group_fills() -> None:
    wished = replace(TIED, topology=Topology(ZONE_TOPOLOGY, required=False))
    assert needed(size([zones(*ZONES)], waiting(1, wished, replicas=8))) == {"a": 4}


def test_a_group_on_one_worker_is_no_reason_for_workers_that_are_too_small() -> None:
    host = replace(TIED, topology=Topology(HOSTNAME_TOPOLOGY))
    assert size([zones(*ZONES)], waiting(1, host, replicas=2)).pool_fits["w0000"].fit is FitKind.NEW
    too_large = size([zones(*ZONES)], waiting(1, host, replicas=3))
    assert too_large.pool_fits["w0000"].fit is FitKind.NEVER
    assert needed(too_large) == {"a": 0}


def test_a_group_beyond_the_maximum_of_its_pool_orders_nothing() -> None:
    full = size([zones("z1", "z2", most=3)], waiting(1, TIED, replicas=8))
    assert full.pool_fits["w0000"].fit is FitKind.FULL
    assert needed(full) == {"a": 0}


@pytest.mark.parametrize("first", range(0, 240, 80))
def test_the_number_of_new_workers_is_the_least_that_lets_the_group_start(first: int) -> None:
    grown = 0
    for seed in range(first, first + 80):
        names, real, charges, group = _case(Random(seed))
        sizing = size([zones(*names)], [group], workers=real, charges=charges)
        if _starts(real, charges, group):
            assert sizing.pool_fits[group.id].fit is FitKind.ROOM, f"seed {seed}"
            continue
        least = _least(names, real, charges, group)
        assert sizing.pool_fits[group.id].fit is FitKind.NEW, f"seed {seed}"
        assert needed(sizing) == {"a": len(real) + least}, f"seed {seed}"
        grown += 1
    assert grown > 40


@pytest.mark.parametrize("first", range(0, 120, 60))
def test_a_pool_that_balances_its_zones_grows_until_the_group_starts(first: int) -> None:
    """The provider spreads new workers over the zones, so the group may have to wait for further ones, but not for
    ever, and the pool ends with no more in each zone than the group fills."""
    for seed in range(first, first + 60):
        names, real, charges, group = _case(Random(seed))
        rounds = 0
        while not _starts(real, charges, group):
            more = needed(size([zones(*names)], [group], workers=real, charges=charges))["a"] - len(real)
            assert more > 0, f"seed {seed}"
            for _ in range(more):
                zone = min(names, key=lambda name: sum(worker.zone == name for worker in real))
                real = (*real, at(f"n{len(real)}", zone))
            rounds += 1
        assert rounds <= 8, f"seed {seed}"
        assert max(sum(worker.zone == name for worker in real) for name in names) <= 5 + group.replicas, f"seed {seed}"


def _case(rng: Random) -> tuple[tuple[str, ...], tuple[WorkerInfo, ...], tuple[Charge, ...], PendingWorkload]:
    """Zones, real workers that are all in use, what runs on them, and one group."""
    names = ZONES[: rng.randint(1, 3)]
    real = tuple(at(f"n{number}", rng.choice(names)) for number in range(rng.randint(0, 5)))
    charges = tuple(
        running(worker.name, rng.choice((1000, 2000, 3000, 4000)), key=f"r/1/{number}")
        for number, worker in enumerate(real)
    )
    cpu = rng.choice((500, 1000, 1500, 2000))
    if rng.randrange(2):
        asked = Requirements(amounts(cpu), topology=Topology(ZONE_TOPOLOGY))
    else:
        asked = Requirements(amounts(cpu), near=(PeerTerm(SELF, ZONE_TOPOLOGY),))
    if rng.randrange(4) == 0:
        asked = replace(asked, anti=(PeerTerm(SELF, HOSTNAME_TOPOLOGY),))
    return names, real, charges, waiting(1, asked, replicas=rng.randint(2, 9))[0]


def _starts(workers: tuple[WorkerInfo, ...], charges: tuple[Charge, ...], group: PendingWorkload) -> bool:
    return bool(schedule(snapshot_of(workers, charges), [group], now=0).placements)


def _least(
    names: tuple[str, ...], real: tuple[WorkerInfo, ...], charges: tuple[Charge, ...], group: PendingWorkload
) -> int:
    """The least number of new workers, all in one zone, with which the group starts."""
    for number in range(1, group.replicas + 1):
        for zone in names:
            new = tuple(at(f"new{index}", zone) for index in range(number))
            if _starts((*real, *new), charges, group):
                return number
    raise AssertionError("a zone with one worker for each pod holds the group")
