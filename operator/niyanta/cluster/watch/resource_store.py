"""The store of Customers or WorkerPools, updated by kopf's events and corrected by lists. Every replica has one of
each.

A resource that doesn't match the model (created under an older schema) is left out and logged.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from niyanta.containment import Boundary, contained, record
from niyanta.observability import log

logger = log.get(__name__)

M = TypeVar("M", bound=BaseModel)


class ResourceStore(Generic[M]):
    """Resources of one kind by name. `listener` is called after each change, in the thread of the change."""

    def __init__(
        self, model: type[M], listener: Callable[[], None], *, boundary: Boundary, namespace: str | None = None
    ) -> None:
        """`namespace`: objects of other namespaces are ignored (WorkerPools count only in the operator's own).
        `boundary`: where errors of one object are contained."""
        self._boundary = boundary
        self._model = model
        self._listener = listener
        self._namespace = namespace
        self._lock = threading.Lock()
        self._items: dict[str, M] = {}
        self._versions: dict[str, tuple[str, int]] = {}
        self._put_at: dict[str, float] = {}

    def items(self) -> dict[str, M]:
        """All resources by name; a copy."""
        with self._lock:
            return dict(self._items)

    def get(self, name: str) -> M | None:
        """One resource; None if it doesn't exist."""
        with self._lock:
            return self._items.get(name)

    def on_event(self, kind: str, obj: Mapping[str, Any]) -> None:
        """Apply a watch event of kopf."""
        if self._namespace is not None and obj["metadata"].get("namespace") != self._namespace:
            return
        changed = self._remove(obj["metadata"]["name"]) if kind == "DELETED" else self._put(obj)
        if changed:
            self._listener()

    def replace(self, objects: list[dict[str, Any]], *, asked_at: float) -> None:
        """Apply a list that was requested at `asked_at` (monotonic). Older resources that it doesn't contain are
        removed."""
        mine = [o for o in objects if self._namespace is None or o["metadata"].get("namespace") == self._namespace]
        names = {o["metadata"]["name"] for o in mine}
        changed = []
        for obj in mine:
            with contained(self._boundary, obj["metadata"]["name"]):
                changed.append(self._put(obj))
        with self._lock:
            gone = [n for n in self._versions if n not in names and self._put_at.get(n, 0.0) < asked_at]
        changed += [self._remove(name) for name in gone]
        if any(changed):
            self._listener()

    def _put(self, obj: Mapping[str, Any]) -> bool:
        meta = obj["metadata"]
        name, version = meta["name"], (meta["uid"], int(meta.get("generation", 1)))
        with self._lock:
            known = self._versions.get(name)
            if known is not None and known[0] == version[0] and known[1] >= version[1]:
                annotated = known[1] == version[1] and self._annotations(name) != (meta.get("annotations") or {})
                if not annotated:
                    return False
            self._versions[name] = version
            self._put_at[name] = time.monotonic()
        try:
            item = self._model.model_validate(obj)
        except ValidationError as error:
            logger.error("a resource is left out", kind=self._model.__name__, name=name, error=str(error)[:2_000])
            return self._forget(name)
        except Exception as error:
            record(self._boundary, name, error)
            return self._forget(name)
        with self._lock:
            self._items[name] = item
        return True

    def _annotations(self, name: str) -> Mapping[str, Any]:
        """Annotations of a resource, whose changes don't change its generation. Call it with the lock."""
        found = self._items.get(name)
        extra = getattr(getattr(found, "metadata", None), "model_extra", None) or {}
        return extra.get("annotations") or {}

    def _remove(self, name: str) -> bool:
        with self._lock:
            self._versions.pop(name, None)
        return self._forget(name)

    def _forget(self, name: str) -> bool:
        with self._lock:
            return self._items.pop(name, None) is not None
