"""Decides workloads one by one on a cycle's overlay: in queue order for `schedule`, in lane order for `lane`.

An error in the decision of a workload becomes its `DecisionFault`: what it took on the overlay is given back, and the
next workload is decided.
"""

from __future__ import annotations

from collections.abc import Callable

from niyanta.engine.placement.checks import count_reasons
from niyanta.engine.placement.domains import Domains, required_topologies
from niyanta.engine.placement.feasibility import named_workers
from niyanta.engine.placement.overlay import Overlay, SubjectView, Undo
from niyanta.engine.placement.requirement_class import Counts, RequirementClass
from niyanta.engine.placement.selection import WorkerRanking, choose
from niyanta.engine.snapshot.affinity_terms import AffinityTerm
from niyanta.engine.snapshot.bitset import Bits, minus
from niyanta.engine.types import DecisionFault, PendingWorkload, Placement, Reason, Rejection

_MAX_RANKINGS = 256
"""Most classes with a ranking of all workers (80 bytes per worker each)."""

MAX_UNANCHORED_TERMS = 2_000
"""Most terms of one customer that every subject in their reach is compared with (`AffinityTable.unanchored`)."""

_UNANCHORED_TERMS_CHECKED = 256
"""From this number of them on, a workload's terms are interned only if some worker has room for it."""

_BY_SUBJECT = (Reason.ANTI, Reason.GROUP)
"""Reasons that depend on the subject: without them a rejection applies to every subject of the class."""

_Try = tuple[str, RequirementClass, SubjectView, list[int], list[Undo]]
"""Workload id, and the pods that the workload got so far, newest last. A plain tuple, as one is made per workload."""


