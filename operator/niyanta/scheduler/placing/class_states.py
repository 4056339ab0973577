"""States of refused queue classes: the reasons of waiting workloads that have none of their own, because they aren't in
the leader's memory.

`pending_reasons` decides when the reasons of a class are others and have settled, and puts them here; they are written
with the reasons of workloads. Classes are those of Postgres (`WorkloadRow.queue_class`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from niyanta.containment import Boundary, record
from niyanta.scheduler.faults.isolation import in_isolation
from niyanta.scheduler.state import SchedulerState
from niyanta.store.rows import ClassState
from niyanta.store.state import StateManager

ClassKey = tuple[str, str]
"""Customer and queue class."""

Kinds = frozenset[tuple[str, str]]
"""Reasons with their details, without counts; for a workload also the lane, and the pool that would fit."""

STATES_PER_WRITE = 500
"""Most states written, and deleted, at once."""

DELETE_AFTER_SECONDS = 10.0
"""Time after which the state of a class is deleted that has no workloads in memory any more, or isn't refused."""

_NUMBER = re.compile(r"(?<![\w.-])\d+(?![\w.-])")
"""A count in a message, not a number in a name."""


def says_the_same(reason: str, message: str, other: tuple[str, str]) -> bool:
    """True if both reasons and messages agree, apart from counts and their order."""
    return reason == other[0] and _parts(message) == _parts(other[1])


def _parts(message: str) -> list[str]:
    return sorted(re.split(r"[,;:] ", _NUMBER.sub("", message)))


@dataclass(slots=True)
class ClassNote:
    """The reasons that were last put for a class."""

    kinds: Kinds
    at: float
    """Monotonic time of the last change."""
    notes: int = 0
    """Number of changes."""


class ClassStates:
    """The states of one leadership. Reasons that a former leader wrote, and that still hold, aren't written again."""

    def __init__(self, state: SchedulerState, *, store: StateManager) -> None:
        self._state = state
        self._store = store
        self._notes: dict[ClassKey, ClassNote] = {}
        self._unwritten: dict[ClassKey, ClassState] = {}
        self._unread: dict[ClassKey, None] = {}
        """Classes whose stored state wasn't compared yet."""
        self._leaving: dict[ClassKey, float] = {}
        """Classes that wait no longer -> monotonic time since then."""
        self._gone: dict[ClassKey, None] = {}

    @property
    def has_unwritten(self) -> bool:
        """True if `write` has something to do."""
        return bool(self._unwritten or self._gone)

    def last_note(self, key: ClassKey) -> ClassNote | None:
        """The reasons that were last put for the class, which is refused still."""
        self._leaving.pop(key, None)
        return self._notes.get(key)

    def put(self, found: ClassState, kinds: Kinds, now: float) -> None:
        """Replace the reasons of a class by the next `write`. `now` is monotonic."""
        key = found.customer, found.queue_class
        note = self._notes.get(key)
        if note is None:
            note = self._notes[key] = ClassNote(kinds, now)
            self._unread[key] = None
        note.kinds, note.at, note.notes = kinds, now, note.notes + 1
        self._unwritten[key] = found
        self._gone.pop(key, None)

    def leave(self, keys: Sequence[ClassKey], now: float) -> None:
        """Delete the states of these classes, unless they are refused again soon."""
        for key in keys:
            if key in self._notes:
                self._leaving.setdefault(key, now)

    def expire(self, now: float, refused: Callable[[], set[ClassKey]]) -> None:
        """Let the next `write` delete the states of classes that left long enough ago. `refused`: all classes that are
        refused now, as two classes in memory may be one in Postgres."""
        expired = [key for key, since in self._leaving.items() if now - since >= DELETE_AFTER_SECONDS]
        kept = refused() if expired else set()
        for key in expired:
            del self._leaving[key]
            if key in kept:
                continue
            self._notes.pop(key, None)
            self._unwritten.pop(key, None)
            self._unread.pop(key, None)
            self._gone[key] = None

    async def write(self) -> None:
        """Write and delete states, a bounded number of each. They are kept until the store has answered."""
        epoch = self._state.epoch
        batch = list(self._unwritten.items())[:STATES_PER_WRITE]
        unread = [key for key, _ in batch if key in self._unread]
        stored = await self._store.get_class_states(unread) if unread else {}
        changed = [
            found
            for key, found in batch
            if key not in stored or not says_the_same(found.reason, found.message, _texts(stored[key]))
        ]
        done = await in_isolation(
            changed, lambda part: self._store.write_class_states(part, epoch), group=lambda found: found.customer
        )
        for found, error in done.culprits:
            record(Boundary.ROW, f"class {found.queue_class} of {found.customer}", error)
        for key, found in batch:
            self._unread.pop(key, None)
            if self._unwritten.get(key) is found:
                del self._unwritten[key]
        gone = list(self._gone)[:STATES_PER_WRITE]
        if gone:
            await self._store.delete_class_states(gone, epoch)
        for key in gone:
            del self._gone[key]


def _texts(found: ClassState) -> tuple[str, str]:
    return found.reason, found.message
