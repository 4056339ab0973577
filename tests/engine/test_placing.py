"""Single behaviours, told one at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from niyanta.engine.explain import nearest_miss, summary
from niyanta.engine.schedule import Options, schedule
from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.types import (
    ZONE_TOPOLOGY,
    Charge,
    Expression,
    Gpu,
    Matcher,
    Op,
    PeerTerm,
    PendingWorkload,
    Plan,
    Reason,
    Rejection,
    Requirements,
    Selector,
    Subject,
    WorkerInfo,
)

pytestmark = pytest.mark.unit

GIB = 1 << 30
WEB = Subject("ns", "acme", "web", (("app", "web"),))
DB = Subject("ns", "acme", "db", (("app", "db"),))
POD = Requirements((("cpu", 1000), ("memory", GIB), ("pods", 1)))
ALIKE = PeerTerm(Selector(labels=(Expression("app", Op.IN, ("web",)),)))
NEAR_DB = PeerTerm(Selector(types=("db",)), ZONE_TOPOLOGY)
NEAR_WEB = PeerTerm(Selector(types=("web",)), ZONE_TOPOLOGY)


def node(name: str, zone: str = "", cpu: int = 4000, gpus: int = 0, slots: int | None = None) -> WorkerInfo:
    allocatable = {"cpu": cpu, "memory": 16 * GIB, "pods": 10} | ({"nvidia.com/gpu": gpus} if gpus else {})
    labels = ((ZONE_TOPOLOGY, zone),) if zone else ()
    gpu = Gpu("A100", gpus) if gpus else None
    return WorkerInfo(name, "pool", labels, labels, tuple(sorted(allocatable.items())), gpu=gpu, slots=slots)


def wants(name: str, requirements: Requirements = POD, subject: Subject = WEB, replicas: int = 1) -> PendingWorkload:
    return PendingWorkload(name, 7, 2, subject, requirements, replicas)


def snapshot(*nodes: WorkerInfo) -> Snapshot:
    made = Snapshot()
    for info in nodes:
        made.upsert_worker(info)
    return made


def workers(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {p.id: p.workers for p in plan.placements}


def test_an_empty_cluster_rejects_everything_without_reasons() -> None:
    plan = schedule(Snapshot(), [wants("a"), wants("b", replicas=3)], now=0)
    assert plan.rejections == (Rejection("a", 7, 0, ()), Rejection("b", 7, 0, ()))
    assert summary(plan.rejections[0]) == "no workers"


def test_pack_fills_one_worker_before_it_opens_another() -> None:
    plan = schedule(snapshot(node("a"), node("b")), [wants(f"p{n}") for n in range(6)], now=0)
    assert [p.workers[0] for p in plan.placements] == ["a", "a", "a", "a", "b", "b"]


def test_workloads_without_gpu_leave_gpu_workers_free_unless_told_otherwise() -> None:
    made = snapshot(node("a-gpu", cpu=2000, gpus=4), node("b"), node("c"))
    made.charge(Charge("x", "a-gpu", (("cpu", 500), ("pods", 1))))
    assert workers(schedule(made, [wants("p")], now=0)) == {"p": ("b",)}
    free = Options(keep_gpu_workers_free=False)
    small = wants("p", replace(POD, hard=Matcher(worker_ids=("a-gpu",))))
    assert workers(schedule(made, [small], now=0, options=free)) == {"p": ("a-gpu",)}
    assert workers(schedule(made, [small], now=0)) == {"p": ("a-gpu",)}


def test_replicas_of_a_self_repelling_group_spread_and_all_of_them_or_none_is_placed() -> None:
    spread = replace(POD, anti=(ALIKE,))
    made = snapshot(node("a"), node("b"))
    assert workers(schedule(made, [wants("two", spread, replicas=2)], now=0)) == {"two": ("a", "b")}
    plan = schedule(made, [wants("three", spread, replicas=3), wants("one", spread)], now=0)
    assert plan.rejections[0].counts == ((Reason.GROUP, "", 2),)
    assert workers(plan) == {"one": ("a",)}


def test_a_running_carrier_keeps_newcomers_away_and_release_lets_them_in() -> None:
    made = snapshot(node("a"))
    made.charge(Charge("db", "a", (("pods", 1),), subject=DB, anti=(ALIKE,)))
    rejected = schedule(made, [wants("web")], now=0).rejections[0]
    assert rejected.counts == ((Reason.ANTI, "kubernetes.io/hostname", 1),)
    made.release("db")
    assert workers(schedule(made, [wants("web")], now=0)) == {"web": ("a",)}


def test_near_waits_for_its_peer_follows_it_and_names_it_only_when_it_relies_on_this_plan() -> None:
    made = snapshot(node("a", "z1"), node("b", "z2", cpu=1000))
    follower = wants("follower", replace(POD, near=(NEAR_DB,)))
    leader = wants("leader", replace(POD, hard=Matcher(worker_ids=("b",))), DB)
    assert schedule(made, [follower], now=0).rejections[0].counts == ((Reason.NEAR, "", 2),)
    other = node("c", "z2")
    made.upsert_worker(other)
    plan = schedule(made, [leader, follower], now=0)
    assert workers(plan) == {"leader": ("b",), "follower": ("c",)}
    assert plan.placements[1].depends_on == ("leader",)
    made.charge(Charge("db", "c", (("pods", 1),), subject=DB))
    assert schedule(made, [leader, follower], now=0).placements[1].depends_on == ()


def test_the_first_of_a_group_that_wants_to_be_together_may_start_anywhere() -> None:
    made = snapshot(node("a", "z1", cpu=2000), node("b", "z1", cpu=1000), node("c", "z2", cpu=4000), node("d"))
    together = replace(POD, near=(NEAR_WEB,))
    plan = schedule(made, [wants("g", together, replicas=3)], now=0)
    assert workers(plan) == {"g": ("b", "a", "a")}
    assert plan.placements[0].depends_on == ()
    made.charge(Charge("web", "c", (("pods", 1),), subject=WEB))
    assert workers(schedule(made, [wants("g", together, replicas=3)], now=0)) == {"g": ("c", "c", "c")}


def test_a_gpu_count_is_charged_to_the_resource_of_the_worker() -> None:
    amd = replace(node("a"), gpu=Gpu("MI300", 2, resource="amd.com/gpu"))
    amd = replace(amd, allocatable=(("amd.com/gpu", 2), *amd.allocatable))
    made = snapshot(amd)
    asks = replace(POD, gpu_count=1, wants_gpu=True)
    plan = schedule(made, [wants(f"p{n}", asks) for n in range(3)], now=0)
    assert len(plan.placements) == 2
    assert plan.rejections[0].counts == ((Reason.RESOURCE, "amd.com/gpu", 1),)


def test_stop_leaves_the_rest_undecided() -> None:
    calls: list[int] = []

    def stop() -> bool:
        calls.append(0)
        return len(calls) > 2

    plan = schedule(snapshot(node("a")), (wants(f"p{n}") for n in range(100)), now=0, stop=stop)
    assert len(plan.placements) + len(plan.rejections) == 64
    assert plan.undecided == 36


def test_charges_that_come_before_their_worker_count_when_it_appears() -> None:
    made = Snapshot()
    made.charge(Charge("x", "a", (("cpu", 3500), ("pods", 1)), subject=WEB))
    made.upsert_worker(node("a", slots=4))
    usage = made.worker_usage("a")
    assert dict(usage.used) == {"cpu": 3500, "pods": 1}
    assert (usage.slots, usage.slots_used) == (4, 1)
    assert schedule(made, [wants("p")], now=0).rejections[0].counts == ((Reason.RESOURCE, "cpu", 1),)
    made.remove_worker("a")
    assert made.workers == ()
    made.release("x")
    made.release("x")
    made.upsert_worker(node("a"))
    assert made.worker_usage("a").used == ()


def test_charging_is_idempotent_and_other_content_replaces() -> None:
    made = snapshot(node("a"), node("b"))
    for _ in range(3):
        made.charge(Charge("x", "a", (("cpu", 100), ("pods", 1))))
    assert dict(made.worker_usage("a").used) == {"cpu": 100, "pods": 1}
    made.charge(Charge("x", "b", (("cpu", 200), ("pods", 1))))
    assert made.worker_usage("a").used == ()
    assert dict(made.worker_usage("b").used) == {"cpu": 200, "pods": 1}


def test_devices_of_an_overcommitted_worker_pass_on_when_one_user_leaves() -> None:
    made = snapshot(node("a", gpus=4))
    made.charge(Charge("1", "a", (("pods", 1),), gpu_count=3, subject=WEB))
    made.charge(Charge("2", "a", (("nvidia.com/gpu", 2), ("pods", 1))))
    assert made.worker_usage("a").devices_idle == 0
    made.release("1")
    assert made.worker_usage("a").devices_idle == 2


def test_the_summary_names_what_was_asked_for() -> None:
    counts = (
        (Reason.GPU_MODEL, "", 310),
        (Reason.REGION, "", 120),
        (Reason.RESOURCE, "nvidia.com/gpu", 70),
        (Reason.TAINT, "spot", 3),
        (Reason.ANTI, "kubernetes.io/hostname", 2),
    )
    asked = Requirements((), Matcher(gpu_models=("A100",), regions=("eu-west",)))
    rejection = Rejection("a", 1, 505, counts)
    assert summary(rejection, asked) == (
        "0/505 workers: 310 GPU model is not A100, 120 not in region eu-west, 70 insufficient nvidia.com/gpu, "
        "3 untolerated taint spot, 2 anti-affinity on kubernetes.io/hostname"
    )
    assert "310 GPU model does not match" in summary(rejection)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_words(reason: Reason) -> None:
    rejection = Rejection("a", 1, 3, ((reason, "x", 3),))
    for asked in (None, POD):
        assert len(summary(rejection, asked)) > len("0/3 workers: 3 ")


def test_the_nearest_miss_is_the_worker_with_the_fewest_failed_checks() -> None:
    made = snapshot(node("a", cpu=100), replace(node("b", cpu=100), ready=False), node("c", slots=0))
    found = nearest_miss(made, wants("p", replace(POD, hard=Matcher(regions=("eu",)))), limit=2)
    assert [miss.worker for miss in found] == ["a", "c"]
    assert found[0].failed == ((Reason.REGION, ""), (Reason.RESOURCE, "cpu"))
    assert found[1].failed == ((Reason.REGION, ""), (Reason.SLOTS, ""))


def test_the_columns_of_a_removed_worker_are_used_again() -> None:
    made = snapshot(*(node(f"n{n}") for n in range(64)))
    for n in range(1000):
        made.remove_worker(f"n{n}")
        made.upsert_worker(node(f"n{n + 64}"))
    assert made.capacity == 64
    assert len(made.workers) == 64
