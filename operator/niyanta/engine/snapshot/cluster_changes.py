"""Changes of a snapshot since the last cycle, for the classes of the queue that wait for them."""

from __future__ import annotations

from dataclasses import dataclass, field

from niyanta.engine.snapshot.affinity_terms import AffinityTerm
from niyanta.engine.snapshot.bitset import Bits


@dataclass(slots=True)
class ClusterChanges:
    """Changes that could let a refused workload be placed; growing use of a worker is none."""

    workers: Bits = 0
    """Workers that a pod left, or that were added or changed in any fact."""
    terms: dict[AffinityTerm, Bits] = field(default_factory=dict)
    """Watched term -> workers in the domains where its peers or carriers appeared or went."""
    terms_rebuilt: bool = False
    """The terms were interned anew: those that were watched are no longer kept up to date."""
