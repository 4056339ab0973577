"""Simulate 48 hours of the queue at 120 % load: waits by tier, and a check of the bound of docs/queue.md.

    python -m bench.simulation [--hours 48] [--plot docs/images/queue-simulation.png]

Arrivals and run times are those of the openb trace (`NIYANTA_OPENB_DIR`, else ../shared/data/openb), folded to 48 hours
with their time of day kept; run times are cut at four hours, as by a timeout. Customers and tiers are random (the trace
has none). The engine decides as in the operator; only the clock and the cluster are simulated.
"""

from __future__ import annotations

import argparse
import heapq
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from bench import wait_bound
from bench.trace import LOAD, POOLS, Task, fits_empty, load_cluster, load_tasks
from niyanta.engine.expedited.lane_state import LaneSettings, LaneState, Reservation
from niyanta.engine.queue.order import QueueSettings
from niyanta.engine.queue.plan import plan_queue
from niyanta.engine.queue.queue import Queue
from niyanta.engine.schedule import Lane
from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.types import Charge, PendingWorkload, Placement, Plan, Requirements, Subject
from testing.trace import absence, trace_folder

SECOND_US = 1_000_000
MIN_STEP_SECONDS = 30
"""Least seconds between two cycles."""
MAX_STEP_SECONDS = 60
"""Most seconds between two cycles."""
LOOK_EVERY_SECONDS = 120
"""Seconds between two searches for workloads that may enter the lane."""
MOST_RETRIES = 1_000
"""Most parked classes that one cycle tries although nothing changed."""
PRIORITY = {"LS": 50, "Guaranteed": 100, "Burstable": 20, "BE": 10}
TIERS = {"Enterprise": (100, 0.2), "Premium": (50, 0.25), "Standard": (10, 0.3), "Free": (1, 0.25)}
CUSTOMERS_PER_TIER = 3
IMAGE = Path(__file__).parents[1] / "docs" / "images" / "queue-simulation.png"


@dataclass
class Story:
    """One workload in the simulation; times in seconds."""

    task: Task
    tier: str
    customer: str
    runs: float
    pools: tuple[str, ...]
    """Pools with a worker that could take it when empty."""
    entered: int | None = None
    turn: int | None = None
    """Time at which the lane placed it or reserved workers for it."""
    placed: int | None = None
    expedited: bool = False
    drained: int = 0
    """Seconds that its reservations lasted."""
    drain_bound: float = 0.0
    """Longest remaining run time on the workers that were reserved for it, in seconds."""


@dataclass
class PoolLog:
    """Per cycle: total capacity freed, total capacity charged to the lane, holder of the reservation, and debt."""

    freed: list[int] = field(default_factory=list)
    charged: list[int] = field(default_factory=list)
    holder: list[str] = field(default_factory=list)
    debt: list[int] = field(default_factory=list)
    total: int = 0


