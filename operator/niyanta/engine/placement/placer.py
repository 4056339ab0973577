"""Decides one workload at a time on a cycle's fork: for `place` by queue order, for `lane` by lane order."""

from __future__ import annotations

from collections.abc import Callable

from niyanta.engine.explain import count_reasons
from niyanta.engine.placement.feasibility import names
from niyanta.engine.placement.overlay import Overlay, SubjectView, Undo
from niyanta.engine.placement.requirement_class import Counts, RequirementClass
from niyanta.engine.placement.selection import WorkerRanking, choose
from niyanta.engine.snapshot.affinity_terms import AffinityTerm
from niyanta.engine.snapshot.bitset import Bits
from niyanta.engine.types import PendingWorkload, Placement, Reason, Rejection

_ROWS_KEPT = 256
"""Classes that may keep a row of keys (80 bytes a worker each)."""

_BY_SUBJECT = (Reason.ANTI, Reason.GROUP)
"""Without these among the reasons, no subject of the class can be placed."""


class Placer:
    """Decides one workload at a time on a fork and collects the plan."""

    def __init__(self, fork: Overlay) -> None:
        self.fork = fork
        self.placements: list[Placement] = []
        self.rejections: list[Rejection] = []
        self.remaining = dict(fork.options.remaining)
        """By customer, for those with a limit: how many more workloads may be placed."""
        self.reached = 0
        """How many replicas of the last workload that `fit` turned away had found room."""
        self._rows = 0

    def decide(self, workload: PendingWorkload) -> None:
        """Place the workload or reject it."""
        fork = self.fork
        if self.remaining and self.is_at_limit(workload):
            workers = len(fork.index.rows)
            self._reject(workload, ((Reason.CONCURRENCY, workload.subject.customer, workers),) if workers else ())
            return
        asked = fork.requirements_class(workload.requirements)
        if asked.rejected is not None and not workload.excluded:
            self._reject(workload, asked.rejected)
            return
        view = fork.view(workload.subject)
        anti: tuple[AffinityTerm, ...] = ()
        near: tuple[AffinityTerm, ...] = ()
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

    def attempt(self, workload: PendingWorkload, blocked: Bits) -> list[int]:
        """Place the workload outside `blocked` by a turn of the lane; its rows, or none and no rejection either."""
        fork = self.fork
        asked = fork.requirements_class(workload.requirements)
        if asked.rejected is not None and not workload.excluded:
            return []
        return self.fit(workload, blocked, expedited=True)

    def fit(
        self,
        workload: PendingWorkload,
        blocked: Bits,
        *,
        accept: Callable[[list[int]], bool] | None = None,
        expedited: bool = False,
    ) -> list[int]:
        """Place the workload outside `blocked`, whatever was found out about its class; its rows, or none.

        `accept` is asked about the rows of one that fits; when it says no, all is as it was.
        """
        fork = self.fork
        asked = fork.requirements_class(workload.requirements)
        view = fork.view(workload.subject)
        anti, near = fork.terms_of(asked, view) if asked.has_peers else ((), ())
        rows, scores, undos = self._try(workload, asked, view, anti, near, blocked, undoable=accept is not None)
        if len(rows) == workload.replicas and (accept is None or accept(rows)):
            self._accept(workload, rows, scores, near, expedited=expedited)
            return rows
        self.reached = len(rows)
        while rows:
            fork.take(asked, view, rows.pop(), undos.pop())
        return []

    def is_at_limit(self, workload: PendingWorkload) -> bool:
        """Whether the workload's customer may not run one more."""
        return self.remaining.get(workload.subject.customer, 1) <= 0

    def _try(
        self,
        workload: PendingWorkload,
        asked: RequirementClass,
        view: SubjectView,
        anti: tuple[AffinityTerm, ...],
        near: tuple[AffinityTerm, ...],
        outside: Bits = 0,
        *,
        undoable: bool = False,
    ) -> tuple[list[int], list[float], list[Undo]]:
        """Put as many replicas as fit outside some workers, one after the other.

        A group can be taken back by the undos; a single one too when `undoable`.
        """
        fork = self.fork
        rows: list[int] = []
        scores: list[float] = []
        undos: list[Undo] = []
        excluded = names(fork.index, workload.excluded) | outside if workload.excluded else outside
        if anti and fork.held:
            # Held workers are kept free of newcomers that could keep the holder away.
            excluded |= fork.held
        near_by, starting = fork.near_rows(near, view) if near else (fork.index.alive, ())
        kept = None if near or workload.excluded or not asked.kept else self._row(asked)
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
            if workload.replicas == 1 and not undoable:
                fork.put(asked, view, anti, row, workload.id)
            else:
                undo = Undo()
                fork.put(asked, view, anti, row, workload.id, undo)
                undos.append(undo)
            rows.append(row)
            scores.append(found[1])
        return rows, scores, undos

    def _row(self, asked: RequirementClass) -> WorkerRanking | None:
        """The row of keys of a class that was visited before, while there is room for one more."""
        row = asked.row
        if row is None and asked.levels and self._rows < _ROWS_KEPT:
            self._rows += 1
            row = asked.row = WorkerRanking(self.fork, asked)
        return row

    def _accept(
        self,
        workload: PendingWorkload,
        rows: list[int],
        scores: list[float],
        near: tuple[AffinityTerm, ...],
        *,
        expedited: bool = False,
    ) -> None:
        if self.remaining:
            customer = workload.subject.customer
            if customer in self.remaining:
                self.remaining[customer] -= 1
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
                expedited,
            )
        )

    def _depends_on(
        self, workload: PendingWorkload, rows: list[int], near: tuple[AffinityTerm, ...]
    ) -> tuple[str, ...]:
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
