"""Requirements by spec, so that an edit of a LimitRange, a RuntimeClass or a Customer compiles equal specs once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from niyanta.engine.types import Requirements
from niyanta.resources.compile.pod_resources import NamespaceDefaults
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload, spec_digest

MOST_SPECS = 4096
"""Most specs whose requirements are remembered, the ones used last."""

_Key = tuple[bytes, str, str, bool]


class CompiledSpecs:
    """Remembers what the specs of workloads in memory compiled to."""

    def __init__(self) -> None:
        self._found: OrderedDict[_Key, tuple[NamespaceDefaults, Requirements | None]] = OrderedDict()

    def requirements(
        self,
        tracked: TrackedWorkload,
        defaults: NamespaceDefaults,
        *,
        wildcard: bool,
        compile_: Callable[[], Requirements | None],
    ) -> Requirements | None:
        """Requirements of the workload's spec with these defaults; None: it doesn't compile. `compile_` is called for a
        spec that isn't remembered, with its namespace, customer and `wildcard` (`compile_workload`)."""
        key = spec_digest(tracked.packed), tracked.row.namespace, tracked.row.customer, wildcard
        known = self._found.get(key)
        if known is not None and known[0] == defaults:
            self._found.move_to_end(key)
            return known[1]
        found = compile_()
        self._found[key] = defaults, found
        self._found.move_to_end(key)
        while len(self._found) > MOST_SPECS:
            self._found.popitem(last=False)
        return found
