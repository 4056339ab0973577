"""Versions and conditions of the live Workload objects, as the watch last showed them.

The writer of statuses needs an object's version, because the API server compares no UID when a status is applied, and a
new leader needs the times of its conditions. Every replica keeps them, from kopf's events.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from niyanta.cluster.status.conditions import UNKNOWN, Since, shown
from niyanta.containment import Boundary, contained
from niyanta.lifecycle import TERMINAL

MOST_OBJECTS = 200_000
"""Objects that are remembered, about 250 bytes each. The status of another one is written after a read of it."""

_VERSION = struct.Struct("<Q")
_OVER = frozenset(phase.value for phase in TERMINAL)


@dataclass(frozen=True, slots=True)
class ShownStatus:
    """`version`: the object's resourceVersion, 0 if it must be read first."""

    version: int = 0
    since: Since = UNKNOWN


class ShownStatuses:
    """One entry for each live object, by UID. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, uid: str) -> ShownStatus:
        """The newest known state of an object; an unknown one has version 0."""
        packed = self._entries.get(uid)
        if packed is None:
            return ShownStatus()
        return ShownStatus(_VERSION.unpack_from(packed)[0], Since.unpack(packed[_VERSION.size :]))

    def on_event(self, kind: str, obj: Mapping[str, Any]) -> None:
        """Follow a watch event. Finished objects, whose status isn't written again, are forgotten."""
        meta = obj.get("metadata") or {}
        uid = str(meta.get("uid", ""))
        with contained(Boundary.STATUS, f"{meta.get('namespace')}/{meta.get('name')}"):
            status = obj.get("status") or {}
            if kind == "DELETED" or status.get("phase") in _OVER:
                with self._lock:
                    self._entries.pop(uid, None)
                return
            self._keep(uid, _number(meta.get("resourceVersion")), shown(status.get("conditions") or ()))

    def wrote(self, uid: str, version: str, since: Since, *, finished: bool) -> None:
        """A status was written, which gave the object this version."""
        if finished:
            with self._lock:
                self._entries.pop(uid, None)
        else:
            self._keep(uid, _number(version), since)

    def _keep(self, uid: str, version: int, since: Since) -> None:
        with self._lock:
            known = self._entries.pop(uid, None)
            if known is not None and _VERSION.unpack_from(known)[0] > version:
                self._entries[uid] = known  # an event that came late
                return
            while len(self._entries) >= MOST_OBJECTS:
                del self._entries[next(iter(self._entries))]
            self._entries[uid] = _VERSION.pack(version) + since.pack()


def _number(version: Any) -> int:
    """A resourceVersion as a number; 0 if it isn't one."""
    return int(version) if isinstance(version, str) and version.isascii() and version.isdigit() else 0
