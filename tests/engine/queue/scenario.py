"""A random history of a cluster and a queue, step by step, with cycles that commit in part, not at all, or late."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from random import Random

from niyanta.engine.expedited.lane import Lane
from niyanta.engine.expedited.lane_state import LaneSettings, LaneState
from niyanta.engine.placement.overlay import Options
from niyanta.engine.queue.plan import QueuePlan, plan_queue
from niyanta.engine.queue.queue import Queue
from niyanta.engine.schedule import schedule
from niyanta.engine.snapshot.deltas import (
    ChargedNodeRemoved,
    ChargedNodeUpserted,
    Delta,
    PodCharged,
    PodReleased,
    StateReplaced,
    WorkerRemoved,
    WorkerUpserted,
)
from niyanta.engine.snapshot.following import follow
from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.types import (
    Charge,
    ChargedNode,
    PendingWorkload,
    Placement,
    Quantities,
    Requirements,
    Subject,
    WorkerInfo,
)
from tests.engine import worlds

SECOND = 1_000_000
CUSTOMERS = ("acme", "bolt")


class Scenario:
    """One history. The cluster's state is kept twice: here as plain values, and in the snapshot that follows deltas."""

    def __init__(self, seed: int, *, lane: bool = False) -> None:
        self.rng = Random(seed)
        self.snapshot = Snapshot()
        self.queue = Queue()
        self.workers: dict[str, WorkerInfo] = {}
        self.charged_nodes: dict[str, ChargedNode] = {}
        self.charges: dict[str, Charge] = {}
        self.running: dict[str, PendingWorkload] = {}
        self.deltas: list[Delta] = []
        self.limits: dict[str, int] = {}
        self.lane = LaneState() if lane else None
        self.limited: frozenset[str] = frozenset()
        self.now = 0
        self.numbers = iter(range(10**6))
        self.placed = self.parks = self.wakes = 0
        self.classes = [self._kind() for _ in range(self.rng.randint(3, 10))]
        for _ in range(self.rng.randint(3, 12)):
            self.add_worker()

    def _kind(self) -> tuple[Subject, Requirements, int]:
        asked = worlds.requirements(self.rng)
        return worlds.subject(self.rng), asked, self.rng.choice((1, 1, 1, 2, 3, 5))

    # --- steps ---

    def step(self) -> None:
        """One random change, or a cycle."""
        steps = (
            (self.submit, 45),
            (self.cancel, 4),
            (self.finish, 14),
            (self.add_worker, 4),
            (self.change_worker, 8),
            (self.remove_worker, 4),
            (self.foreign_pod, 5),
            (self.change_limit, 3),
            (self.exclude, 3),
            (self.restart, 1),
            (self.cycle, 23),
        )
        self.now += self.rng.randrange(20 * SECOND)
        self.rng.choices([step for step, _ in steps], [weight for _, weight in steps])[0]()

    def submit(self) -> None:
        number = self.rng.randrange(len(self.classes))
        subject, asked, replicas = self.classes[number]
        name = f"row-{next(self.numbers):04}"
        own = self.rng.randrange(12) == 0
        self.queue.push(
            PendingWorkload(
                *(name, 1, 1, subject, asked, replicas, self.rng.choice((0, 10, 50)), 10, self.now),
                queue_class="" if own else f"class-{number}",
            )
        )

    def cancel(self) -> None:
        waiting = [workload.id for workload in self.queue.in_order()]
        if waiting:
            self.queue.remove(self.rng.choice(waiting))

    def exclude(self) -> None:
        waiting = list(self.queue.in_order())
        if waiting and self.workers:
            workload = self.rng.choice(waiting)
            names = frozenset(self.rng.sample(sorted(self.workers), self.rng.randint(0, len(self.workers))))
            self.queue.update(replace(workload, excluded=names, version=workload.version + 1))

    def finish(self) -> None:
        """End a running workload, or one pod of it; sometimes it is queued again."""
        if not self.running:
            return
        name = self.rng.choice(sorted(self.running))
        keys = [key for key in self.charges if key.startswith(f"{name}/")]
        if len(keys) > 1 and self.rng.randrange(3) == 0:
            self._release(keys[:1])
            return
        workload = self.running.pop(name)
        self._release(keys)
        if self.rng.randrange(4) == 0:
            self.queue.push(workload)

    def add_worker(self) -> None:
        info = worlds.worker(self.rng, self.rng.randrange(14))
        self._upsert(info)

    def change_worker(self) -> None:
        if not self.workers:
            return
        info = self.workers[self.rng.choice(sorted(self.workers))]
        other = worlds.worker(self.rng, int(info.name[1:]))
        changes: tuple[dict[str, object], ...] = (
            {"ready": not info.ready},
            {"cordoned": not info.cordoned},
            {"labels": other.labels, "tags": other.tags, "zone": other.zone, "region": other.region},
            {"allocatable": other.allocatable, "gpu": other.gpu},
            {"taints": other.taints},
            {"customers": other.customers},
            {"rejected_customers": frozenset(self.rng.sample(CUSTOMERS, self.rng.randint(0, 2)))},
            {"slots": other.slots},
        )
        self._upsert(replace(info, **self.rng.choice(changes)))

    def remove_worker(self) -> None:
        """A node leaves its pool, with its pods, or is deleted with them."""
        if not self.workers:
            return
        name = self.rng.choice(sorted(self.workers))
        info = self.workers.pop(name)
        keys = [key for key, charge in self.charges.items() if charge.worker == name]
        if self.rng.randrange(2):
            self.charged_nodes[name] = ChargedNode(name, info.labels)
            self.deltas.append(ChargedNodeUpserted(self.charged_nodes[name]))
        else:
            self.deltas.append(WorkerRemoved(name))
            self._release(keys)

    def foreign_pod(self) -> None:
        keys = [key for key in self.charges if key.startswith("foreign")]
        if keys and self.rng.randrange(2):
            self._release([self.rng.choice(keys)])
        elif self.workers:
            amounts: Quantities = (("cpu", self.rng.choice((500, 4000))), ("pods", 1))
            key = f"foreign-{next(self.numbers)}"
            self._charge(Charge(key, self.rng.choice(sorted(self.workers)), amounts))

    def change_limit(self) -> None:
        customer = self.rng.choice(CUSTOMERS)
        if self.rng.randrange(3):
            self.limits[customer] = self.rng.randrange(8)
        else:
            self.limits.pop(customer, None)

    def restart(self) -> None:
        """The whole state is read again, as after too many unread changes."""
        self.deltas = [
            StateReplaced(
                tuple(self.workers.values()), tuple(self.charges.values()), tuple(self.charged_nodes.values())
            )
        ]

    # --- the cluster ---

    def _upsert(self, info: WorkerInfo) -> None:
        self.charged_nodes.pop(info.name, None)
        self.workers[info.name] = info
        self.deltas.append(WorkerUpserted(info))

    def _charge(self, charge: Charge) -> None:
        self.charges[charge.key] = charge
        self.deltas.append(PodCharged(charge))

    def _release(self, keys: Iterable[str]) -> None:
        for key in keys:
            charge = self.charges.pop(key)
            self.deltas.append(PodReleased(key))
            if charge.worker in self.charged_nodes and not any(
                c.worker == charge.worker for c in self.charges.values()
            ):
                del self.charged_nodes[charge.worker]
                self.deltas.append(ChargedNodeRemoved(charge.worker))

    # --- cycles ---

    def options(self) -> Options:
        running = dict.fromkeys(self.limits, 0)
        for workload in self.running.values():
            if workload.subject.customer in running:
                running[workload.subject.customer] += 1
        return Options(remaining={name: max(limit - running[name], 0) for name, limit in self.limits.items()})

    def plan(self, *, retry: bool = False, stop: bool = False) -> QueuePlan:
        taken, self.deltas = self.deltas, []
        self.snapshot, faults = follow(self.snapshot, taken)
        assert not faults
        lane = None
        if self.lane is not None:
            waited = self.queue.waited(self.now - 600 * SECOND)
            known = {workload.id for workload in waited}
            members = [self.queue.get(name) for name in self.lane.members if name not in known]
            lane = Lane(LaneSettings(600 * SECOND), self.lane, waited + [w for w in members if w is not None])
        calls = iter(range(10**6))
        plan = plan_queue(
            self.snapshot,
            self.queue,
            self.now,
            options=self.options(),
            lane=lane,
            retries=[queue for queue in self.queue.classes() if queue.park is not None] if retry else (),
            limited=self.limited,
            stop=(lambda: next(calls) >= 0) if stop else None,
        )
        self.lane = plan.plan.lane if self.lane is not None else None
        self.limited = plan.limited
        self.wakes += len(plan.sources)
        self.parks += len(plan.parks)
        return plan

    def cycle(self) -> None:
        """Plan, let other things happen, then commit all, some or none of it."""
        plan = self.plan(stop=self.rng.randrange(4) == 0)
        for _ in range(self.rng.choice((0, 0, 0, 1, 3))):
            event = self.rng.choice(
                (self.submit, self.cancel, self.finish, self.change_worker, self.foreign_pod, self.exclude)
            )
            event()
        if self.rng.randrange(8) == 0:  # the outcome of the commit is not known: the plan is void
            self.queue.wake_all()
            return
        self.commit(plan, drop=self.rng.choice((0, 0, 0, 30, 100)))

    def commit(self, plan: QueuePlan, *, drop: int = 0) -> None:
        unapplied = set()
        for placement in plan.plan.placements:
            stale = self.queue.get(placement.id) is None or self.queue.get(placement.id).version != placement.version
            if stale or self.rng.randrange(100) < drop or unapplied.intersection(placement.depends_on):
                unapplied.add(placement.id)
            else:
                self._start(placement)
        self.queue.follow(plan, unapplied)

    def _start(self, placement: Placement) -> None:
        workload = self.queue.remove(placement.id)
        assert workload is not None
        self.running[placement.id] = workload
        asked = workload.requirements
        self.placed += 1
        for index, worker in enumerate(placement.workers):
            key = f"{placement.id}/1/{index}"
            self._charge(
                Charge(key, worker, asked.requests, asked.gpu_count, asked.host_ports, workload.subject, asked.anti)
            )

    # --- what must hold ---

    def settle(self) -> None:
        """Run cycles until nothing is left to decide."""
        for _ in range(200):
            plan = self.plan()
            self.commit(plan)
            if not self.deltas and not plan.plan.placements and not plan.plan.undecided:
                return
        raise AssertionError("the queue doesn't come to rest")

    def placeable(self) -> list[str]:
        """Parked workloads that a full schedule on a fresh copy of the cluster would place."""
        copy = worlds.snapshot_of(
            tuple(self.workers.values()), tuple(self.charges.values()), tuple(self.charged_nodes.values())
        )
        options = self.options()
        rows = [workload for workload in self.queue.in_order() if self.queue.class_of(workload.id).park is not None]
        rows = [workload for workload in rows if options.remaining.get(workload.subject.customer, 1) > 0]
        lane = None
        if self.lane is not None:  # reservations hold their room; without a share nobody gets a turn
            members = [w for name in self.lane.members if (w := self.queue.get(name)) is not None]
            lane = Lane(LaneSettings(2**62, share=0.0), self.lane, members)
        return [placement.id for placement in schedule(copy, rows, self.now, options=options, lane=lane).placements]
