"""A queue that is fair between namespaces: each in turn gives one item, so one tenant's backlog delays another's item
by no more than one slice. `work_queue` keeps changed and deleted objects in it, `reviews` workloads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items by namespace and key; a later item of the same key takes the earlier one's place. Not thread-safe."""

    def __init__(self) -> None:
        self._namespaces: OrderedDict[str, dict[str, T]] = OrderedDict()
        """The namespace whose turn is next comes first."""
        self._of_key: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._of_key)

    def put(self, namespace: str, key: str, item: T) -> None:
        """Add or replace an item."""
        if self._of_key.get(key, namespace) != namespace:
            self.remove(key)
        self._of_key[key] = namespace
        self._namespaces.setdefault(namespace, {})[key] = item

    def remove(self, key: str) -> None:
        """Remove an item, if there is one."""
        namespace = self._of_key.pop(key, None)
        if namespace is not None:
            items = self._namespaces[namespace]
            del items[key]
            if not items:
                del self._namespaces[namespace]

    def get(self, key: str, *, default: T) -> T:
        """The item of a key; `default` if there is none."""
        namespace = self._of_key.get(key)
        return default if namespace is None else self._namespaces[namespace][key]

    def take(self, most: int, *, most_bytes: int = 0, size: Callable[[T], int] = lambda _: 0) -> dict[str, T]:
        """Take up to `most` items, oldest of each namespace first, until their sizes exceed `most_bytes` (0: no bound).
        At least one item is taken if there is any."""
        taken: dict[str, T] = {}
        total = 0
        while self._namespaces and len(taken) < most and (not most_bytes or not taken or total < most_bytes):
            namespace, items = next(iter(self._namespaces.items()))
            key = next(iter(items))
            taken[key] = items.pop(key)
            total += size(taken[key])
            del self._of_key[key]
            if items:
                self._namespaces.move_to_end(namespace)
            else:
                del self._namespaces[namespace]
        return taken
