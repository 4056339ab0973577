"""Upkeep of queue classes in Postgres: label keys that became visible, counts, and classes without workloads.

A slice of each in a round, so that no amount of it delays the leader's loop.
"""

from __future__ import annotations

import time

from niyanta.aio import Timer
from niyanta.scheduler.state import SchedulerState
from niyanta.store.leader.projections import FOLD_AT_ONCE
from niyanta.store.state import StateManager

IDLE_SECONDS = 5.0
"""Time between two rounds while there is nothing to do."""

KEYS_AT_ONCE = 500
REKEY_SECONDS = 0.1
"""Time after which no further slice of rows is given new classes in one round."""

MOST_FOLDS = 5
"""Further folds of the counts in one round, when more deltas come than the one of `write_figures` folds."""


class ClassUpkeep:
    """Keeps the classes of one leadership up."""

    def __init__(self, state: SchedulerState, *, store: StateManager) -> None:
        self._state = state
        self._store = store
        self._idle = Timer(IDLE_SECONDS)
        self._more = True
        """The last round left work."""

    async def run(self) -> None:
        """Run one round, if the last one left work or it is time."""
        if not self._idle.due() and not self._more:
            return
        epoch = self._state.epoch
        # Doors write the keys of what they take in; those of rows from before them are known here alone.
        keys = self._state.workloads.classes.take_unsaved(KEYS_AT_ONCE)
        if keys:
            await self._store.add_visible_keys(keys, epoch)
        end = time.monotonic() + REKEY_SECONDS
        is_open = await self._store.rekey_slice(epoch)
        while is_open and time.monotonic() < end:
            is_open = await self._store.rekey_slice(epoch)
        folded = FOLD_AT_ONCE
        for _ in range(MOST_FOLDS):
            if folded == FOLD_AT_ONCE:
                folded = await self._store.fold_counts(epoch)
        await self._store.prune_classes(epoch)
        self._more = is_open or folded == FOLD_AT_ONCE or len(keys) == KEYS_AT_ONCE