class Simulation:
    """A cluster, a queue and a clock; `run` processes all events."""

    def __init__(self, folder: Path, *, hours: int = 48, lane: bool = True, seed: int = 4) -> None:
        self.hours = hours
        self.tiers = tuple(TIERS)
        self.share = LaneSettings().share
        self.settings = LaneSettings() if lane else None
        self.state = LaneState()
        self.snapshot = Snapshot()
        tasks = load_tasks(folder, hours)
        self.workers = load_cluster(folder, tasks, hours)
        for worker in self.workers:
            self.snapshot.upsert_worker(worker)
        self.scale = LOAD / self._offered_load(tasks)
        """Factor on run times: whole nodes do not give the wanted load exactly."""
        self.stories = {story.task.name: story for story in self._stories(tasks, Random(seed))}
        self.queue = Queue(QueueSettings())
        self.missed = 0
        """Workloads placed by a try that nothing had woken; more than 0 is a fault."""
        self.times: list[int] = []
        self.logs: dict[str, PoolLog] = {pool: PoolLog() for pool in sorted(set(POOLS.values()))}
        self._ends: list[tuple[int, str, str]] = []
        self._running: dict[str, dict[str, int]] = defaultdict(dict)
        """Worker -> workload -> end."""
        self._reserved: dict[str, Reservation] = {}
        self._looked = -LOOK_EVERY_SECONDS
        self._worker_pool = {worker.name: worker.pool for worker in self.workers}

    def _offered_load(self, tasks: list[Task]) -> float:
        """Arriving work as a fraction of the cluster's capacity in the span, of the scarcest resource (GPUs)."""
        loads = []
        for name in ("cpu", "memory", "nvidia.com/gpu"):
            have = sum(dict(worker.allocatable)[name] for worker in self.workers)
            work = sum(dict(task.requirements.requests).get(name, task.gpus) * task.runs for task in tasks)
            loads.append(work / (have * self.hours * 3600))
        return max(loads)

    def longest_step(self) -> int:
        """Most seconds between two cycles."""
        return max(MAX_STEP_SECONDS, LOOK_EVERY_SECONDS)

    def _stories(self, tasks: list[Task], rng: Random) -> Iterator[Story]:
        fits: dict[int, tuple[str, ...]] = {}
        weights = [part for _, part in TIERS.values()]
        for task in tasks:
            key = id(task.requirements)
            if key not in fits:
                empty = [worker for worker in self.workers if fits_empty(task, worker)]
                fits[key] = tuple(sorted({worker.pool for worker in empty}))
            tier = rng.choices(tuple(TIERS), weights)[0]
            customer = f"{tier.lower()}-{rng.randrange(CUSTOMERS_PER_TIER)}"
            yield Story(task, tier, customer, max(task.runs * self.scale, 1.0), fits[key])

    def run(self) -> None:
        """Process all arrivals of the span; workloads that wait at its end stay in the queue."""
        arrivals = iter([story for story in self.stories.values() if story.pools])
        following = next(arrivals, None)
        now = 0
        while now < self.hours * 3600:
            changed = False
            while following is not None and following.task.arrives <= now:
                self._arrive(following)
                following = next(arrivals, None)
                changed = True
            changed = self._finish(now) or changed
            if changed or not self.times or now - self.times[-1] >= MAX_STEP_SECONDS:
                self._cycle(now)
            now += MIN_STEP_SECONDS

    def _arrive(self, story: Story) -> None:
        weight = TIERS[story.tier][0]
        task = story.task
        workload = PendingWorkload(
            task.name,
            1,
            1,
            Subject("ns", story.customer),
            task.requirements,
            priority=PRIORITY[task.qos],
            tier_weight=weight,
            queued_at=task.arrives * SECOND_US,
            queue_class=f"{story.customer}/{id(task.requirements)}",
        )
        self.queue.push(workload)

    def _finish(self, now: int) -> bool:
        ended = False
        while self._ends and self._ends[0][0] <= now:
            _, name, worker = heapq.heappop(self._ends)
            self.snapshot.release(f"{name}/1/0")
            del self._running[worker][name]
            ended = True
        return ended

    def _cycle(self, now: int) -> None:
        lane = None
        if self.settings is not None:
            if now - self._looked >= LOOK_EVERY_SECONDS:
                self._looked = now
                waited = self.queue.waited(now * SECOND_US - self.settings.after_us)
            else:
                known = [self.queue.get(name) for name in self.state.members]
                waited = [workload for workload in known if workload is not None]
            lane = Lane(self.settings, self.state, waited)
        retries = self.queue.due(now * SECOND_US, most=MOST_RETRIES)
        queue_plan = plan_queue(self.snapshot, self.queue, now * SECOND_US, lane=lane, retries=retries)
        plan = queue_plan.plan
        self.missed += len(queue_plan.missed)
        self.times.append(now)
        for pool, log in self.logs.items():
            log.freed.append(self.snapshot.freed[pool])
        held = {reservation.id for reservation in self._reserved.values()}
        for placement in plan.placements:
            self._start(placement, now, charged=placement.expedited and placement.id not in held)
        self.queue.follow(queue_plan)
        if plan.lane is not None:
            self._follow_lane(plan, now)
        for pool, log in self.logs.items():
            log.charged.append(log.total)
            account = self.state.accounts.get(pool)
            log.debt.append(account.debt if account else 0)
            log.holder.append(self._reserved[pool].id if pool in self._reserved else "")

    def _start(self, placement: Placement, now: int, *, charged: bool) -> None:
        story = self.stories[placement.id]
        workload = self.queue.remove(placement.id)
        assert workload is not None
        worker = placement.workers[0]
        requirements = story.task.requirements
        charge = Charge(
            f"{placement.id}/1/0", worker, requirements.requests, requirements.gpu_count, (), workload.subject
        )
        self.snapshot.charge(charge)
        if charged:
            self._charge(requirements, worker)
        story.placed = now
        story.expedited = placement.expedited
        story.turn = now if story.turn is None else story.turn
        end = now + max(round(story.runs), 1)
        heapq.heappush(self._ends, (end, placement.id, worker))
        self._running[worker][placement.id] = end

    def _charge(self, requirements: Requirements, worker: str) -> None:
        index = self.snapshot.index.by_name[worker]
        amount = self.snapshot.share(index, requirements.requests, requirements.gpu_count)
        self.logs[self._worker_pool[worker]].total += amount

    def _follow_lane(self, plan: Plan, now: int) -> None:
        assert plan.lane is not None
        self.state = plan.lane
        for member in plan.lane.members.values():
            story = self.stories[member.id]
            story.entered = story.entered if story.entered is not None else now
        reserved = {reservation.pool: reservation for reservation in plan.lane.reservations}
        for pool in reserved.keys() | self._reserved.keys():
            before, after = self._reserved.get(pool), reserved.get(pool)
            if before == after:
                continue
            if before is not None and (after is None or after.since != before.since):
                self.stories[before.id].drained += now - before.since // SECOND_US
            if after is not None:
                story = self.stories[after.id]
                ends = self._running[after.workers[0]].values()
                story.drain_bound += max((end - now for end in ends), default=0)
                if before is None or before.since != after.since:
                    story.turn = now
                    self._charge(story.task.requirements, after.workers[0])
        self._reserved = reserved


def run(hours: int = 48, plot: Path | None = IMAGE) -> dict[str, Any]:
    """Run with and without the lane and assert the bound; returns figures that can be written as JSON."""
    folder = trace_folder()
    if folder is None:
        return {"skipped": absence()}
    started, cpu = time.perf_counter(), time.process_time()
    simulation = Simulation(folder, hours=hours)
    simulation.run()
    took = {"seconds": round(time.perf_counter() - started, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}
    without = Simulation(folder, hours=hours, lane=False)
    without.run()
    wrong = wait_bound.broken(simulation)
    assert not wrong, wrong[:5]
    assert simulation.missed == without.missed == 0
    if plot is not None:
        wait_bound.plot(simulation, without, plot)
    return took | {"lane": wait_bound.figures(simulation), "no_lane": wait_bound.figures(without)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=48, help="up to 48")
    parser.add_argument(
        "--plot", type=Path, default=None, help=f"path of the plot to write (the documentation has {IMAGE})"
    )
    arguments = parser.parse_args()
    print(json.dumps(run(arguments.hours, arguments.plot), indent=2))


if __name__ == "__main__":
    main()
