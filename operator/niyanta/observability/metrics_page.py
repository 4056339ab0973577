"""Generates docs/metrics.md (`niyanta metrics-docs`), the page of all metrics.

The metrics are read from the registry, in a fresh process for each command, because a process shows only the metrics of
the modules it imports.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from niyanta.observability.gauges import LeaderGauge, LiveGauge

PROCESSES = {"operator": "niyanta.manager", "api": "niyanta.server.main"}

_UNITS = {"_seconds": "seconds", "_ratio": "0 to 1", "_bytes": "bytes", "_score": "0 to 100", "_slots": "slots"}

_SECTIONS = (
    ("Queue", ("niyanta_queue_", "niyanta_tier_", "niyanta_customer_", "niyanta_workloads", "niyanta_held_")),
    ("Pools", ("niyanta_pool_", "niyanta_scaling_", "niyanta_figures_")),
    (
        "Placing",
        ("niyanta_placement", "niyanta_reject", "niyanta_anti_", "niyanta_transitions", "niyanta_open_breakers"),
    ),
    ("The leader's loop", ("niyanta_leader", "niyanta_cycle", "niyanta_commit_", "niyanta_loop_")),
    ("Custom metrics adapter", ("niyanta_adapter_",)),
    ("REST door", ("niyanta_api_",)),
    ("Postgres", ("niyanta_postgres_",)),
    ("Kubernetes", ("niyanta_kubernetes_", "niyanta_watch_", "niyanta_relists", "niyanta_status_", "niyanta_events_")),
)
_REST = "Other"

_HEAD = """\
# Metrics

Metrics of the operator and of the REST door (`niyanta api`) on `/metrics`, port `NIYANTA_METRICS_PORT` (9090).
`niyanta metrics-docs > docs/metrics.md` writes this page.

- *leader*: only the leading operator process shows the metric: take `max` over processes, or `max by (pool)`.
  Counters and histograms of the leader's work stay in the process that counted them: take `sum` of their rates.
- Labels `customer` and `pool` have at most `NIYANTA_METRICS_MAX_CUSTOMERS` and `NIYANTA_METRICS_MAX_POOLS` values;
  further ones are added up under `other`. All other labels have values from short lists, so that the number of series
  doesn't grow with the number of workloads or workers.
- The Prometheus client adds `process_*` and `python_*`.

Dashboards and alerts for these metrics come with the [chart](../charts/niyanta/values.yaml) (`dashboards`, `alerts`,
`metrics.monitor`); the [runbooks](runbooks/README.md) explain each alert.
"""


@dataclass(frozen=True, slots=True)
class MetricEntry:
    """One metric of one process."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    leader: bool

    @property
    def unit(self) -> str:
        """The unit, by the conventional suffix of the name."""
        base = self.name.removesuffix("_total")
        return next((unit for suffix, unit in _UNITS.items() if base.endswith(suffix)), "count")


def registered(module: str) -> list[MetricEntry]:
    """Niyanta's metrics that importing `module` registers in this process, by name."""
    importlib.import_module(module)
    found = []
    for collector in list(REGISTRY._collector_to_names):
        if isinstance(collector, LiveGauge):
            labels: Sequence[str] = collector.labels
        elif isinstance(collector, MetricWrapperBase):
            labels = collector._labelnames
        else:  # of the Prometheus client itself
            continue
        for metric in collector.describe():
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            found.append(
                MetricEntry(name, metric.type, tuple(labels), metric.documentation, isinstance(collector, LeaderGauge))
            )
    return sorted(found, key=lambda entry: entry.name)


def by_process() -> dict[str, list[MetricEntry]]:
    """Metrics by command, each read in a fresh process."""
    found = {}
    for process, module in PROCESSES.items():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found[process] = pool.submit(registered, module).result()
    return found


def page(found: Mapping[str, Iterable[MetricEntry]]) -> str:
    """The text of docs/metrics.md, from the metrics of each command."""
    shown: dict[MetricEntry, list[str]] = {}
    for process, entries in found.items():
        for entry in entries:
            shown.setdefault(entry, []).append("leader" if entry.leader else process)
    sections: dict[str, list[MetricEntry]] = {title: [] for title in (*(title for title, _ in _SECTIONS), _REST)}
    for entry in sorted(shown, key=lambda entry: entry.name):
        sections[_section(entry.name)].append(entry)
    parts = [_HEAD]
    for title, entries in sections.items():
        if entries:
            parts.append(f"\n## {title}\n\n" + "\n".join(_table(entries, shown)) + "\n")
    return "".join(parts)


def _section(name: str) -> str:
    return next((title for title, starts in _SECTIONS if name.startswith(starts)), _REST)


def _table(entries: Iterable[MetricEntry], shown: dict[MetricEntry, list[str]]) -> Iterable[str]:
    yield "| metric | type | labels | unit | process | meaning |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for entry in entries:
        labels = ", ".join(f"`{label}`" for label in entry.labels)
        processes = ", ".join(shown[entry])
        yield f"| `{entry.name}` | {entry.kind} | {labels} | {entry.unit} | {processes} | {entry.help} |"