class Placer:
    """Decides one workload at a time on an overlay and collects the plan."""

    def __init__(self, overlay: Overlay) -> None:
        self.overlay = overlay
        self.placements: list[Placement] = []
        self.rejections: list[Rejection] = []
        self.faults: list[DecisionFault] = []
        self.remaining = dict(overlay.options.remaining)
        """Customer with a limit -> number of its workloads that may still be placed."""
        self.replicas_placed = 0
        """Replicas that found room, of the last workload that `fit` rejected."""
        self._rankings: dict[RequirementClass, WorkerRanking] = {}
        self._tried: _Try | None = None
        """The last workload that was tried."""
        self._domains_tried = ""
        """Domains that the last workload was tried in, and the room of the best ones; "" if no topology ties it."""
        self._single = Undo()
        """Used again for each workload of one replica: most are placed, and then need no record."""

    def decide(self, workload: PendingWorkload) -> None:
        """Place the workload, reject it, or record its fault."""
        try:
            self._decide(workload)
        except Exception as error:
            self.fail(workload, error)

    def fail(self, workload: PendingWorkload, error: Exception) -> None:
        """Record an error in the decision of the workload, and give back all that the workload took."""
        if self._tried is not None and self._tried[0] == workload.id:
            self._take_back()
            if self.placements and self.placements[-1].id == workload.id:
                self.placements.pop()
                if workload.subject.customer in self.remaining:
                    self.remaining[workload.subject.customer] += 1
        self._tried = None
        self.overlay.enter_new_terms()
        self.faults.append(DecisionFault.of(workload, error))

    def _decide(self, workload: PendingWorkload) -> None:
        overlay = self.overlay
        if self.remaining and self.is_at_limit(workload):
            count = len(overlay.index.by_name)
            self._reject(workload, ((Reason.CONCURRENCY, workload.subject.customer, count),) if count else ())
            return
        requirement_class = overlay.class_of(workload.requirements, workload.subject.customer)
        if requirement_class.rejected is not None and not workload.excluded:
            self._reject(workload, requirement_class.rejected)
            return
        view = overlay.view(workload.subject)
        anti: tuple[AffinityTerm, ...] = ()
        near: tuple[AffinityTerm, ...] = ()
        if requirement_class.has_peers:
            if self._has_many_terms(workload) and self._reject_by_terms(workload, requirement_class, view):
                return
            anti, near = overlay.terms_of(requirement_class, view)
        # Within a cycle nothing is freed, so a rejection holds for the class until its end. Near terms are the
        # exception (a placement may satisfy them), and excluded workers concern a single workload.
        lasting = not near and not workload.excluded
        plain = not anti and not overlay.has_conflicts(overlay.matched(view))
        if lasting:
            known = (
                requirement_class.rejected_group if plain else view.rejected and view.rejected.get(requirement_class)
            )
            if known and workload.replicas >= known[0]:
                self._reject(workload, known[1])
                return
        workers, scores = self._fill(workload, requirement_class, view, anti, near)
        if len(workers) == workload.replicas:
            self._accept(workload, workers, scores, near)
            return
        self._take_back()
        excluded = named_workers(overlay.index, workload.excluded)
        counts = count_reasons(overlay, requirement_class, view, anti, near, excluded, self._domains_tried)
        if lasting:
            overlay.remember(requirement_class)
            group = any(reason is Reason.GROUP for reason, _, _ in counts)
            found = (workload.replicas if group else 1, counts)
            if not any(reason in _BY_SUBJECT for reason, _, _ in counts):
                requirement_class.rejected = counts
            elif plain:
                requirement_class.rejected_group = found
            else:
                view.rejected = (view.rejected or {}) | {requirement_class: found}
        self._reject(workload, counts)

    def _has_many_terms(self, workload: PendingWorkload) -> bool:
        table = self.overlay.snapshot.affinity
        return table.unanchored[workload.subject.customer] >= _UNANCHORED_TERMS_CHECKED

    def _reject_by_terms(
        self, workload: PendingWorkload, requirement_class: RequirementClass, view: SubjectView
    ) -> bool:
        """Reject a workload without interning its terms, if no worker has room for it or its customer has too many."""
        overlay, table, subject = self.overlay, self.overlay.snapshot.affinity, workload.subject
        excluded = named_workers(overlay.index, workload.excluded)
        if choose(overlay, requirement_class, excluded, overlay.index.alive)[0] < 0:
            counts = count_reasons(overlay, requirement_class, view, (), (), excluded)
            if not any(reason in _BY_SUBJECT for reason, _, _ in counts):
                if not workload.excluded:
                    overlay.remember(requirement_class)
                    requirement_class.rejected = counts
                self._reject(workload, counts)
                return True
        terms = (*requirement_class.requirements.anti, *requirement_class.requirements.near)
        new = sum(1 for term in terms if not table.is_interned(term, subject))
        if not new or table.unanchored[subject.customer] + new <= MAX_UNANCHORED_TERMS:
            return False
        self._reject(workload, ((Reason.TERM_LIMIT, subject.customer, len(overlay.index.by_name)),))
        return True

    def attempt(self, workload: PendingWorkload, blocked: Bits) -> list[int]:
        """Place the workload outside `blocked` by a turn of the lane; returns its workers, or [] without recording a
        rejection."""
        overlay = self.overlay
        requirement_class = overlay.class_of(workload.requirements, workload.subject.customer)
        if requirement_class.rejected is not None and not workload.excluded:
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
        """Place the workload outside `blocked`, even if its class was rejected before; returns its workers or [].

        `accept` decides about the workers of a workload that fits; if it returns False, all changes are reverted.
        """
        overlay = self.overlay
        requirement_class = overlay.class_of(workload.requirements, workload.subject.customer)
        view = overlay.view(workload.subject)
        anti, near = overlay.terms_of(requirement_class, view) if requirement_class.has_peers else ((), ())
        workers, scores = self._fill(workload, requirement_class, view, anti, near, blocked)
        self.replicas_placed = len(workers)
        if len(workers) == workload.replicas and (accept is None or accept(workers)):
            self._accept(workload, workers, scores, near, expedited=expedited)
            return workers
        self._take_back()
        return []

    def is_at_limit(self, workload: PendingWorkload) -> bool:
        """True when the workload's customer has reached its limit of concurrent workloads."""
        return self.remaining.get(workload.subject.customer, 1) <= 0

    def _fill(
        self,
        workload: PendingWorkload,
        requirement_class: RequirementClass,
        view: SubjectView,
        anti: tuple[AffinityTerm, ...],
        near: tuple[AffinityTerm, ...],
        outside: Bits = 0,
    ) -> tuple[list[int], list[float]]:
        """Place as many replicas as fit without the workers of `outside`; returns their workers and scores.

        A group that a topology ties together is placed whole in one domain, or not at all. So is one whose near terms
        only the group itself satisfies.
        """
        topology = requirement_class.requirements.topology
        if workload.replicas == 1 or not (near or topology):
            self._domains_tried = ""
            return self._fill_within(workload, requirement_class, view, anti, near, outside)
        self._tried = None
        near_by, starting = self.overlay.workers_near(near, view)
        required = required_topologies(requirement_class.requirements, starting)
        choices = [required]
        if topology is not None and not topology.required:
            choices.insert(0, tuple(dict.fromkeys((*required, topology.key))))
        usable = minus(near_by & self.overlay.workers_for_starting(starting), outside)
        for topologies in choices:
            self._domains_tried = ""
            if not topologies:
                return self._fill_within(workload, requirement_class, view, anti, near, outside)
            workers, scores = self._fill_domain(workload, requirement_class, view, anti, near, topologies, usable)
            if workers:
                return workers, scores
        return [], []

    def _fill_domain(
        self,
        workload: PendingWorkload,
        requirement_class: RequirementClass,
        view: SubjectView,
        anti: tuple[AffinityTerm, ...],
        near: tuple[AffinityTerm, ...],
        topologies: tuple[str, ...],
        usable: Bits,
    ) -> tuple[list[int], list[float]]:
        """Place all replicas on usable workers of the best fitting domain that takes them, or none."""
        overlay, replicas = self.overlay, workload.replicas
        blocked = named_workers(overlay.index, workload.excluded)
        blocked |= overlay.workers_in_conflict(anti, overlay.matched(view))
        blocked |= overlay.workers_with_ports_taken(requirement_class.requirements)
        if anti:
            blocked |= overlay.reserved
        own = tuple([term for term in anti if term.matches(view.subject)])
        domains = Domains(overlay, requirement_class, topologies, minus(usable, blocked), own)
        for domain in domains.holding(replicas):
            elsewhere = minus(overlay.index.alive, domain.workers)
            workers, scores = self._fill_within(workload, requirement_class, view, anti, near, elsewhere)
            if len(workers) == replicas:
                return workers, scores
            domains.failed(domain, len(workers))
            self._take_back()
        self._domains_tried = domains.describe()
        return [], []

    def _fill_within(
        self,
        workload: PendingWorkload,
        requirement_class: RequirementClass,
        view: SubjectView,
        anti: tuple[AffinityTerm, ...],
        near: tuple[AffinityTerm, ...],
        outside: Bits = 0,
    ) -> tuple[list[int], list[float]]:
        """Place as many replicas as fit without the workers of `outside`, one after the other, wherever they fit."""
        overlay = self.overlay
        workers: list[int] = []
        scores: list[float] = []
        undos: list[Undo] = []
        self._tried = (workload.id, requirement_class, view, workers, undos)
        excluded = named_workers(overlay.index, workload.excluded) | outside if workload.excluded else outside
        if anti and overlay.reserved:
            # Carriers of anti terms on reserved workers could keep the reserving workload away.
            excluded |= overlay.reserved
        near_by, starting = overlay.workers_near(near, view) if near else (overlay.index.alive, ())
        ranking = (
            None
            if near or workload.excluded or not requirement_class.remembered
            else self._ranking_of(requirement_class)
        )
        matched = overlay.matched(view)
        for _ in range(workload.replicas):
            allowed = near_by & overlay.workers_for_starting(starting) if starting else near_by
            blocked = excluded
            if anti or matched:
                blocked |= overlay.workers_in_conflict(anti, matched)
            if requirement_class.requirements.host_ports:
                blocked |= overlay.workers_with_ports_taken(requirement_class.requirements)
            found = (
                choose(overlay, requirement_class, blocked, allowed)
                if ranking is None
                else ranking.choose(overlay, requirement_class, blocked)
            )
            worker = found[0]
            if worker < 0:
                break
            if workload.replicas == 1:
                undo = self._single
                undo.clear()
            else:
                undo = Undo()
            # Recorded first, so that a pod whose placing raises is taken back as well.
            workers.append(worker)
            undos.append(undo)
            overlay.place_pod(requirement_class, view, anti, worker, workload.id, undo)
            scores.append(found[1])
        return workers, scores

    def _take_back(self) -> None:
        """Take back the pods of the last workload that was tried, newest first."""
        if self._tried is not None:
            _, requirement_class, view, workers, undos = self._tried
            while workers:
                self.overlay.take_back(requirement_class, view, workers[-1], undos[-1])
                workers.pop()
                undos.pop()

    def _ranking_of(self, requirement_class: RequirementClass) -> WorkerRanking | None:
        """The ranking of a class that is remembered; None when `_MAX_RANKINGS` classes have one already."""
        ranking = self._rankings.get(requirement_class)
        if ranking is None and requirement_class.levels and len(self._rankings) < _MAX_RANKINGS:
            ranking = self._rankings[requirement_class] = WorkerRanking(self.overlay, requirement_class)
        return ranking

    def _accept(
        self,
        workload: PendingWorkload,
        workers: list[int],
        scores: list[float],
        near: tuple[AffinityTerm, ...],
        *,
        expedited: bool = False,
    ) -> None:
        infos = self.overlay.index.infos
        self.placements.append(
            Placement(
                workload.id,
                workload.version,
                workload.attempt,
                tuple([infos[worker].name for worker in workers]),
                scores[0] if len(scores) == 1 else sum(scores) / len(scores),
                tuple([infos[worker].pool for worker in workers]),
                self._depends_on(workload, workers, near) if near else (),
                expedited,
            )
        )
        if self.remaining:
            customer = workload.subject.customer
            if customer in self.remaining:
                self.remaining[customer] -= 1

    def _depends_on(
        self, workload: PendingWorkload, workers: list[int], near: tuple[AffinityTerm, ...]
    ) -> tuple[str, ...]:
        """Earlier workloads of this plan that a near term relies on: the first one in each domain."""
        found: dict[str, None] = {}
        for term in near:
            for worker in workers:
                domain = self.overlay.index.domain(term.topology, worker)
                if domain is not None:
                    provider = self.overlay.providers.get((term.id, domain))
                    if provider is not None and provider != workload.id:
                        found[provider] = None
        return tuple(found)

    def _reject(self, workload: PendingWorkload, counts: Counts) -> None:
        self.rejections.append(Rejection(workload.id, workload.version, len(self.overlay.index.by_name), counts))
