"""Selection of the best worker for a class: from scratch, or from a ranking that is patched where workers changed.

The first workload of a class compares all workers at once, level by level (`choose`). From the second one on the class
keeps an int64 key per worker (`WorkerRanking`), and each workload recomputes only the workers that changed since.
"""

from __future__ import annotations

import numpy as np

from niyanta.engine.placement.overlay import Overlay
from niyanta.engine.placement.requirement_class import RequirementClass
from niyanta.engine.placement.scoring import LEVEL_STEP, level_by_worker
from niyanta.engine.snapshot.bitset import Bits, BoolArray, iterate, minus, to_bool
from niyanta.engine.snapshot.snapshot import DEVICES_RESOURCE

_MAX_COMPARED_SINGLY = 12
"""Up to this number of candidates, a Python loop is faster than an array operation."""
_REBUILD_AFTER_CHANGES = 256
"""With more changes than this, a ranking is computed from scratch."""
_MAX_SKIPPED = 4
"""Blocked workers that are skipped one by one before all blocked workers are masked."""

NOWHERE = (-1, 0.0)


def has_room(overlay: Overlay, requirement_class: RequirementClass) -> BoolArray:
    """Workers with enough of each counted resource, without regard to `overlay.open_workers`; shape (capacity,)."""
    free = overlay.free
    enough: BoolArray | None = None
    for resource, amount in requirement_class.checks:
        part = free[resource] >= amount
        enough = part if enough is None else np.logical_and(enough, part, out=enough)
    if requirement_class.devices > 0:
        part = free[DEVICES_RESOURCE] >= requirement_class.devices
        enough = part if enough is None else np.logical_and(enough, part, out=enough)
    elif requirement_class.devices < 0:
        enough = np.ones(overlay.snapshot.capacity, np.bool_) if enough is None else enough
        for name, amount in requirement_class.devices_of.items():
            if amount:
                there = to_bool(overlay.index.gpu_resources[name], overlay.snapshot.capacity)
                enough &= ~there | (free[DEVICES_RESOURCE] >= amount)
    return np.ones(overlay.snapshot.capacity, np.bool_) if enough is None else enough


def worker_has_room(overlay: Overlay, requirement_class: RequirementClass, worker: int) -> bool:
    """True when one worker is open and has enough of each counted resource."""
    for have, amount in requirement_class.tests:
        if have[worker] < amount:
            return False
    if requirement_class.devices >= 0:
        return True
    devices = requirement_class.devices_of.get(overlay.gpu_resource.get(worker, ""), 0)
    return not devices or overlay.free_list[DEVICES_RESOURCE][worker] >= devices


def choose(overlay: Overlay, requirement_class: RequirementClass, blocked: Bits, allowed: Bits) -> tuple[int, float]:
    """(worker, soft score 0-100) of the best worker outside `blocked` and inside `allowed`, or `NOWHERE`."""
    usable = overlay.open_workers & allowed if requirement_class.single_pod else allowed
    if blocked:
        usable = minus(usable, blocked)
    enough: BoolArray | None = None
    shift, shape_of = requirement_class.shift, overlay.score.shape_of
    for part, score in zip(requirement_class.levels, requirement_class.scores, strict=True):
        part &= usable
        if not part:
            continue
        if part.bit_count() <= _MAX_COMPARED_SINGLY:
            worker = _best_of(overlay, requirement_class, part)
            if worker >= 0:
                return worker, score
            continue
        if enough is None:
            enough = has_room(overlay, requirement_class)
        mask = to_bool(part, overlay.snapshot.capacity)
        workers = np.logical_and(mask, enough).nonzero()[0]
        if len(workers):
            keys = overlay.base.take(workers)
            if not overlay.score.single:
                keys += shift.take(shape_of.take(workers))
            return int(workers[keys.argmax()]), score
    return NOWHERE


