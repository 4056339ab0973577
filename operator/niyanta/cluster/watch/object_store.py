"""The store of one reflector: the objects of a kind, changed by lists, watch events and assumed creates. No I/O.

`reflector` feeds it, `cache` gets the changes. Resource versions are compared as integers, to decide if an assumed
object is ahead of the watch: etcd has always made them so, and Kubernetes 1.35 documents them as comparable within one
kind.
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
    """A change of one object. `old` is None for ADDED; for DELETED, `new` is None and `old` the last known state."""

    kind: ObjectChangeKind
    old: T | None
    new: T | None

    @property
    def object(self) -> T:
        """The newest known state."""
        found = self.new if self.new is not None else self.old
        assert found is not None
        return found


class ObjectStore(Generic[T]):
    """Objects by (namespace, name). Methods append their changes to the given list."""

    def __init__(self) -> None:
        self.store: dict[Key, T] = {}
        self.version = ""
        """Resource version at which a watch resumes; empty if a list is needed first."""
        self.position = 0
        """The newest applied version, as an integer."""
        self._assumed: dict[Key, int] = {}
        """Assumed objects that no list or event has confirmed yet -> their version."""

    @property
    def assumed(self) -> int:
        """Number of assumed objects that no list or event has confirmed yet."""
        return len(self._assumed)

    def moved_to(self, version: str) -> None:
        """Everything up to `version` has been applied."""
        self.version, self.position = version, int(version)

    def assume(self, obj: T, changes: list[ObjectChange[T]]) -> bool:
        """Take in an object from the response to a create, ahead of the watch. False if the store is newer.

        If the watch is past the object's version, the store has it or it has been deleted since; assuming it would
        bring a deleted object back.
        """
        version = int(obj.metadata.resource_version)
        known = self.store.get(obj.key)
        if version <= self.position or (known is not None and int(known.metadata.resource_version) >= version):
            return False
        self._assumed[obj.key] = version
        self._put(obj, changes)
        return True

    def event(self, kind: str, obj: T, changes: list[ObjectChange[T]]) -> None:
        """Apply a watch event. The caller calls `moved_to` after a batch."""
        if self._assumed and self._behind(obj):
            return
        if kind == "DELETED":
            self._drop(obj.key, changes)
        else:
            self._put(obj, changes)

    def listed(self, obj: T, position: int, changes: list[ObjectChange[T]]) -> None:
        """Apply an object of a list at version `position`."""
        if self._assumed and self._assumed.get(obj.key, 0) > position:
            return
        self._assumed.pop(obj.key, None)
        self._put(obj, changes)

    def distrust(self) -> None:
        """The server's versions went back (etcd was restored from a backup), so that assumed versions are void."""
        self._assumed.clear()

    def unlisted(self, keys: Iterable[Key], position: int, changes: list[ObjectChange[T]]) -> None:
        """Delete objects that a list at `position` doesn't contain, except those assumed at a later version."""
        for key in keys:
            if self._assumed.get(key, 0) <= position:
                self._drop(key, changes)

    def drop_ghosts(self, changes: list[ObjectChange[T]]) -> None:
        """Delete assumed objects that the watch has passed without showing them: they don't exist."""
        self.unlisted(
            [key for key, version in self._assumed.items() if version <= self.position], self.position, changes
        )

    def _behind(self, obj: T) -> bool:
        """True if the event is older than the assumed object of that name. Otherwise the object counts as confirmed."""
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
        elif old.metadata.uid != obj.metadata.uid:  # deleted and created again while the watch was broken
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
