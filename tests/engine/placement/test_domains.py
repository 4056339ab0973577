"""Groups that a topology, or a near term on themselves, ties to one domain."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from niyanta.engine.explain import summary
from niyanta.engine.placement import domains
from niyanta.engine.placement.domains import split
from niyanta.engine.schedule import schedule
from niyanta.engine.snapshot.bitset import iterate
from niyanta.engine.types import (
    HOSTNAME_TOPOLOGY,
    ZONE_TOPOLOGY,
    Charge,
    Expression,
    HostPort,
    Matcher,
    Op,
    PeerTerm,
    PendingWorkload,
    Reason,
    Selector,
    SoftTerm,
    Topology,
)
from tests.engine.builders import ALIKE, POD, WEB, node, snapshot, wants, workers
from tests.engine.worlds import RACK, World, world

pytestmark = pytest.mark.unit

IN_A_ZONE = Topology(ZONE_TOPOLOGY)
TIED = replace(POD, topology=IN_A_ZONE)


def test_a_group_takes_the_smallest_domain_that_holds_it_whole() -> None:
    made = snapshot(node("a", "z1", cpu=8000), node("b", "z2", cpu=3000), node("c", "z3", cpu=4000))
    assert workers(schedule(made, [wants("g", TIED, replicas=3)], now=0)) == {"g": ("b",) * 3}
    assert workers(schedule(made, [wants("g", TIED, replicas=4)], now=0)) == {"g": ("c",) * 4}
    both = [wants("small", TIED, replicas=3), wants("large", TIED, replicas=8)]
    assert workers(schedule(made, both, now=0)) == {"small": ("b",) * 3, "large": ("a",) * 8}


def test_preferences_come_before_the_size_of_the_domain() -> None:
    made = snapshot(node("a", "z1", cpu=8000), node("b", "z2", cpu=3000))
    wish = SoftTerm(10, matcher=Matcher(node_names=("a",)))
    assert workers(schedule(made, [wants("g", replace(TIED, soft=(wish,)), replicas=3)], now=0)) == {"g": ("a",) * 3}


def test_a_group_that_no_domain_holds_is_refused_with_the_room_of_the_largest_domains() -> None:
    nodes = [node(f"n{zone}", f"z{zone}", cpu=1000 * zone) for zone in range(1, 6)]
    asked = replace(TIED, requests=(("cpu", 1000), ("pods", 1)))
    plan = schedule(snapshot(*nodes, node("none")), [wants("g", asked, replicas=6)], now=0)
    assert summary(plan.rejections[0], asked) == (
        f"0/6 workers: 5 have room for one replica, but not for all replicas in one domain of {ZONE_TOPOLOGY}: "
        f"z5 has room for 5, z4 has room for 4, z3 has room for 3 (and 2 more), 1 without the label {ZONE_TOPOLOGY}"
    )


def test_a_single_pod_with_a_required_topology_needs_a_worker_with_the_label() -> None:
    made = snapshot(node("a"), node("b", "z1"))
    assert workers(schedule(made, [wants("one", TIED)], now=0)) == {"one": ("b",)}
    wished = replace(POD, topology=Topology(ZONE_TOPOLOGY, required=False))
    assert workers(schedule(made, [wants("one", wished)], now=0)) == {"one": ("a",)}


def test_a_preferred_topology_is_given_up_when_no_domain_holds_the_group() -> None:
    made = snapshot(node("a", "z1", cpu=2000), node("b", "z2", cpu=3000))
    wished = replace(POD, topology=Topology(ZONE_TOPOLOGY, required=False))
    assert workers(schedule(made, [wants("g", wished, replicas=3)], now=0)) == {"g": ("b",) * 3}
    plan = schedule(made, [wants("g", wished, replicas=5)], now=0)
    assert sorted(workers(plan)["g"]) == ["a", "a", "b", "b", "b"]
    assert schedule(made, [wants("g", wished, replicas=6)], now=0).rejections[0].counts == ((Reason.GROUP, "", 2),)


def test_domains_that_ports_peers_or_anti_terms_close_are_passed_over() -> None:
    nodes = [node(f"{zone}{number}", f"z{zone}") for zone in range(1, 13) for number in "ab"]
    made = snapshot(*nodes)
    for zone in range(1, 12):  # more domains than were ever tried before
        made.charge(_taken(zone))
    asked = replace(TIED, host_ports=(HostPort(80),))
    assert workers(schedule(made, [wants("g", asked, replicas=2)], now=0)) == {"g": ("12a", "12b")}
    apart = replace(TIED, anti=(ALIKE,))
    assert workers(schedule(made, [wants("g", apart, replicas=2)], now=0)) == {"g": ("12a", "12b")}


def _taken(zone: int) -> Charge:
    return Charge(f"c{zone}", f"{zone}a", (("pods", 1),), host_ports=(HostPort(80),), subject=WEB)


def test_anti_terms_within_the_group_bound_the_room_of_a_domain() -> None:
    """Every zone has room for 12 pods, but only the last has three racks."""
    nodes = []
    for zone in range(1, 31):
        for number in range(3):
            rack = (RACK, f"{zone}-{number if zone == 30 else number % 2}")
            made_node = node(f"{zone:02}-{number}", f"z{zone:02}")
            nodes.append(replace(made_node, labels=tuple(sorted((*made_node.labels, rack)))))
    apart = replace(TIED, anti=(replace(ALIKE, topology=RACK),))
    plan = schedule(snapshot(*nodes), [wants("g", apart, replicas=3)], now=0)
    assert workers(plan) == {"g": ("30-0", "30-1", "30-2")}
    four = schedule(snapshot(*nodes), [wants("g", apart, replicas=4)], now=0).rejections[0]
    assert (
        four.counts[0][1]
        == f"{ZONE_TOPOLOGY}: z30 has room for 3, z01 has room for 2, z02 has room for 2 (and 27 more)"
    )


@pytest.mark.parametrize("first", range(0, 600, 200))
def test_a_group_is_placed_if_and_only_if_some_domain_holds_it_whole(first: int) -> None:
    """Each domain by itself is the oracle: a group without ties, limited to the workers of one domain."""
    placed = refused = 0
    for seed in range(first, first + 200):
        rng = Random(seed)
        made = world(rng)
        topologies = rng.choice(((ZONE_TOPOLOGY,), (RACK,), (HOSTNAME_TOPOLOGY,), (ZONE_TOPOLOGY, RACK)))
        workload = _tied(rng, rng.choice(made.pending), topologies)
        plan = schedule(made.snapshot(), [workload], now=0)
        expected = any(_holds(made, workload, names) for names in _domains(made, topologies))
        assert bool(plan.placements) == expected, f"seed {seed}"
        if plan.placements:
            chosen = set(plan.placements[0].workers)
            assert any(chosen <= names for names in _domains(made, topologies)), f"seed {seed}"
        placed += expected
        refused += not expected
    assert placed > 40
    assert refused > 40


def _tied(rng: Random, workload: PendingWorkload, topologies: tuple[str, ...]) -> PendingWorkload:
    """The workload as a group that the first topology ties, and a near term on itself for the others."""
    own = Selector(labels=(Expression("gang", Op.IN, ("me",)),))
    near = tuple(PeerTerm(own, topology) for topology in topologies[1:])
    anti = (PeerTerm(own, rng.choice((RACK, HOSTNAME_TOPOLOGY))),) if rng.randrange(3) == 0 else ()
    asked = replace(
        workload.requirements, near=near, anti=anti, topology=Topology(topologies[0]), hard=Matcher(), soft=()
    )
    subject = replace(workload.subject, labels=(*workload.subject.labels, ("gang", "me")))
    return replace(workload, subject=subject, requirements=asked, replicas=rng.randint(2, 5))


def _domains(made: World, topologies: tuple[str, ...]) -> list[set[str]]:
    index = made.snapshot().index
    parts = split(index, topologies, index.alive)
    return [{index.infos[worker].name for worker in iterate(part)} for _, part in parts]


def _holds(made: World, workload: PendingWorkload, names: set[str]) -> bool:
    within = Matcher(node_names=tuple(sorted(names)))
    free = replace(workload, requirements=replace(workload.requirements, near=(), topology=None, hard=within))
    return bool(schedule(made.snapshot(), [free], now=0).placements)


def test_a_rejection_says_when_not_all_domains_were_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Racks and rows that cross: the room of a zone is only known by trying, and this one is tried in one zone."""
    monkeypatch.setattr(domains, "MAX_PODS_TRIED", 0)
    nodes = []
    for zone in ("z1", "z2"):
        for name, rack, row in (("a", "1", "1"), ("b", "1", "2"), ("c", "2", "1")):
            made_node = node(f"{zone}{name}", zone)
            labels = (*made_node.labels, (RACK, zone + rack), ("example.com/row", zone + row))
            nodes.append(replace(made_node, labels=tuple(sorted(labels))))
    crossing = replace(TIED, anti=(replace(ALIKE, topology=RACK), replace(ALIKE, topology="example.com/row")))
    refused = schedule(snapshot(*nodes), [wants("g", crossing, replicas=2)], now=0).rejections
    assert (
        refused[0].counts[0][1] == f"{ZONE_TOPOLOGY}: z2 has room for 2, z1 has room for 1; not all of them were tried"
    )
