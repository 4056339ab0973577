"""The leader's timers: due rows, lost nodes, ended exclusions, maintenance and gauges, run in the leader's loop."""

from __future__ import annotations

from niyanta.aio import Timer
from niyanta.containment import Boundary, contained
from niyanta.scheduler.gauges import SchedulerGauges
from niyanta.scheduler.periodic.expiry import ObjectExpiry
from niyanta.scheduler.periodic.maintenance import Maintenance
from niyanta.scheduler.periodic.wake_ups import WakeUps
from niyanta.scheduler.placing.pending_reasons import PendingReasons
from niyanta.scheduler.pods.breaker import OPEN_BREAKERS
from niyanta.scheduler.pods.observer import PodObserver
from niyanta.scheduler.state import SchedulerState
from niyanta.scheduler.transitions import Transitions
from niyanta.store.state import StateManager

DUE_BATCH_ROWS = 1000
"""Most due rows handled in one round."""

GAUGES_EVERY_SECONDS = 2.0
"""Time between two refreshes of the gauges, which are linear in the number of workloads in memory."""


class LeaderTimers:
    """Runs the work that time starts, not a change."""

    def __init__(
        self,
        state: SchedulerState,
        *,
        store: StateManager,
        wake_ups: WakeUps,
        expiry: ObjectExpiry,
        observer: PodObserver,
        transitions: Transitions,
        reasons: PendingReasons,
        maintenance: Maintenance,
        gauges: SchedulerGauges,
    ) -> None:
        self._state = state
        self._store = store
        self._wake_ups = wake_ups
        self._expiry = expiry
        self._observer = observer
        self._transitions = transitions
        self._reasons = reasons
        self._maintenance = maintenance
        self._gauges = gauges
        self._gauges_timer = Timer(GAUGES_EVERY_SECONDS)

    async def run(self) -> bool:
        """Run the work that is due. Returns True if another workload may be placed now."""
        await self._state.clock.refresh()
        if self._gauges_timer.due():
            with contained(Boundary.TIMER, "gauges"):
                self._show_breakers()
                await self._gauges.refresh()
        queue_changed = exclusions_ended = False
        with contained(Boundary.TIMER, "due rows"):
            queue_changed = await self._wake_ups.handle(await self._store.get_due(DUE_BATCH_ROWS))
        with contained(Boundary.TIMER, "finished objects"):
            self._expiry.run()
        with contained(Boundary.TIMER, "lost nodes"):
            await self._observer.observe([t.id for t in self._state.workloads if t.lost_since is not None])
        with contained(Boundary.TIMER, "exclusions of workers"):
            exclusions_ended = self._transitions.end_exclusions()
        with contained(Boundary.TIMER, "pending reasons"):
            self._reasons.collect()
        await self._maintenance.run()
        return queue_changed or exclusions_ended or self._state.worker_breakers.changed()

    def _show_breakers(self) -> None:
        namespaces, workers = self._state.namespace_gates.open_breakers(), len(self._state.worker_breakers.open())
        OPEN_BREAKERS.show({("namespace",): namespaces, ("worker",): workers})

    def clear_gauges(self) -> None:
        """Remove the gauges: this process no longer leads."""
        self._gauges.clear()
        OPEN_BREAKERS.clear()
