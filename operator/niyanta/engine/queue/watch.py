"""Parked classes: why the engine refused them, and what has to change before they are decided again."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from niyanta.engine.placement.overlay import Overlay
from niyanta.engine.placement.requirement_class import Counts
from niyanta.engine.snapshot.affinity_terms import AffinityTerm
from niyanta.engine.types import PendingWorkload, Reason, Requirements, Subject

_PEERS = frozenset({Reason.ANTI, Reason.NEAR, Reason.GROUP, Reason.RESERVED})
"""Reasons that may depend on running peers. A worker that fails an earlier check is counted under that one, and when it
passes, the class is decided again and counts the worker anew."""


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """Things whose change could let a refused class be placed: its workers, its amounts there, and its terms."""

    requirements: Requirements
    subject: Subject
    replicas: int
    terms: tuple[AffinityTerm, ...] = ()
    """Its own terms, and terms of running carriers that keep it away."""
    awaits_terms: bool = False
    """It waits until its customer has fewer interned terms."""
    has_exclusions: bool = False
    """Every workload of the class that was tried avoids some workers for a while."""

    def predicate(self) -> Hashable:
        """A key that is equal for classes which the same workers could take, apart from amounts."""
        wanted = self.requirements
        names = tuple([name for name, _ in wanted.requests])
        gpu = wanted.wants_gpu or wanted.gpu_count > 0
        hard = (wanted.hard, wanted.node_selector, wanted.node_terms, wanted.tolerations, wanted.topology)
        return self.subject.customer, names, gpu, hard


@dataclass(frozen=True, slots=True, eq=False)
class Park:
    """A class's refusal. It lasts until something that it watches changes, at most until `retry_at`."""

    workload: str
    """Id of the workload that was refused."""
    counts: Counts
    """As in `Rejection`."""
    workers: int
    since: int
    """Time at which the class was first refused without being active in between, microseconds."""
    retry_at: int
    """Time of the next try in any case, microseconds."""
    watch: Watch
    facts: int = 0
    """`WorkerIndex.version` at the refusal: with another one, the reasons may be out of date."""


def watch_of(overlay: Overlay, workload: PendingWorkload, counts: Counts) -> Watch:
    """The watch of a workload that was just refused on the overlay, with these counts."""
    requirements, subject = workload.requirements, workload.subject
    terms: dict[AffinityTerm, None] = {}
    if any(reason in _PEERS for reason, _, _ in counts):
        view = overlay.view(subject)
        requirement_class = overlay.class_of(requirements, subject.customer)
        if requirement_class.has_peers:
            for own in overlay.terms_of(requirement_class, view):
                terms.update(dict.fromkeys(own))
        carried = overlay.carrier_bits
        terms.update(dict.fromkeys(term for term in overlay.matched(view) if carried[term.id]))
    return Watch(
        requirements,
        subject,
        workload.replicas,
        tuple(terms),
        awaits_terms=any(reason is Reason.TERM_LIMIT for reason, _, _ in counts),
        has_exclusions=bool(workload.excluded),
    )
