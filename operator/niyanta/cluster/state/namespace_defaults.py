"""Converts LimitRanges and RuntimeClasses to the defaults of a namespace. One that raises is left out."""

from __future__ import annotations

from collections.abc import Iterable

from niyanta.cluster.api.objects import LimitRange, RuntimeClassObject
from niyanta.containment import Boundary, contained
from niyanta.resources.compile.pod_resources import NamespaceDefaults, RuntimeClass


def defaults_from(limit_ranges: Iterable[LimitRange], runtimes: Iterable[RuntimeClassObject]) -> NamespaceDefaults:
    """Defaults by the LimitRanges of a namespace, in their order, and by all RuntimeClasses."""
    classes = {}
    for runtime in runtimes:
        with contained(Boundary.LISTENER, f"RuntimeClass {runtime.name}"):
            raw = {"metadata": {"name": runtime.name}, "overhead": runtime.overhead, "scheduling": runtime.scheduling}
            classes[runtime.name] = RuntimeClass.from_manifest(raw)
    ranges = []
    for limit_range in limit_ranges:
        with contained(Boundary.LISTENER, f"LimitRange {limit_range.namespace}/{limit_range.name}"):
            one = {"metadata": {"name": limit_range.name}, "spec": limit_range.spec}
            NamespaceDefaults.from_limit_ranges([one], {})
            ranges.append(one)
    return NamespaceDefaults.from_limit_ranges(ranges, classes)
