"""Choosing the best worker of a class: from scratch, or from a kept row of keys that is patched where workers changed.

A class seen once is chosen for by whole-column comparisons, level by level (`choose`). From its second visit on it
keeps an int64 key per worker (`ClassRow`); each later visit recomputes only the workers that changed since.
"""

from __future__ import annotations

import numpy as np

from niyanta.engine.placement.overlay import Overlay
from niyanta.engine.placement.requirement_class import RequirementClass
from niyanta.engine.placement.scoring import LEVEL_STEP, rows_by_level
from niyanta.engine.snapshot.bitset import Bits, BoolArray, iterate, minus, to_bool
from niyanta.engine.snapshot.snapshot import DEVICES_ROW

_FEW = 12
"""Up to this many candidates are compared one by one in Python."""
_REBUILD = 256
"""From this many changed workers on, a row is made anew."""
_PEEKS = 4
"""So many blocked best workers are skipped one by one."""

NOWHERE = (-1, 0.0)


def fits(fork: Overlay, asked: RequirementClass) -> BoolArray:
    """Workers with enough of everything that is counted, apart from `fork.open`; shape (capacity,)."""
    free = fork.free
    enough: BoolArray | None = None
    for column, amount in asked.checks:
        part = free[column] >= amount
        enough = part if enough is None else np.logical_and(enough, part, out=enough)
    if asked.devices > 0:
        part = free[DEVICES_ROW] >= asked.devices
        enough = part if enough is None else np.logical_and(enough, part, out=enough)
    elif asked.devices < 0:
        enough = np.ones(fork.snapshot.capacity, np.bool_) if enough is None else enough
        for resource, amount in asked.devices_of.items():
            if amount:
                there = to_bool(fork.index.gpu_resources[resource], fork.snapshot.capacity)
                enough &= ~there | (free[DEVICES_ROW] >= amount)
    return np.ones(fork.snapshot.capacity, np.bool_) if enough is None else enough


def fits_one(fork: Overlay, asked: RequirementClass, row: int) -> bool:
    """`fits` and `open` for one worker."""
    for have, amount in asked.tests:
        if have[row] < amount:
            return False
    if asked.devices >= 0:
        return True
    devices = asked.devices_of.get(fork.gpu_resource.get(row, ""), 0)
    return not devices or fork.left[DEVICES_ROW][row] >= devices


def choose(fork: Overlay, asked: RequirementClass, blocked: Bits, allowed: Bits) -> tuple[int, float]:
    """(row, soft score) of the best worker outside `blocked` and inside `allowed`, or `NOWHERE`."""
    usable = fork.open & allowed if asked.single_pod else allowed
    if blocked:
        usable = minus(usable, blocked)
    enough: BoolArray | None = None
    shift, shape_of = asked.shift, fork.score.shape_of
    for part, score in zip(asked.levels, asked.scores, strict=True):
        part &= usable
        if not part:
            continue
        if part.bit_count() <= _FEW:
            row = _best_of(fork, asked, part)
            if row >= 0:
                return row, score
            continue
        if enough is None:
            enough = fits(fork, asked)
        mask = to_bool(part, fork.snapshot.capacity)
        rows = np.logical_and(mask, enough).nonzero()[0]
        if len(rows):
            keys = fork.base.take(rows)
            if not fork.score.single:
                keys += shift.take(shape_of.take(rows))
            return int(rows[keys.argmax()]), score
    return NOWHERE


def _best_of(fork: Overlay, asked: RequirementClass, part: Bits) -> int:
    best, best_key = -1, -1
    shapes, base = fork.score.shapes, fork.base_list
    shift = asked.shift_list
    for row in iterate(part):
        if fits_one(fork, asked, row):
            key = base[row] + shift[shapes[row]]
            if key > best_key:
                best, best_key = row, key
    return best


class WorkerRanking:
    """Keys of one class for all workers: level, strategy and name in one int64; -1 = can't take it.

    What peers and ports forbid is not in the keys: it differs by subject, and is passed with each choice.
    """

    __slots__ = ("best", "best_key", "keys", "level", "levels", "seen")

    def __init__(self, fork: Overlay, asked: RequirementClass) -> None:
        self.levels = rows_by_level(asked.levels, fork.snapshot.capacity) * LEVEL_STEP
        self.level: list[int] = self.levels.tolist()
        self.seen = 0
        self.best = self.best_key = -1
        self.keys = self.levels
        self._rebuild(fork, asked)

    def _rebuild(self, fork: Overlay, asked: RequirementClass) -> None:
        enough = fits(fork, asked)
        enough &= self.levels >= 0
        if asked.single_pod:
            enough &= to_bool(fork.open, fork.snapshot.capacity)
        self.keys = np.where(enough, self.levels + fork.base + asked.shift.take(fork.score.shape_of), -1)
        self.seen = len(fork.log)
        self._find_best()

    def _find_best(self) -> None:
        self.best = int(self.keys.argmax())
        self.best_key = int(self.keys[self.best])

    def choose(self, fork: Overlay, asked: RequirementClass, blocked: Bits) -> tuple[int, float]:
        """As the function `choose`, with every worker allowed."""
        log = fork.log
        if self.seen != len(log):
            changed = log[self.seen :]
            if len(changed) > _REBUILD:
                self._rebuild(fork, asked)
            else:
                self.seen = len(log)
                self._patch(fork, asked, changed)
        best, key = self.best, self.best_key
        if blocked and key >= 0 and blocked >> best & 1:
            best, key = self._best_outside(blocked, fork.snapshot.capacity)
        if key < 0:
            return NOWHERE
        return best, asked.scores[-1 - key // LEVEL_STEP]

    def _best_outside(self, blocked: Bits, capacity: int) -> tuple[int, int]:
        # The next best is often free: look at a few one after the other before masking the whole row.
        keys = self.keys
        skipped: list[tuple[int, int]] = []
        row, key = self.best, self.best_key
        while key >= 0 and blocked >> row & 1 and len(skipped) < _PEEKS:
            skipped.append((row, key))
            keys[row] = -1
            row = int(keys.argmax())
            key = int(keys[row])
        if key >= 0 and blocked >> row & 1:
            masked = np.where(to_bool(blocked, capacity), -1, keys)
            row = int(masked.argmax())
            key = int(masked[row])
        for known, value in skipped:
            keys[known] = value
        return row, key

    def _patch(self, fork: Overlay, asked: RequirementClass, changed: list[int]) -> None:
        level, keys = self.level, self.keys
        shapes, base, shift = fork.score.shapes, fork.base_list, asked.shift_list
        tests, mixed = asked.tests, asked.devices < 0
        lost = False
        for row in set(changed) if len(changed) > 1 else changed:
            key = level[row]
            if key < 0:
                continue
            for have, amount in tests:
                if have[row] < amount:
                    key = -1
                    break
            else:
                key += base[row] + shift[shapes[row]]
                if mixed and not fits_one(fork, asked, row):
                    key = -1
            keys[row] = key
            if key > self.best_key:
                self.best, self.best_key = row, key
            elif row == self.best and key < self.best_key:
                lost = True
        if lost:
            self._find_best()
