"""Counters and histograms of the scheduler. Label values come from enums or are limited in number.

The gauges of waiting and running workloads are in `gauges`.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from prometheus_client import Counter, Histogram

from niyanta.engine.placement.requirement_class import Counts
from niyanta.engine.types import Reason, Rejection
from niyanta.lifecycle import Event
from niyanta.observability.gauges import LabelLimit, LeaderGauge
from niyanta.resources.models.customer import Tier
from niyanta.scheduler.pods.outcome import LifecycleDecision
from niyanta.store.errors import ConflictError, StaleEpochError, StoreError, StoreUnavailableError
from niyanta.store.rows import BatchResult, WorkloadRow

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_WAITS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 21600, 86400)

NO_WORKERS = "NoWorkers"
"""Reason of a rejection by a cycle without any worker."""
_REASONS = (*(reason.value for reason in Reason), NO_WORKERS)


class LoopPhase(enum.StrEnum):
    """Phases of the leader's loop; values of the label `phase`."""

    INTAKE = "intake"
    OBSERVE = "observe"
    NOTES = "notes"
    ENGINE = "engine"
    COMMIT = "commit"


class _CommitError(enum.StrEnum):
    """Errors of a whole commit; values of the label `error`."""

    UNAVAILABLE = "unavailable"
    CONFLICT = "conflict"
    STALE_EPOCH = "stale_epoch"
    OTHER = "other"


class _DropReason(enum.StrEnum):
    """Reasons for which a commit left a transition out; values of the label `why`."""

    STALE = "stale"
    ILLEGAL = "illegal"


CYCLES = Counter("niyanta_cycles_total", "Cycles that ran to their end")
CYCLE_SECONDS = Histogram(
    "niyanta_cycle_seconds", "Time of one cycle, from taking the queue to its last commit", buckets=_SECONDS
)
ENGINE_SECONDS = Histogram("niyanta_cycle_engine_seconds", "Time of the engine in one cycle", buckets=_SECONDS)
PHASE_SECONDS = Histogram(
    "niyanta_cycle_phase_seconds", "Time of each phase of the leader's loop", ["phase"], buckets=_SECONDS
)
COMMIT_SECONDS = Histogram(
    "niyanta_commit_seconds", "Time of one commit of transitions to Postgres, including failed ones", buckets=_SECONDS
)
COMMIT_ERRORS = Counter("niyanta_commit_errors_total", "Commits of transitions that failed as a whole", ["error"])
COMMIT_DROPPED = Counter(
    "niyanta_commit_dropped_total", "Transitions that a commit left out: stale row, or illegal transition", ["why"]
)
PLACEMENTS = Counter("niyanta_placements_total", "Placements committed", ["pool", "tier"])
REJECTIONS = Counter(
    "niyanta_rejections_total", "Workloads that a cycle could not place, by their most frequent reason", ["reason"]
)
REJECTED = LeaderGauge(
    "niyanta_rejected_workloads",
    "Workloads in memory that the leader could not place when it last looked at their class, by its first reason",
    ["reason"],
)
ANTI_AFFINITY_CONFLICTS = Counter(
    "niyanta_anti_affinity_conflicts_total",
    "Workloads that a cycle could not place and that anti-affinity excluded from at least one worker",
)
QUEUE_CLASSES = LeaderGauge(
    "niyanta_queue_classes",
    "Classes of waiting workloads in memory: active ones are decided by the next cycle, parked ones wait for a change",
    ["state"],
)
PARKED_WAKES = Counter(
    "niyanta_parked_wakes_total", "Parked classes that a cycle looked at again, by what changed", ["source"]
)
WAKES_MISSED = Counter(
    "niyanta_wakes_missed_total",
    "Workloads placed by a try after some minutes although nothing had woken their class: always 0, or a fault",
)
ENGINE_DEFERRED = Counter(
    "niyanta_engine_deferred_total",
    "Customers that a cycle put off until others were decided, because their part of the engine's budget was spent",
)
TRANSITIONS = Counter("niyanta_transitions_total", "Workload transitions committed", ["event"])
SCORE = Histogram(
    "niyanta_placement_score",
    "Soft score of placements, 0 to 100 (50 without preferences)",
    buckets=tuple(range(0, 101, 10)),
)
WAIT_SECONDS = Histogram(
    "niyanta_queue_wait_seconds", "Time from queued to placed, by the customer's tier", ["tier"], buckets=_WAITS
)

# Rates need a sample of 0 before the first increase.
for _phase in LoopPhase:
    PHASE_SECONDS.labels(_phase)
for _error in _CommitError:
    COMMIT_ERRORS.labels(_error)
for _why in _DropReason:
    COMMIT_DROPPED.labels(_why)
for _reason in _REASONS:
    REJECTIONS.labels(_reason)
