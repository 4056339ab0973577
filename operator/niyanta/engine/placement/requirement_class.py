"""A requirement class: data shared by workloads with equal `Requirements`, computed once per cycle."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from niyanta.engine.placement.feasibility import needs_gpu, static_mask
from niyanta.engine.placement.scoring import levels
from niyanta.engine.snapshot.affinity_terms import AffinityTerm
from niyanta.engine.snapshot.bitset import Bits, IntArray, minus
from niyanta.engine.snapshot.snapshot import DEVICES_RESOURCE, SLOTS_RESOURCE, Snapshot
from niyanta.engine.snapshot.strategy_score import StrategyScore
from niyanta.engine.types import CPU, MEMORY, PODS, Reason, Requirements

Counts = tuple[tuple[Reason, str, int], ...]


class RequirementClass:
    """Feasible workers by preference level, requested amounts by resource, and rejections of this cycle.

    Customers share a class if they may use the same workers.
    """

    __slots__ = (
        "charges",
        "checks",
        "closed",
        "devices",
        "devices_of",
        "gpu_count",
        "has_peers",
        "has_unknown_resource",
        "levels",
        "needs",
        "own_terms",
        "rejected",
        "rejected_group",
        "remembered",
        "requirements",
        "scores",
        "shift",
        "shift_list",
        "single_pod",
        "tests",
    )

    def __init__(
        self,
        requirements: Requirements,
        snapshot: Snapshot,
        score: StrategyScore,
        *,
        closed: Bits,
        keep_gpu_workers_free: bool,
    ) -> None:
        index = snapshot.index
        self.requirements = requirements
        self.closed = closed
        """Workers of pools that the customers of the class may not use."""
        static = minus(static_mask(index, requirements), closed)
        self.needs: list[tuple[int, int]] = []
        """(resource, amount) of every requested resource, in the order of the request."""
        self.checks: list[tuple[int, int]] = []
        """`needs` without pods=1: the amounts to compare for workers in `Overlay.open_workers`."""
        self.has_unknown_resource = False
        """True when no worker has ever had one of the requested resources."""
        self.single_pod = False
        """True when the request has pods=1, as every compiled workload does."""
        self.gpu_count = requirements.gpu_count
        self.devices_of = dict.fromkeys(index.gpu_resources, self.gpu_count)
        """Whole devices that a pod takes on a worker, by the worker's GPU resource."""
        cpu, memory = self._read_requests(snapshot)
        counts = set(self.devices_of.values())
        self.devices = 0 if not counts else counts.pop() if len(counts) == 1 else -1
        """Whole devices if they are equal for all GPU resources, else -1."""
        gpu_last = keep_gpu_workers_free and bool(index.gpu) and not needs_gpu(index, requirements)
        self.levels: tuple[Bits, ...] = ()
        self.scores: tuple[float, ...] = ()
        if static and not self.has_unknown_resource:
            self.levels, self.scores = levels(index, static, requirements.soft, gpu_last=gpu_last)
        self.shift_list: list[int] = score.shift(cpu, memory, self.devices_of)
        self.shift: IntArray = np.array(self.shift_list, np.int64)
        self.has_peers = bool(requirements.anti or requirements.near)
        self.own_terms: dict[tuple[str, str], tuple[tuple[AffinityTerm, ...], tuple[AffinityTerm, ...]]] = {}
        """By namespace and customer of the carrier: resolved anti and near terms."""
        self.charges: list[tuple[list[int], IntArray, int]] = []
        """(free list, free array, amount) of every resource that a pod takes, apart from GPU devices."""
        self.tests: list[tuple[list[int], int]] = []
        """(free list, amount) that a worker must have to take a pod; incomplete if `devices` is -1."""
        self.remembered = False
        """True when the overlay remembers the class."""
        self.rejected: Counts | None = None
        """Counts of a rejection that is valid for every subject until the end of the cycle."""
        self.rejected_group: tuple[int, Counts] | None = None
        """(replicas, counts) of a rejection that is valid for as many or more replicas of subjects without peers."""

    def _read_requests(self, snapshot: Snapshot) -> tuple[int, int]:
        """Fill `needs`, `checks` and `devices_of`; returns the requested cpu (millicores) and memory (bytes)."""
        cpu = memory = 0
        for name, amount in self.requirements.requests:
            resource = snapshot.resources.get(name, -1)
            self.has_unknown_resource |= resource < 0
            self.needs.append((resource, amount))
            if name == PODS and amount == 1:
                self.single_pod = True
                continue
            self.checks.append((resource, amount))
            if name == CPU:
                cpu = amount
            elif name == MEMORY:
                memory = amount
            elif name in self.devices_of:
                self.devices_of[name] += amount
        if not self.single_pod:
            self.checks.append((SLOTS_RESOURCE, 1))
        return cpu, memory

    def bind(self, left: list[list[int]], free: list[IntArray]) -> None:
        """Look up the overlay's lists and arrays once instead of at every placement."""
        self.charges = [(left[resource], free[resource], amount) for resource, amount in self.needs]
        self.charges.append((left[SLOTS_RESOURCE], free[SLOTS_RESOURCE], 1))
        self.tests = [(have, amount) for have, _, amount in self.charges]
        if self.devices > 0:
            self.tests.append((left[DEVICES_RESOURCE], self.devices))


def fingerprint(requirements: Requirements) -> Hashable:
    """A key that is equal for equal requirements and rarely for different ones.

    Hashing the requirements themselves runs the generated `__hash__` of every nested dataclass and enum as Python code,
    three times as long as making and hashing this flat tuple.
    """
    hard = requirements.hard
    return (
        requirements.requests,
        requirements.gpu_count,
        requirements.node_selector,
        hard.node_names,
        hard.pools,
        hard.regions,
        hard.zones,
        hard.compliance,
        hard.capabilities,
        hard.gpu_models,
        tuple([(part.key, part.values) for part in hard.tags]),
        tuple([wish.weight for wish in requirements.soft]),
        tuple([(term.topology, *[part.values for part in term.selector.labels]) for term in requirements.anti]),
        len(requirements.near),
        requirements.topology and requirements.topology.key,
        len(requirements.node_terms),
    )
