"""Limits the resources of pods' charges to those that some worker has offered.

Anyone who may create pods can request resources of any name, and each name that reaches the engine costs a row of its
arrays for good. A resource that no worker offers takes no capacity.
"""

from __future__ import annotations

from collections.abc import Iterable

from niyanta.cluster.api.objects import Key
from niyanta.engine.types import CPU, MEMORY, PODS, Quantities

EPHEMERAL_STORAGE = "ephemeral-storage"


class OfferedResources:
    """Names of all resources that workers have offered, and the pods that request others."""

    def __init__(self) -> None:
        self._names = {CPU, MEMORY, PODS, EPHEMERAL_STORAGE}
        self._left_out: dict[Key, frozenset[str]] = {}

    def limit(self, pod: Key, requests: Quantities) -> Quantities:
        """The requests of a pod without resources that no worker offers; the pod is remembered if there are any."""
        left_out = frozenset(name for name, _ in requests) - self._names
        if not left_out:
            self._left_out.pop(pod, None)
            return requests
        self._left_out[pod] = left_out
        return tuple((name, amount) for name, amount in requests if name not in left_out)

    def forget(self, pod: Key) -> None:
        """The pod takes no capacity any more."""
        self._left_out.pop(pod, None)

    def offer(self, names: Iterable[str]) -> list[Key]:
        """A worker offers these resources. Returns the pods whose charges change by it."""
        new = set(names) - self._names
        if not new:
            return []
        self._names |= new
        return [pod for pod, left_out in self._left_out.items() if not new.isdisjoint(left_out)]
