"""Checks each workload of a simulation against the bound of docs/queue.md; figures and a plot.

The check uses its own accounting (capacity freed and charged by pool and cycle), not the engine's accounts.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from niyanta.engine.expedited.lane_state import BUCKET_US, WINDOW_US

if TYPE_CHECKING:
    from bench.simulation import PoolLog, Simulation, Story

MAX_WAIT_SECONDS = 1800
WINDOW_SECONDS = (WINDOW_US + 2 * BUCKET_US) // 1_000_000


def waited(simulation: Simulation, story: Story) -> int:
    """Seconds in the queue; for workloads that still wait, until the end of the span."""
    end = simulation.hours * 3600 if story.placed is None else story.placed
    return end - story.task.arrives


def broken(simulation: Simulation) -> list[str]:
    """Violations of the bound: a message for each workload, and pool, that waited too long."""
    step = 2 * simulation.longest_step()
    wrong = []
    for name, story in simulation.stories.items():
        if not story.pools or waited(simulation, story) <= MAX_WAIT_SECONDS + step:
            continue
        for pool in story.pools:
            freed, ahead, _, _ = terms(simulation, name, story, pool)
            if simulation.share * freed > ahead + len(simulation.times):
                wrong.append(f"{name}: {pool} freed {freed} x share, but only {ahead} was ahead in the lane")
        if story.drained > story.drain_bound + step:
            wrong.append(f"{name}: its reservations took {story.drained} s instead of {story.drain_bound} s")
    return wrong


def terms(simulation: Simulation, name: str, story: Story, pool: str) -> tuple[int, int, int, int]:
    """Terms of the bound for one pool, from the 30th minute of waiting to the turn.

    They are the capacity freed while the pool's reservation was free, the work ahead in the lane (charged from ten
    minutes before on, and owed at the start), the seconds that the reservation was free, and the seconds that another
    workload held it.
    """
    log, times = simulation.logs[pool], simulation.times
    start = bisect_right(times, story.task.arrives + MAX_WAIT_SECONDS + simulation.longest_step())
    end = len(times) if story.turn is None else bisect_left(times, story.turn)
    freed = free_for = held_for = 0
    for number in range(max(start, 1), end):
        lasted = times[number] - times[number - 1]
        if log.holder[number] and log.holder[number] != name:
            held_for += lasted
        else:
            freed += log.freed[number] - log.freed[number - 1]
            free_for += lasted
    if end <= start:
        return 0, 0, 0, 0
    before = bisect_left(times, times[start] - WINDOW_SECONDS)
    ahead = log.charged[end - 1] - log.charged[max(before - 1, 0)] + log.debt[max(before - 1, 0)]
    return freed, ahead, free_for, held_for


def bound(simulation: Simulation, name: str, story: Story) -> float:
    """The bound in seconds, the lowest of the workload's pools.

    It is 30 min + work ahead / (share x freed per second) + waits for reservations + two steps of the simulation, one
    until workloads may enter the lane and one until ended workloads are noticed.
    """
    best = float("inf")
    for pool in story.pools:
        freed, ahead, free_for, held_for = terms(simulation, name, story, pool)
        queue = ahead / (simulation.share * freed) * free_for if freed else float(free_for)
        best = min(best, queue + held_for)
    return MAX_WAIT_SECONDS + best + story.drain_bound + 2 * simulation.longest_step()


def share_taken(log: PoolLog) -> float:
    """Fraction of the freed capacity that was charged to the lane."""
    return log.charged[-1] / max(log.freed[-1] - log.freed[0], 1)


def gpu_use(simulation: Simulation) -> float:
    """Fraction of the GPU time of the span that workloads used."""
    end = simulation.hours * 3600
    used = sum(
        story.task.gpus * min(story.runs, end - story.placed)
        for story in simulation.stories.values()
        if story.placed is not None
    )
    return used / (end * sum(worker.gpu.count for worker in simulation.workers if worker.gpu))


def quantile(values: list[int], part: float) -> float:
    return sorted(values)[min(int(part * len(values)), len(values) - 1)]


def figures(simulation: Simulation) -> dict[str, Any]:
    """Waits in minutes by tier, and results of the check; workloads that still wait count with their wait so far."""
    by_tier: dict[str, Any] = {}
    for tier in simulation.tiers:
        stories = [story for story in simulation.stories.values() if story.tier == tier and story.pools]
        waits = [waited(simulation, story) for story in stories]
        by_tier[tier.lower()] = {
            "count": len(waits),
            "mean_min": round(mean(waits) / 60, 1),
            "p50_min": round(quantile(waits, 0.5) / 60, 1),
            "p95_min": round(quantile(waits, 0.95) / 60, 1),
            "max_min": round(max(waits) / 60, 1),
            "expedited": sum(story.expedited for story in stories),
            "still_waiting": sum(story.placed is None for story in stories),
        }
    late = [
        (bound(simulation, name, story) - waited(simulation, story)) / 60
        for name, story in simulation.stories.items()
        if story.pools and waited(simulation, story) > MAX_WAIT_SECONDS
    ]
    return {
        "hours": simulation.hours,
        "workers": len(simulation.workers),
        "cycles": len(simulation.times),
        "tiers": by_tier,
        "gpu_use": round(gpu_use(simulation), 4),
        "lane_share_by_pool": {pool: round(share_taken(log), 4) for pool, log in simulation.logs.items()},
        "waited_over_30_min": len(late),
        "bound_broken": len(broken(simulation)),
        "least_slack_min": round(min(late), 1) if late else None,
        "median_slack_min": round(sorted(late)[len(late) // 2], 1) if late else None,
    }


def plot(simulation: Simulation, without: Simulation, path: Path) -> None:
    """Plot waits by tier with and without the lane, and each long wait against its bound."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    _, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for number, tier in enumerate(simulation.tiers):
        for run, style in ((simulation, "-"), (without, ":")):
            waits = sorted(waited(run, s) / 60 for s in run.stories.values() if s.tier == tier and s.pools)
            parts = [(index + 1) / len(waits) for index in range(len(waits))]
            label = tier if run is simulation else f"{tier}, no lane"
            left.plot([max(wait, 0.5) for wait in waits], parts, style, color=f"C{number}", label=label)
    left.axvline(30, color="grey", lw=0.8)
    left.set(xscale="log", xlabel="wait (minutes)", ylabel="part of the workloads", title="Waits by tier")
    left.legend(fontsize=8)
    for number, tier in enumerate(simulation.tiers):
        points = [
            (bound(simulation, name, story) / 3600, waited(simulation, story) / 3600)
            for name, story in simulation.stories.items()
            if story.tier == tier and story.pools and waited(simulation, story) > MAX_WAIT_SECONDS
        ]
        right.scatter([x for x, _ in points], [y for _, y in points], s=5, color=f"C{number}", label=tier)
    most = max((waited(simulation, story) for story in simulation.stories.values()), default=0) / 3600
    right.plot([0, most], [0, most], color="grey", lw=0.8)
    right.set_xlim(0, simulation.hours)
    right.set(xlabel="bound (hours)", ylabel="wait (hours)", title="Waits over 30 minutes and their bounds")
    right.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(path, dpi=110)
    plt.close()
