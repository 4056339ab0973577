"""Reviews of waiting workloads after changes that concern many of them: Customers, namespaces, LimitRanges.

The leader's loop runs one bounded slice each round, fair between namespaces, so that a change that concerns thousands
of workloads delays no one else. Nothing is placed by an outdated rule meanwhile: `eligibility` is checked again before
each placement.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from niyanta.containment import Boundary, SharedFaultError
from niyanta.engine.types import Requirements
from niyanta.lifecycle import Event, Phase
from niyanta.resources.ownership import Held
from niyanta.scheduler.cluster_api import ClusterApi
from niyanta.scheduler.intake import object_to_row
from niyanta.scheduler.intake.eligibility import EligibilityCheck
from niyanta.scheduler.intake.fair_queue import FairQueue
from niyanta.scheduler.intake.rest_holds import RestHolds
from niyanta.scheduler.memory.compiled_specs import CompiledSpecs
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.placing.pending_reasons import PendingReasons
from niyanta.scheduler.pods.outcome import LifecycleDecision
from niyanta.scheduler.reasons import RowReason
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import TransitionRequest, Transitions
from niyanta.store.state import StateManager
from niyanta.store.workloads.limits import QUEUE_FULL

SLICE_WORKLOADS = 250
"""Workloads reviewed in one round; each takes up to a millisecond when its template is checked again."""


class Reviews:
    """Checks waiting workloads again, and moves those whose eligibility changed."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        store: StateManager,
        cluster: ClusterApi,
        reasons: PendingReasons,
        transitions: Transitions,
        eligibility: EligibilityCheck,
        rest_holds: RestHolds,
        tick: Callable[[], None],
    ) -> None:
        self._state = state
        self._store = store
        self._cluster = cluster
        self._reasons = reasons
        self._transitions = transitions
        self._eligibility = eligibility
        self._rest_holds = rest_holds
        self._tick = tick
        self._compiled = CompiledSpecs()
        self._open: FairQueue[bool] = FairQueue()
        """Workloads to review; True: compile them again as well."""

    def request_all(self) -> None:
        """Customers changed: hold workloads that may no longer be queued, release those that may, and follow tiers."""
        self._rest_holds.request_all()
        for tracked in self._state.workloads.select((Phase.PENDING, Phase.HELD)):
            self._request(tracked, compile_again=False)

    def request_namespaces(self, namespaces: Collection[str]) -> None:
        """LimitRanges or labels of these namespaces changed ("": a change for all namespaces): requests of the
        workloads that wait there may differ, and pods may be allowed or not."""
        self._rest_holds.request_namespaces(namespaces)
        for tracked in self._state.workloads.select((Phase.PENDING, Phase.HELD, Phase.SUSPENDED)):
            if "" in namespaces or tracked.row.namespace in namespaces:
                self._request(tracked, compile_again=True)

    def _request(self, tracked: TrackedWorkload, *, compile_again: bool) -> None:
        again = compile_again or self._open.get(tracked.id, default=False)
        self._open.put(tracked.row.namespace, tracked.id, again)

    @property
    def unfinished(self) -> bool:
        """True if work is left for `run_slice`."""
        return len(self._open) > 0 or bool(self._state.unreviewed) or self._rest_holds.unfinished

    async def run_slice(self) -> None:
        """Review the next workloads, in memory and in Postgres. Raises SharedFaultError; they are requested again
        then."""
        await self._review_next()
        await self._rest_holds.run_slice()

    async def _review_next(self) -> None:
        unreviewed = self._state.unreviewed
        for id_ in list(itertools.islice(unreviewed, SLICE_WORKLOADS)):
            del unreviewed[id_]
            tracked = self._state.workloads.get(id_)
            if tracked is not None:
                self._request(tracked, compile_again=False)
        part = self._open.take(SLICE_WORKLOADS)
        try:
            await self._run(part)
        except SharedFaultError:
            for id_, compile_again in part.items():
                tracked = self._state.workloads.get(id_)
                if tracked is not None:
                    self._request(tracked, compile_again=compile_again)
            raise

    async def _run(self, part: Mapping[str, bool]) -> None:
        found = {id_: tracked for id_ in part if (tracked := self._state.workloads.get(id_)) is not None}
        for id_, tracked in found.items():
            if part[id_]:
                self._contained(tracked, self.recompile)
        await self.review([tracked for tracked in found.values() if tracked.row.phase is not Phase.SUSPENDED])

    async def finish(self) -> None:
        """Review all workloads in memory that are left."""
        while len(self._open) > 0 or self._state.unreviewed:
            await self._review_next()

    async def review(self, workloads: Sequence[TrackedWorkload]) -> None:
        """Review these workloads now and commit the decisions."""
        requests = []
        for tracked in workloads:
            self._tick()
            try:
                request = await self._decide(tracked)
            except SharedFaultError:
                raise
            except Exception as error:
                self._state.parked.park(tracked, Boundary.ROW, error)
            else:
                requests += [request] if request is not None else []
        await self._transitions.commit(requests)

    def _contained(self, tracked: TrackedWorkload, work: Callable[[TrackedWorkload], None]) -> None:
        try:
            work(tracked)
        except SharedFaultError:
            raise
        except Exception as error:
            self._state.parked.park(tracked, Boundary.ROW, error)

    async def _decide(self, tracked: TrackedWorkload) -> TransitionRequest | None:
        if tracked.row.phase not in (Phase.PENDING, Phase.HELD):
            return None
        if tracked.object_missing:
            return None  # `recovery.missing_objects` decides about it
        if tracked.row.reason == QUEUE_FULL and tracked.row.phase is Phase.HELD:
            return None  # `maintenance` releases these in queue order
        eligible = self._eligibility.of(tracked)
        if eligible.held:
            if tracked.row.phase is Phase.PENDING:
                decision = LifecycleDecision(Event.HOLD, eligible.reason, eligible.message)
                return TransitionRequest(tracked, decision)
            if (eligible.reason, eligible.message) != (tracked.row.reason, tracked.row.message):
                self._reasons.add(tracked.id, eligible.reason, eligible.message)
            return None
        await self._follow_owner(tracked, eligible)
        if tracked.row.phase is not Phase.HELD:
            return None
        if self._cluster.customer_limits(eligible.customer).queue_depth is None:
            return TransitionRequest(tracked, LifecycleDecision(Event.RELEASE, RowReason.RELEASED, ""))
        self._reasons.add(tracked.id, QUEUE_FULL, "waits for room below its customer's maxQueueDepth")
        return None

    async def _follow_owner(self, tracked: TrackedWorkload, eligible: object_to_row.Eligibility) -> None:
        """Update the row's customer and tier weight if they have changed."""
        if tracked.row.customer == eligible.customer and tracked.row.tier_weight != eligible.tier_weight:
            # All rows of the customer in one statement: one by one, 300 rows would take a second.
            for row in await self._store.retier(eligible.customer, eligible.tier_weight, epoch=self._state.epoch):
                other = self._state.workloads.get(row.id)
                if other is not None:
                    other.row = row
                    self._contained(other, self._transitions.settle)
        if (eligible.customer, eligible.tier_weight) == (tracked.row.customer, tracked.row.tier_weight):
            return
        tracked.row = await self._store.reassign(
            tracked.id, customer=eligible.customer, tier_weight=eligible.tier_weight, epoch=self._state.epoch
        )
        self.recompile(tracked)

    def recompile(self, tracked: TrackedWorkload) -> None:
        """Compile a workload again, because the defaults of its namespace or its customer changed."""
        cluster, row = self._cluster, tracked.row
        owner = cluster.resolve_customer(row.namespace, row.customer)

        def compile_() -> Requirements | None:
            return object_to_row.read_row(tracked.full_row(), cluster)[1]

        found = self._compiled.requirements(
            tracked,
            cluster.namespace_defaults(row.namespace),
            wildcard=isinstance(owner, Held) or owner.wildcard,
            compile_=compile_,
        )
        # The object's labels may be newer than the row's.
        tracked.subject = replace(tracked.subject, namespace=row.namespace, customer=row.customer)
        if found is not None:
            tracked.requirements = found
        self._transitions.settle(tracked)
