"""A requirements class: what equal `Requirements` have in common, worked out once per cycle."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

import numpy as np

from niyanta.engine.placement.feasibility import needs_gpu, static_mask
from niyanta.engine.placement.scoring import StrategyScore, levels
from niyanta.engine.snapshot.affinity_terms import AffinityTerm
from niyanta.engine.snapshot.bitset import Bits, IntArray
from niyanta.engine.snapshot.snapshot import DEVICES_ROW, SLOTS_ROW, Snapshot
from niyanta.engine.types import CPU, MEMORY, PODS, Reason, Requirements

if TYPE_CHECKING:
    from niyanta.engine.placement.selection import WorkerRanking

Counts = tuple[tuple[Reason, str, int], ...]


class RequirementClass:
    """Static mask split into levels, requested amounts by column, and what the cycle has learnt about the class."""

    __slots__ = (
        "charges",
        "checks",
        "devices",
        "devices_of",
        "gpu_count",
        "has_peers",
        "kept",
        "lacking",
        "levels",
        "needs",
        "own_terms",
        "rejected",
        "rejected_group",
        "requirements",
        "row",
        "scores",
        "shift",
        "shift_list",
        "single_pod",
        "tests",
    )

    def __init__(
        self, requirements: Requirements, snapshot: Snapshot, score: StrategyScore, *, keep_gpu_workers_free: bool
    ) -> None:
        index = snapshot.index
        self.requirements = requirements
        static = static_mask(index, requirements)
        self.needs: list[tuple[int, int]] = []
        """(column, amount) of every requested resource, in the order of the request."""
        self.checks: list[tuple[int, int]] = []
        """`needs` without pods when that is 1: the rest of what must be compared for workers that are open."""
        self.lacking = False
        """A requested resource that no worker has ever had."""
        self.single_pod = False
        gpu_named: dict[str, int] | None = None
        cpu = memory = 0
        for name, amount in requirements.requests:
            column = snapshot.resources.get(name, -1)
            self.lacking |= column < 0
            self.needs.append((column, amount))
            if name == PODS and amount == 1:
                self.single_pod = True
                continue
            self.checks.append((column, amount))
            if name == CPU:
                cpu = amount
            elif name == MEMORY:
                memory = amount
            elif name in index.gpu_resources:
                gpu_named = (gpu_named or {}) | {name: amount}
        if not self.single_pod:
            self.checks.append((SLOTS_ROW, 1))
        self.gpu_count = requirements.gpu_count
        self.devices_of = dict.fromkeys(index.gpu_resources, self.gpu_count)
        """Whole devices that a pod takes on a worker, by the worker's GPU resource."""
        self.devices = self.gpu_count if self.devices_of else 0
        """The same when it is equal for all GPU resources, else -1."""
        if gpu_named:
            for name, amount in gpu_named.items():
                self.devices_of[name] += amount
            distinct = set(self.devices_of.values())
            self.devices = distinct.pop() if len(distinct) == 1 else -1
        gpu_last = keep_gpu_workers_free and bool(index.gpu) and not needs_gpu(index, requirements)
        self.levels: tuple[Bits, ...] = ()
        self.scores: tuple[float, ...] = ()
        if static and not self.lacking:
            self.levels, self.scores = levels(index, static, requirements.soft, gpu_last=gpu_last)
        self.shift_list: list[int] = score.shift(cpu, memory, self.devices_of)
        self.shift: IntArray = np.array(self.shift_list, np.int64)
        self.has_peers = bool(requirements.anti or requirements.near)
        self.own_terms: dict[tuple[str, str], tuple[tuple[AffinityTerm, ...], tuple[AffinityTerm, ...]]] = {}
        """By namespace and customer of the carrier: resolved anti and near terms."""
        self.charges: list[tuple[list[int], IntArray, int]] = []
        """What a pod takes, bound to the fork's columns (as list and as array), apart from GPU devices."""
        self.tests: list[tuple[list[int], int]] = []
        """What a worker must have left to take a pod, bound to the fork's columns; see `devices` if that is -1."""
        self.kept = False
        """Whether the fork remembers the class."""
        self.row: WorkerRanking | None = None
        self.rejected: Counts | None = None
        """Counts of a rejection that holds for every subject until the end of the cycle."""
        self.rejected_group: tuple[int, Counts] | None = None
        """(replicas, counts) of a rejection that holds for as many or more replicas of subjects without peers."""

    def bind(self, left: list[list[int]], free: list[IntArray]) -> None:
        """Look the fork's columns up once instead of with every placement."""
        self.charges = [(left[column], free[column], amount) for column, amount in self.needs]
        self.charges.append((left[SLOTS_ROW], free[SLOTS_ROW], 1))
        self.tests = [(have, amount) for have, _, amount in self.charges]
        if self.devices > 0:
            self.tests.append((left[DEVICES_ROW], self.devices))


def fingerprint(requirements: Requirements) -> Hashable:
    """Equal for equal requirements and rarely for others.

    Hashing the requirements themselves runs the generated `__hash__` of every nested dataclass and enum as Python code,
    three times as long as making and hashing this flat tuple.
    """
    hard = requirements.hard
    return (
        requirements.requests,
        requirements.gpu_count,
        requirements.node_selector,
        hard.worker_ids,
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
        len(requirements.node_terms),
    )
