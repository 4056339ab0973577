"""Kinds of metrics that prometheus_client lacks, and the text of /metrics.

Counters and histograms are prometheus_client's own, defined in the modules that count. A gauge that is valid only for a
time (while this process leads, or while Postgres answers) is a `LiveGauge`, whose samples vanish afterwards.
`LabelLimit` bounds the number of label values that come from names of objects.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from niyanta import __version__

CONTENT_TYPE = CONTENT_TYPE_LATEST

OTHER = "other"
"""Label value of all objects without a label value of their own."""

Values = Mapping[tuple[str, ...], float]
"""Label values, in the order of the labels -> measured value."""

# The `_created` series of counters and histograms only repeat the time at which the process started.
disable_created_metrics()  # type: ignore[no-untyped-call]


class LiveGauge(Collector):
    """A gauge whose samples are replaced all at once, and removed by `clear`."""

    family: ClassVar[type[GaugeMetricFamily] | type[CounterMetricFamily]] = GaugeMetricFamily

    def __init__(self, name: str, documentation: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.documentation = documentation
        self.labels = tuple(labels)
        self._values: Values = {}
        self._source: Callable[[], Values] | None = None
        REGISTRY.register(self)

    def show(self, values: Values) -> None:
        """Replace all samples."""
        self._source, self._values = None, values

    def set(self, value: float) -> None:
        """Set a gauge without labels."""
        self.show({(): value})

    def ask(self, source: Callable[[], Values]) -> None:
        """Read the samples from `source` at each scrape. It is called in another thread."""
        self._source = source

    def clear(self) -> None:
        """Remove all samples."""
        self.show({})

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        source = self._source
        values = self._values if source is None else source()
        family = self.family(self.name, self.documentation, labels=self.labels)
        for labels, value in values.items():
            family.add_metric(labels, value)
        yield family

    def describe(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        """The metric without samples; a registry calls it when the gauge registers."""
        yield self.family(self.name, self.documentation, labels=self.labels)


class LeaderGauge(LiveGauge):
    """A gauge that only the leading operator process shows."""


class LiveCounter(LiveGauge):
    """A counter whose value is counted elsewhere."""

    family = CounterMetricFamily


class LabelLimit:
    """Keeps at most `most` names as label values and maps the rest to `other`, to bound the number of series."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: set[str] = set()

    def label(self, name: str) -> str:
        """The label value of a name: the name itself while fewer than `most` are in use, else `other`. For counters,
        because a label value is kept for ever."""
        if name in self._taken:
            return name
        if len(self._taken) >= self._most:
            return OTHER
        self._taken.add(name)
        return name

    def assign(self, weights: Mapping[str, float]) -> dict[str, str]:
        """The label value of each name, for gauges. Names with a label value keep it, so that series are stable. New
        names, heaviest first, get the free values, then those of names that are gone or whose weight is 0."""
        new = sorted((name for name in weights if name not in self._taken), key=lambda name: (-weights[name], name))
        free = max(0, self._most - len(self._taken))
        wanted = sum(1 for name in new[free:] if weights[name] > 0)
        idle = sorted((name for name in self._taken if not weights.get(name)), key=lambda name: (name in weights, name))
        dropped = idle[:wanted]
        self._taken.difference_update(dropped)
        kept = [name for name in weights if name in self._taken]
        return {name: self.label(name) for name in (*kept, *new, *(name for name in dropped if name in weights))}


LiveGauge("niyanta_build_info", "Always 1; the labels have the versions", ["version", "python_version"]).show(
    {(__version__, platform.python_version()): 1.0}
)


def render() -> bytes:
    """The text of /metrics. It is slow: call it in a thread."""
    return generate_latest()
