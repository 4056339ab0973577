"""The scheduler's Prometheus metrics. Durations in seconds; label values come from enums, so they are bounded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

from niyanta.engine.model import Rejection
from niyanta.lifecycle import Event, Phase
from niyanta.scheduler.attempts import Verdict
from niyanta.store.rows import WorkloadRow

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_WAITS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 21600, 86400)

CYCLE_SECONDS = Histogram("niyanta_cycle_engine_seconds", "Time the engine thought in one cycle", buckets=_SECONDS)
PHASE_SECONDS = Histogram(
    "niyanta_cycle_phase_seconds", "Time of each phase of the leader's loop", ["phase"], buckets=_SECONDS
)
CYCLES = Counter("niyanta_cycles", "Cycles run")
PLACEMENTS = Counter("niyanta_placements", "Placements committed")
REJECTED = Gauge(
    "niyanta_rejected_workloads", "Workloads the last cycle could not place, by their main reason", ["reason"]
)
TRANSITIONS = Counter("niyanta_transitions", "Workload transitions committed", ["event"])
SCORE = Histogram("niyanta_placement_score", "Soft score of placements (0-100)", buckets=tuple(range(0, 101, 10)))
WAIT_SECONDS = Histogram("niyanta_wait_seconds", "From queued to placed", ["tier_weight"], buckets=_WAITS)
WORKLOADS = Gauge("niyanta_workloads", "Live workloads the leader tracks, by phase", ["phase"])
QUEUE_DEPTH = Gauge("niyanta_queue_depth", "Workloads waiting to be placed (phase Pending)")
OLDEST_SECONDS = Gauge("niyanta_queue_oldest_seconds", "Age of the workload that has been Pending longest")

ALERT = Gauge(
    "niyanta_orphans_alert", "1 while so many Workload objects are missing that nothing is cancelled or placed"
)


class Telemetry:
    """Counts what one session does."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase of the loop: intake, observe, engine, commit, notes."""
        start = time.monotonic()
        try:
            yield
        finally:
            PHASE_SECONDS.labels(name).observe(time.monotonic() - start)

    def cycle(self, seconds: float, placed: int, rejections: Sequence[Rejection]) -> None:
        """One cycle's figures; the rejected are counted under their most frequent reason."""
        CYCLES.inc()
        CYCLE_SECONDS.observe(seconds)
        PLACEMENTS.inc(placed)
        counts: dict[str, int] = {}
        for rejection in rejections:
            reason = rejection.counts[0][0].value if rejection.counts else "NoWorkers"
            counts[reason] = counts.get(reason, 0) + 1
        REJECTED.clear()
        for reason, count in counts.items():
            REJECTED.labels(reason).set(count)

    def transition(self, before: WorkloadRow, row: WorkloadRow, verdict: Verdict) -> None:
        """One committed transition."""
        TRANSITIONS.labels(verdict.event.value).inc()
        if verdict.event is Event.PLACE and row.scheduled_at is not None:
            waited = row.scheduled_at.timestamp() - before.queued_at_us / 1e6
            WAIT_SECONDS.labels(str(row.tier_weight)).observe(max(0.0, waited))
            SCORE.observe(row.score or 0.0)

    def queue(self, phases: dict[Phase, int], oldest_seconds: float) -> None:
        """Gauges of the queue, refreshed about once a second."""
        for phase in Phase:
            WORKLOADS.labels(phase.value).set(phases.get(phase, 0))
        QUEUE_DEPTH.set(phases.get(Phase.PENDING, 0))
        OLDEST_SECONDS.set(oldest_seconds)
