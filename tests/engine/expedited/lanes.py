"""Clusters, waiting workloads and lane states for the tests of the expedited lane."""

from __future__ import annotations

from niyanta.engine.expedited.lane_state import LaneAccount, LaneSettings, LaneState
from niyanta.engine.queue.order import MINUTE_US
from niyanta.engine.schedule import Lane, schedule
from niyanta.engine.snapshot.snapshot import WHOLE_WORKER, Snapshot
from niyanta.engine.types import (
    Charge,
    Expression,
    Op,
    PeerTerm,
    PendingWorkload,
    Plan,
    Requirements,
    Selector,
    Subject,
    WorkerInfo,
)

LATE = 60 * MINUTE_US
LANE = LaneSettings()


def worker(name: str, cpu: int = 4000, pool: str = "p") -> WorkerInfo:
    return WorkerInfo(name, pool, (), (), (("cpu", cpu), ("pods", 20)))


def asks(cpu: int, anti: bool = False) -> Requirements:
    away = PeerTerm(Selector(labels=(Expression("app", Op.EXISTS),)))
    requests = (("cpu", cpu), ("pods", 1)) if cpu else (("pods", 1),)
    return Requirements(requests, anti=(away,) if anti else ())


def waits(name: str, cpu: int, customer: str = "acme", queued_at: int = 0, **more: object) -> PendingWorkload:
    requirements = asks(cpu, anti=bool(more.pop("anti", False)))
    labels = (("app", "x"),) if requirements.anti else ()
    subject = Subject("ns", customer, labels=labels)
    return PendingWorkload(name, 1, 1, subject, requirements, queued_at=queued_at, **more)  # type: ignore[arg-type]


def runs(key: str, on: str, cpu: int) -> Charge:
    return Charge(f"{key}/1/0", on, (("cpu", cpu), ("pods", 1)), subject=Subject("ns", "other"))


def cluster(*workers: WorkerInfo, charges: tuple[Charge, ...] = ()) -> Snapshot:
    snapshot = Snapshot()
    for one in workers:
        snapshot.upsert_worker(one)
    for charge in charges:
        snapshot.charge(charge)
    return snapshot


def follow(snapshot: Snapshot, state: LaneState, waiting: list[PendingWorkload], now: int) -> Plan:
    """A cycle in which all waiting workloads are passed to the lane and the queue is empty."""
    return schedule(snapshot, [], now, lane=Lane(LANE, state, waiting))


def begun(snapshot: Snapshot, waiting: list[PendingWorkload], now: int = LATE) -> LaneState:
    plan = follow(snapshot, LaneState(), waiting, now)
    assert plan.lane is not None
    return plan.lane


def generous(snapshot: Snapshot) -> LaneState:
    """Lane state with accounts as if every pool had freed a hundred workers since the last cycle."""
    return LaneState(accounts={pool: LaneAccount(freed - 100 * WHOLE_WORKER) for pool, freed in snapshot.freed.items()})


def half_drained() -> tuple[Snapshot, PendingWorkload, LaneState]:
    """`a` has 2 of 4 cores free, and is reserved for `big`, which needs 3."""
    snapshot = cluster(
        worker("a"), worker("b"), charges=(runs("a1", "a", 2000), runs("a2", "a", 2000), runs("b1", "b", 4000))
    )
    big = waits("big", 3000)
    state = begun(snapshot, [big])
    snapshot.release("a1/1/0")
    plan = follow(snapshot, state, [big], LATE + 1)
    assert plan.lane is not None
    assert [(r.id, r.pool, r.workers) for r in plan.lane.reservations] == [("big", "p", ("a",))]
    return snapshot, big, plan.lane
