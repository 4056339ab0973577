"""The store of one reflector: what is known of a kind's objects, and how lists, events and assumptions change it.

Pure bookkeeping without I/O. `reflector` feeds it, `cache` gets the changes. Resource versions are compared as
integers: etcd always made them so, and Kubernetes 1.35 documents them as comparable within one kind. That decides
whether an object we created ourselves is ahead of the watch.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Generic

import msgspec

from niyanta.cluster.api.objects import Key, T


class ObjectChangeKind(enum.Enum):
    """Kinds of changes of an object."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


class ObjectChange(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """`old` is None for ADDED. For DELETED `new` is None and `old` the last state known before."""

    kind: ObjectChangeKind
    old: T | None
    new: T | None

    @property
    def object(self) -> T:
        """The newest state known."""
        found = self.new if self.new is not None else self.old
        assert found is not None
        return found


class ObjectStore(Generic[T]):
    """Objects by (namespace, name). Methods append what they changed to the list they are given."""

    def __init__(self) -> None:
        self.store: dict[Key, T] = {}
        self.version = ""
        """Where a watch resumes; empty: a list comes first."""
        self.position = 0
        """The newest version taken in, as an integer: everything up to it has been seen."""
        self._assumed: dict[Key, int] = {}
        """Objects put in by `assume` that the server has not shown yet -> their version."""

    @property
    def assumed(self) -> int:
        """Number of assumed objects that the server has not shown yet."""
        return len(self._assumed)

    def moved_to(self, version: str) -> None:
        """Everything up to `version` has been taken in."""
        self.version, self.position = version, int(version)

    def assume(self, obj: T, changes: list[ObjectChange[T]]) -> bool:
        """Take in an object from the answer to our own create, ahead of the watch. False if the store is ahead of it.

        When the watch is past its version already, the store has it or it was deleted since: assuming it would bring a
        deleted object back.
        """
        version = int(obj.metadata.resource_version)
        known = self.store.get(obj.key)
        if version <= self.position or (known is not None and int(known.metadata.resource_version) >= version):
            return False
        self._assumed[obj.key] = version
        self._put(obj, changes)
        return True

    def event(self, kind: str, obj: T, changes: list[ObjectChange[T]]) -> None:
        """Take in a watch event. The caller says `moved_to` after a batch."""
        if self._assumed and self._behind(obj):
            return
        if kind == "DELETED":
            self._drop(obj.key, changes)
        else:
            self._put(obj, changes)

    def listed(self, obj: T, position: int, changes: list[ObjectChange[T]]) -> None:
        """Take in an object of a list at version `position`."""
        if self._assumed and self._assumed.get(obj.key, 0) > position:
            return
        self._assumed.pop(obj.key, None)
        self._put(obj, changes)

    def distrust(self) -> None:
        """The server's versions went back (etcd restored from a backup): nothing assumed before means anything."""
        self._assumed.clear()

    def unlisted(self, keys: Iterable[Key], position: int, changes: list[ObjectChange[T]]) -> None:
        """Delete what a list at `position` doesn't have; what was assumed after that is not its business."""
        for key in keys:
            if self._assumed.get(key, 0) <= position:
                self._drop(key, changes)

    def drop_ghosts(self, changes: list[ObjectChange[T]]) -> None:
        """Delete what was assumed at versions the watch is past and never showed: it doesn't exist."""
        self.unlisted(
            [key for key, version in self._assumed.items() if version <= self.position], self.position, changes
        )

    def _behind(self, obj: T) -> bool:
        """Is this event about a state before the one we assumed under that name? Else the server has caught up."""
        assumed = self._assumed.get(obj.key)
        if assumed is None:
            return False
        if int(obj.metadata.resource_version) < assumed:
            return True
        del self._assumed[obj.key]
        return False

    def _put(self, obj: T, changes: list[ObjectChange[T]]) -> None:
        key = obj.key
        old = self.store.get(key)
        if old is None:
            changes.append(ObjectChange(ObjectChangeKind.ADDED, None, obj))
        elif old.metadata.uid != obj.metadata.uid:  # deleted and made anew while we weren't looking
            changes.append(ObjectChange(ObjectChangeKind.DELETED, old, None))
            changes.append(ObjectChange(ObjectChangeKind.ADDED, None, obj))
        elif old.metadata.resource_version != obj.metadata.resource_version:
            changes.append(ObjectChange(ObjectChangeKind.MODIFIED, old, obj))
        else:
            return
        self.store[key] = obj

    def _drop(self, key: Key, changes: list[ObjectChange[T]]) -> None:
        self._assumed.pop(key, None)
        old = self.store.pop(key, None)
        if old is not None:
            changes.append(ObjectChange(ObjectChangeKind.DELETED, old, None))
