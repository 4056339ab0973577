"""Changes of the cluster as values, and their distribution to every `Snapshot`.

The cluster cache publishes each change once. Each consumer has a cursor, reads at its own pace, and passes
what it read to `Snapshot.apply`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from niyanta.engine.types import Charge, ChargedNode, WorkerInfo

MAX_UNREAD_DELTAS = 200_000
"""Changes kept for a consumer that does not read. Beyond this the consumer gets the whole state at its next read, which
costs less than so many changes."""


@dataclass(frozen=True, slots=True)
class WorkerUpserted:
    """A worker was added or changed."""

    worker: WorkerInfo


@dataclass(frozen=True, slots=True)
class WorkerRemoved:
    """A worker was removed: its node was deleted, or no pool selects the node any more."""

    name: str


@dataclass(frozen=True, slots=True)
class ChargedNodeUpserted:
    """A node that is no worker has pods of Niyanta, or its labels changed. It replaces a worker of the same name, and
    `WorkerUpserted` replaces it again."""

    node: ChargedNode


@dataclass(frozen=True, slots=True)
class ChargedNodeRemoved:
    """A node that is no worker has no pods of Niyanta left, or was deleted. Unknown names are ignored."""

    name: str


@dataclass(frozen=True, slots=True)
class PodCharged:
    """A pod takes capacity from now on; it replaces the charge with the same key."""

    charge: Charge


@dataclass(frozen=True, slots=True)
class PodReleased:
    """The pod with this charge key no longer takes capacity."""

    key: str


@dataclass(frozen=True, slots=True)
class StateReplaced:
    """All workers and charges. Others that a snapshot has no longer exist."""

    workers: tuple[WorkerInfo, ...]
    charges: tuple[Charge, ...]
    charged_nodes: tuple[ChargedNode, ...] = ()
    """Nodes that are no workers but have pods of Niyanta."""


Delta = (
    WorkerUpserted | WorkerRemoved | ChargedNodeUpserted | ChargedNodeRemoved | PodCharged | PodReleased | StateReplaced
)


class DeltaCursor:
    """One consumer's position in the stream of changes; made by `DeltaPublisher.cursor`."""

    __slots__ = ("_publisher", "_unread")

    def __init__(self, publisher: DeltaPublisher) -> None:
        self._publisher = publisher
        self._unread: list[Delta] | None = None
        """None: the next read returns the whole state."""

    @property
    def has_unread(self) -> bool:
        """True when `take` would return something."""
        return self._unread is None or bool(self._unread)

    def take(self) -> Sequence[Delta]:
        """Changes since the last call, in order. The first call returns one `StateReplaced`, and so does a call after
        more than `MAX_UNREAD_DELTAS` changes."""
        unread, self._unread = self._unread, []
        if unread is None:
            return [self._publisher.open(self)]
        return unread

    def add(self, delta: Delta, limit: int) -> bool:
        """Keep a change for the next read; False if the consumer lags and has to start over from the whole state."""
        if self._unread is None or len(self._unread) >= limit:
            self._unread = None
            return False
        self._unread.append(delta)
        return True

    def restart(self) -> None:
        """Start over from the whole state at the next read, after a change could not be applied."""
        self._publisher.close(self)

    def forget(self) -> None:
        """Drop unread changes; the next read returns the whole state."""
        self._unread = None


class DeltaPublisher:
    """Gives each change to all open cursors. A cursor opens at its first read, so no changes are kept before it.

    Not thread-safe: publisher and cursors belong to one thread (the event loop's).
    """

    def __init__(self, full_state: Callable[[], StateReplaced], *, max_unread: int = MAX_UNREAD_DELTAS) -> None:
        self._full_state = full_state
        self._max_unread = max_unread
        self._open: list[DeltaCursor] = []

    @property
    def has_readers(self) -> bool:
        """True when a cursor is open."""
        return bool(self._open)

    def cursor(self) -> DeltaCursor:
        """A cursor for a new consumer."""
        return DeltaCursor(self)

    def open(self, cursor: DeltaCursor) -> StateReplaced:
        """Keep changes for a cursor from now on; returns the state before these changes."""
        self._open.append(cursor)
        return self._full_state()

    def close(self, cursor: DeltaCursor) -> None:
        """Keep no changes for a cursor until it is read again."""
        cursor.forget()
        if cursor in self._open:
            self._open.remove(cursor)

    def publish(self, delta: Delta) -> None:
        """Give a change to every open cursor."""
        lagging = [cursor for cursor in self._open if not cursor.add(delta, self._max_unread)]
        for cursor in lagging:
            self._open.remove(cursor)

    def close_all(self) -> None:
        """Stop keeping changes; a cursor that is read again starts over from the whole state."""
        for cursor in self._open:
            cursor.forget()
        self._open.clear()
