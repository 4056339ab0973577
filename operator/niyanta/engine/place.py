"""The pure part of a cycle: pending workloads in, a plan out.

Comes after the snapshot (`columns`) has been fed and the queue has put the workloads in order; the plan goes to the
store for the commit. Workloads are decided one after the other, each seeing what was placed before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

from niyanta.engine.classes import Counts, RequirementsClass
from niyanta.engine.columns import Snapshot
from niyanta.engine.constraints import names
from niyanta.engine.cycle import Fork, Options, Undo, View
from niyanta.engine.explain import count_reasons
from niyanta.engine.model import PendingWorkload, Placement, Plan, Reason, Rejection
from niyanta.engine.peers import Term
from niyanta.engine.rows import ClassRow, choose

__all__ = ["Options", "schedule"]

_POLL_EVERY = 32
_ROWS_KEPT = 256
"""Classes that may keep a row of keys (80 bytes a worker each)."""

_BY_SUBJECT = (Reason.ANTI, Reason.GROUP)
"""Without these among the reasons, no subject of the class can be placed."""

_DEFAULTS = Options()


def schedule(
    snapshot: Snapshot,
    pending: Iterable[PendingWorkload],
    now: int,
    *,
    options: Options = _DEFAULTS,
    stop: Callable[[], bool] | None = None,
) -> Plan:
    """Decide where the pending workloads go.

    `pending` is in queue order and `now` in microseconds; the order already holds what `now` is about, so the plan does
    not depend on it yet. `stop` is polled every 32 workloads; once it is true the rest is counted as undecided. The
    snapshot is only read (its caches may grow). Equal input gives an equal plan. Sharing `Requirements` and `Subject`
    objects between workloads saves hashing them.
    """
    del now
    cycle = _Cycle(Fork(snapshot, options))
    queue = iter(pending)
    undecided = 0
    while batch := list(islice(queue, _POLL_EVERY)):
        if stop is not None and stop():
            undecided = len(batch) + sum(1 for _ in queue)
            break
        for workload in batch:
            cycle.decide(workload)
    return Plan(tuple(cycle.placements), tuple(cycle.rejections), undecided)


class _Cycle:
    """Decides one workload at a time on a fork and collects the plan."""

    def __init__(self, fork: Fork) -> None:
        self.fork = fork
        self.placements: list[Placement] = []
        self.rejections: list[Rejection] = []
        self._rows = 0

    def decide(self, workload: PendingWorkload) -> None:
        """Place the workload or reject it."""
        fork = self.fork
        asked = fork.requirements_class(workload.requirements)
        if asked.rejected is not None and not workload.excluded:
            self._reject(workload, asked.rejected)
            return
        view = fork.view(workload.subject)
        anti: tuple[Term, ...] = ()
        near: tuple[Term, ...] = ()
        if asked.has_peers:
            anti, near = fork.terms_of(asked, view)
        # Within a cycle nothing is freed, so a rejection holds for the class until its end. Near terms are the
        # exception (a placement may satisfy them), and excluded workers are one workload's own affair.
        lasting = not near and not workload.excluded
        plain = not anti and not fork.is_kept_away(fork.matched(view))
        if lasting:
            known = asked.rejected_group if plain else view.rejected and view.rejected.get(asked)
            if known and workload.replicas >= known[0]:
                self._reject(workload, known[1])
                return
        rows, scores, undos = self._try(workload, asked, view, anti, near)
        if len(rows) == workload.replicas:
            self._accept(workload, rows, scores, near)
            return
        group = len(rows) > 0
        while rows:
            fork.take(asked, view, rows.pop(), undos.pop())
        counts = count_reasons(fork, asked, view, anti, near, names(fork.index, workload.excluded))
        if lasting:
            fork.keep(asked)
            found = (workload.replicas if group else 1, counts)
            if not any(reason in _BY_SUBJECT for reason, _, _ in counts):
                asked.rejected = counts
            elif plain:
                asked.rejected_group = found
            else:
                view.rejected = (view.rejected or {}) | {asked: found}
        self._reject(workload, counts)

    def _try(
        self,
        workload: PendingWorkload,
        asked: RequirementsClass,
        view: View,
        anti: tuple[Term, ...],
        near: tuple[Term, ...],
    ) -> tuple[list[int], list[float], list[Undo]]:
        """Put as many replicas as fit, one after the other."""
        fork = self.fork
        rows: list[int] = []
        scores: list[float] = []
        undos: list[Undo] = []
        excluded = names(fork.index, workload.excluded) if workload.excluded else 0
        near_by, starting = fork.near_rows(near, view) if near else (fork.index.alive, ())
        kept = None if near or excluded or not asked.kept else self._row(asked)
        matched = fork.matched(view)
        for _ in range(workload.replicas):
            allowed = near_by & fork.starting_rows(starting) if starting else near_by
            blocked = excluded
            if anti or matched:
                blocked |= fork.anti_rows(anti, matched)
            if asked.requirements.host_ports:
                blocked |= fork.port_rows(asked.requirements)
            found = choose(fork, asked, blocked, allowed) if kept is None else kept.choose(fork, asked, blocked)
            row = found[0]
            if row < 0:
                break
            if workload.replicas == 1:
                fork.put(asked, view, anti, row, workload.id)
            else:
                undo = Undo()
                fork.put(asked, view, anti, row, workload.id, undo)
                undos.append(undo)
            rows.append(row)
            scores.append(found[1])
        return rows, scores, undos

    def _row(self, asked: RequirementsClass) -> ClassRow | None:
        """The row of keys of a class that was visited before, while there is room for one more."""
        row = asked.row
        if row is None and asked.levels and self._rows < _ROWS_KEPT:
            self._rows += 1
            row = asked.row = ClassRow(self.fork, asked)
        return row

    def _accept(self, workload: PendingWorkload, rows: list[int], scores: list[float], near: tuple[Term, ...]) -> None:
        infos = self.fork.index.infos
        first = infos[rows[0]]
        self.placements.append(
            Placement(
                workload.id,
                workload.version,
                workload.attempt,
                tuple([infos[row].name for row in rows]),
                scores[0] if len(scores) == 1 else sum(scores) / len(scores),
                first.pool,
                self._depends_on(workload, rows, near) if near else (),
            )
        )

    def _depends_on(self, workload: PendingWorkload, rows: list[int], near: tuple[Term, ...]) -> tuple[str, ...]:
        """Earlier workloads of this plan without which a near term would not hold: the first one in each domain."""
        found: dict[str, None] = {}
        for term in near:
            for row in rows:
                domain = self.fork.index.domain(term.topology, row)
                if domain is not None:
                    provider = self.fork.providers.get((term.id, domain))
                    if provider is not None and provider != workload.id:
                        found[provider] = None
        return tuple(found)

    def _reject(self, workload: PendingWorkload, counts: Counts) -> None:
        workers = len(self.fork.index.rows)
        self.rejections.append(Rejection(workload.id, workload.version, workers, counts))
