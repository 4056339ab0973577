"""Scores, one function per concern, in the order they decide:

1. `levels`: with `keep_gpu_workers_free`, workers without GPU before GPU workers (for workloads that need no GPU), then
   the soft terms. Workers of one level are equal in both.
2. `snapshot.strategy_score`: the pool's strategy, on the free share that would be left after placing.
3. The worker's name, ascending.

2 and 3 are one int64, `score * NAME_STEP + name rank`, so a choice is one argmax.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from niyanta.engine.placement.feasibility import matching, node_term
from niyanta.engine.snapshot.bitset import Bits, IntArray, minus, to_indices
from niyanta.engine.snapshot.strategy_score import NAME_STEP, SCORE_BITS
from niyanta.engine.snapshot.worker_index import WorkerIndex
from niyanta.engine.types import SoftTerm

NEUTRAL_SCORE: Final = 50.0
"""Score of every worker when there is no soft term."""

LEVEL_STEP: Final = NAME_STEP << SCORE_BITS
"""Level * LEVEL_STEP + key of strategy and name: the whole order in one int64, for up to 2^20 levels."""


def soft_bits(index: WorkerIndex, term: SoftTerm) -> Bits:
    """Workers that satisfy a soft term."""
    if term.matcher is not None:
        return matching(index, term.matcher)
    return node_term(index, term.node) if term.node is not None else 0


def levels(
    index: WorkerIndex, static: Bits, soft: tuple[SoftTerm, ...], *, gpu_last: bool
) -> tuple[tuple[Bits, ...], tuple[float, ...]]:
    """Split the workers of `static` by preference, best first, with the soft score (0-100) of each part.

    Score = 100 * weight of matched terms / weight of all terms; neutral without terms. No part is empty.
    """
    if not soft:
        return _gpu_last(index, [(static, NEUTRAL_SCORE)]) if gpu_last else ((static,), (NEUTRAL_SCORE,))
    parts: dict[int, Bits] = {0: static}
    total = 0
    for term in soft:
        wanted = soft_bits(index, term)
        total += term.weight
        split: dict[int, Bits] = {}
        for weight, workers in parts.items():
            hit = workers & wanted
            miss = workers ^ hit
            if hit:
                split[weight + term.weight] = split.get(weight + term.weight, 0) | hit
            if miss:
                split[weight] = split.get(weight, 0) | miss
        parts = split
    ordered = sorted(parts.items(), reverse=True)
    scored = [(workers, 100 * weight / total if total else NEUTRAL_SCORE) for weight, workers in ordered]
    if gpu_last:
        return _gpu_last(index, scored)
    return tuple([workers for workers, _ in scored]), tuple([score for _, score in scored])


def _gpu_last(index: WorkerIndex, scored: list[tuple[Bits, float]]) -> tuple[tuple[Bits, ...], tuple[float, ...]]:
    plain = [(minus(workers, index.gpu), score) for workers, score in scored]
    both = plain + [(workers & index.gpu, score) for workers, score in scored]
    kept = [part for part in both if part[0]]
    return tuple([workers for workers, _ in kept]), tuple([score for _, score in kept])


def level_by_worker(parts: tuple[Bits, ...], capacity: int) -> IntArray:
    """Level of each worker, best = highest, -1 = in no level; shape (capacity,)."""
    level = np.full(capacity, -1, np.int64)
    for number, workers in enumerate(reversed(parts)):
        level[to_indices(workers, capacity)] = number
    return level
