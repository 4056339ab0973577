"""What every process shows on /metrics, and the kinds of metrics that prometheus_client lacks.

Counters and histograms are prometheus_client's own, defined where they are counted. A gauge that is true only while
something holds (this process leads, Postgres answers) is a `LiveGauge`: nobody may read a figure that nobody stands
behind any more. Names of objects become label values through `Seats`, which bounds them.
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
"""Label value of all the objects that have no seat of their own."""

Values = Mapping[tuple[str, ...], float]
"""Label values, in the order of the labels, to what is measured."""

# A second series per counter and histogram, which only says when the process began.
disable_created_metrics()  # type: ignore[no-untyped-call]


class LiveGauge(Collector):
    """A gauge whose samples are replaced all at once, and are gone after `clear`."""

    family: ClassVar[type[GaugeMetricFamily] | type[CounterMetricFamily]] = GaugeMetricFamily

    def __init__(self, name: str, documentation: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.documentation = documentation
        self.labels = tuple(labels)
        self._values: Values = {}
        self._source: Callable[[], Values] | None = None
        REGISTRY.register(self)

    def show(self, values: Values) -> None:
        """From now on these samples, and no others."""
        self._source, self._values = None, values

    def set(self, value: float) -> None:
        """For a gauge without labels."""
        self.show({(): value})

    def ask(self, source: Callable[[], Values]) -> None:
        """From now on what `source` says at each scrape. It is called in another thread."""
        self._source = source

    def clear(self) -> None:
        """No samples."""
        self.show({})

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        source = self._source
        values = self._values if source is None else source()
        family = self.family(self.name, self.documentation, labels=self.labels)
        for labels, value in values.items():
            family.add_metric(labels, value)
        yield family

    def describe(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        """Its name, without a sample: a registry asks before anything can be shown."""
        yield self.family(self.name, self.documentation, labels=self.labels)


class LeaderGauge(LiveGauge):
    """Shown by the leading operator process alone."""


class LiveCounter(LiveGauge):
    """A counter that somebody else counts."""

    family = CounterMetricFamily


class LabelLimit:
    """At most `most` names as label values, the rest as `other`: series cost memory here and in Prometheus."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: set[str] = set()

    def label(self, name: str) -> str:
        """The name, if it has a seat or finds a free one. For counters: seats taken so are kept for ever."""
        if name in self._taken:
            return name
        if len(self._taken) >= self._most:
            return OTHER
        self._taken.add(name)
        return name

    def assign(self, weights: Mapping[str, float]) -> dict[str, str]:
        """A label for each name. Who has a seat keeps it, so that series don't come and go; the heaviest of the others
        take what is free, then the seats of those whose weight is 0 or that are gone. For gauges."""
        newcomers = sorted(
            (name for name in weights if name not in self._taken), key=lambda name: (-weights[name], name)
        )
        room = max(0, self._most - len(self._taken))
        wanted = sum(1 for name in newcomers[room:] if weights[name] > 0)
        idle = sorted((name for name in self._taken if not weights.get(name)), key=lambda name: (name in weights, name))
        left = idle[:wanted]
        self._taken.difference_update(left)
        holders = [name for name in weights if name in self._taken]
        return {name: self.label(name) for name in (*holders, *newcomers, *(name for name in left if name in weights))}


LiveGauge("niyanta_build_info", "Always 1; the labels say what runs", ["version", "python_version"]).show(
    {(__version__, platform.python_version()): 1.0}
)


def render() -> bytes:
    """The text of /metrics. Not cheap: for a thread."""
    return generate_latest()