for _event in Event:
    TRANSITIONS.labels(_event.value)
for _source in ("worker", "term", "retry"):
    PARKED_WAKES.labels(_source)
for _tier in Tier:
    WAIT_SECONDS.labels(_tier.value)


class SchedulerMetrics:
    """Counts the scheduler's work in one process, over all its leaderships."""

    def __init__(self, *, customer_tier: Callable[[str], str], most_pools: int) -> None:
        """`customer_tier`: customer -> name of its tier. `most_pools`: further pools are counted as `other`."""
        self._customer_tier = customer_tier
        self.pools = LabelLimit(most_pools)

    @contextmanager
    def phase(self, phase: LoopPhase) -> Iterator[None]:
        """Time a phase of the loop."""
        start = time.monotonic()
        try:
            yield
        finally:
            PHASE_SECONDS.labels(phase).observe(time.monotonic() - start)

    @contextmanager
    def commit(self) -> Iterator[None]:
        """Time a commit, and count its error."""
        start = time.monotonic()
        try:
            with self.phase(LoopPhase.COMMIT):
                yield
        except StoreError as error:
            COMMIT_ERRORS.labels(_commit_error(error)).inc()
            raise
        finally:
            COMMIT_SECONDS.observe(time.monotonic() - start)

    def dropped(self, result: BatchResult) -> None:
        """Count the rows that a commit left out."""
        COMMIT_DROPPED.labels(_DropReason.STALE).inc(len(result.stale))
        COMMIT_DROPPED.labels(_DropReason.ILLEGAL).inc(len(result.illegal))

    @contextmanager
    def cycle(self) -> Iterator[None]:
        """Time a whole cycle."""
        start = time.monotonic()
        yield
        CYCLES.inc()
        CYCLE_SECONDS.observe(time.monotonic() - start)

    def planned(self, seconds: float, rejections: Sequence[Rejection]) -> None:
        """Count a cycle's engine time and rejections, each rejection under its most frequent reason. A rejection stands
        for all workloads of its class."""
        ENGINE_SECONDS.observe(seconds)
        counts = dict.fromkeys(_REASONS, 0)
        conflicts = 0
        for rejection in rejections:
            counts[rejection.counts[0][0].value if rejection.counts else NO_WORKERS] += 1
            conflicts += any(reason is Reason.ANTI for reason, _, _ in rejection.counts)
        for reason, count in counts.items():
            if count:
                REJECTIONS.labels(reason).inc(count)
        ANTI_AFFINITY_CONFLICTS.inc(conflicts)

    @staticmethod
    def waiting(counts: Mapping[Counts, int]) -> None:
        """Show the workloads of classes that could not be placed, counted by what the class was refused for."""
        shown = dict.fromkeys(_REASONS, 0)
        for reasons, workloads in counts.items():
            shown[reasons[0][0].value if reasons else NO_WORKERS] += workloads
        REJECTED.show({(reason,): float(count) for reason, count in shown.items()})

    @staticmethod
    def queue_classes(*, active: int, parked: int) -> None:
        """Show the number of classes."""
        QUEUE_CLASSES.show({("active",): float(active), ("parked",): float(parked)})

    @staticmethod
    def woken(sources: Mapping[str, int]) -> None:
        """Count parked classes that were looked at again."""
        for source, count in sources.items():
            PARKED_WAKES.labels(source).inc(count)

    @staticmethod
    def deferred(customers: int) -> None:
        """Count customers that were put off."""
        ENGINE_DEFERRED.inc(customers)

    @staticmethod
    def wakes_missed(workloads: int) -> None:
        """Count workloads that a class should have been woken for."""
        WAKES_MISSED.inc(workloads)

    def transition(self, before: WorkloadRow, row: WorkloadRow, decision: LifecycleDecision) -> None:
        """Count one committed transition."""
        TRANSITIONS.labels(decision.event.value).inc()
        if decision.event is Event.PLACE and row.scheduled_at is not None:
            tier = self._customer_tier(row.customer)
            PLACEMENTS.labels(self.pools.label(row.pool or ""), tier).inc()
            waited = row.scheduled_at.timestamp() - before.queued_at_us / 1e6
            WAIT_SECONDS.labels(tier).observe(max(0.0, waited))
            SCORE.observe(row.score or 0.0)

    @staticmethod
    def close() -> None:
        """Remove the leader's gauges: this process no longer leads."""
        REJECTED.clear()
        QUEUE_CLASSES.clear()


def _commit_error(error: StoreError) -> _CommitError:
    if isinstance(error, StoreUnavailableError):
        return _CommitError.UNAVAILABLE
    if isinstance(error, ConflictError):
        return _CommitError.CONFLICT
    return _CommitError.STALE_EPOCH if isinstance(error, StaleEpochError) else _CommitError.OTHER