def _best_of(overlay: Overlay, requirement_class: RequirementClass, part: Bits) -> int:
    best, best_key = -1, -1
    shapes, base = overlay.score.shapes, overlay.base_list
    shift = requirement_class.shift_list
    for worker in iterate(part):
        if worker_has_room(overlay, requirement_class, worker):
            key = base[worker] + shift[shapes[worker]]
            if key > best_key:
                best, best_key = worker, key
    return best


class WorkerRanking:
    """Keys of one class for all workers: level, strategy and name in one int64; -1 = no room.

    Workers forbidden by peers and ports differ by subject and are passed to each choice as `blocked`.
    """

    __slots__ = ("best", "best_key", "keys", "level", "levels", "seen")

    def __init__(self, overlay: Overlay, requirement_class: RequirementClass) -> None:
        self.levels = level_by_worker(requirement_class.levels, overlay.snapshot.capacity) * LEVEL_STEP
        self.level: list[int] = self.levels.tolist()
        self.seen = 0
        self.best = self.best_key = -1
        self.keys = self.levels
        self._rebuild(overlay, requirement_class)

    def _rebuild(self, overlay: Overlay, requirement_class: RequirementClass) -> None:
        enough = has_room(overlay, requirement_class)
        enough &= self.levels >= 0
        if requirement_class.single_pod:
            enough &= to_bool(overlay.open_workers, overlay.snapshot.capacity)
        self.keys = np.where(
            enough, self.levels + overlay.base + requirement_class.shift.take(overlay.score.shape_of), -1
        )
        self.seen = len(overlay.change_log)
        self._find_best()

    def _find_best(self) -> None:
        self.best = int(self.keys.argmax())
        self.best_key = int(self.keys[self.best])

    def choose(self, overlay: Overlay, requirement_class: RequirementClass, blocked: Bits) -> tuple[int, float]:
        """Like the function `choose`, with every worker allowed."""
        change_log = overlay.change_log
        if self.seen != len(change_log):
            changed = change_log[self.seen :]
            if len(changed) > _REBUILD_AFTER_CHANGES:
                self._rebuild(overlay, requirement_class)
            else:
                self._patch(overlay, requirement_class, changed)
                self.seen = len(change_log)
        best, key = self.best, self.best_key
        if blocked and key >= 0 and blocked >> best & 1:
            best, key = self._best_outside(blocked, overlay.snapshot.capacity)
        if key < 0:
            return NOWHERE
        return best, requirement_class.scores[-1 - key // LEVEL_STEP]

    def _best_outside(self, blocked: Bits, capacity: int) -> tuple[int, int]:
        # The next best worker is often not blocked: try a few before masking all blocked workers.
        keys = self.keys
        skipped: list[tuple[int, int]] = []
        worker, key = self.best, self.best_key
        while key >= 0 and blocked >> worker & 1 and len(skipped) < _MAX_SKIPPED:
            skipped.append((worker, key))
            keys[worker] = -1
            worker = int(keys.argmax())
            key = int(keys[worker])
        if key >= 0 and blocked >> worker & 1:
            masked = np.where(to_bool(blocked, capacity), -1, keys)
            worker = int(masked.argmax())
            key = int(masked[worker])
        for known, value in skipped:
            keys[known] = value
        return worker, key

    def _patch(self, overlay: Overlay, requirement_class: RequirementClass, changed: list[int]) -> None:
        level, keys = self.level, self.keys
        shapes, base, shift = overlay.score.shapes, overlay.base_list, requirement_class.shift_list
        tests, mixed = requirement_class.tests, requirement_class.devices < 0
        lost = False
        for worker in set(changed) if len(changed) > 1 else changed:
            key = level[worker]
            if key < 0:
                continue
            for have, amount in tests:
                if have[worker] < amount:
                    key = -1
                    break
            else:
                key += base[worker] + shift[shapes[worker]]
                if mixed and not worker_has_room(overlay, requirement_class, worker):
                    key = -1
            keys[worker] = key
            if key > self.best_key:
                self.best, self.best_key = worker, key
            elif worker == self.best and key < self.best_key:
                lost = True
        if lost:
            self._find_best()
