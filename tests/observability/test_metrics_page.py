"""docs/metrics.md is current, and names of metrics follow Prometheus' conventions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from niyanta.observability.metrics_page import MetricEntry, by_process, page

pytestmark = pytest.mark.unit

REPO = Path(__file__).parent.parent.parent
UNITS = ("seconds", "bytes", "ratio", "slots")
NOT_BASE = r"milliseconds|microseconds|minutes|hours|days|kilobytes|megabytes|percent|per_second|_ms_|_us_"


@pytest.fixture(scope="module")
def shown() -> dict[str, list[MetricEntry]]:
    return by_process()


def test_the_page_is_current(shown: dict[str, list[MetricEntry]]) -> None:
    assert (REPO / "docs" / "metrics.md").read_text() == page(shown), "run: niyanta metrics-docs > docs/metrics.md"


def test_names_follow_the_conventions(shown: dict[str, list[MetricEntry]]) -> None:
    """The rules of promtool's lint: base units, `_total` on counters only, no suffix of histograms, no type in a
    name."""
    for entry in {entry for entries in shown.values() for entry in entries}:
        assert re.fullmatch(r"niyanta_[a-z0-9]+(_[a-z0-9]+)*", entry.name), entry
        assert not re.search(NOT_BASE, f"{entry.name}_"), entry
        assert entry.name.endswith("_total") == (entry.kind == "counter"), entry
        assert not re.search(r"_(count|sum|bucket|gauge|counter|histogram)$", entry.name), entry
        words = entry.name.removesuffix("_total").split("_")
        assert not set(words[:-1]) & {"seconds", "bytes", "ratio"}, f"{entry}: the unit comes last"


def test_every_metric_says_what_it_means_and_what_its_labels_are(shown: dict[str, list[MetricEntry]]) -> None:
    for entry in {entry for entries in shown.values() for entry in entries}:
        assert len(entry.help) > 10, entry
        assert not entry.help.endswith("."), entry
        for label in entry.labels:
            assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", label), entry
            assert label not in {"le", "quantile", "job", "instance", "namespace"}, f"{entry}: Prometheus has its own"


def test_a_metric_means_the_same_in_both_processes(shown: dict[str, list[MetricEntry]]) -> None:
    operator = {entry.name: entry for entry in shown["operator"]}
    for entry in shown["api"]:
        assert operator.get(entry.name, entry) == entry


def test_labels_without_a_bound_are_those_that_have_seats(shown: dict[str, list[MetricEntry]]) -> None:
    """Workloads, workers and namespaces are many: none of them is ever a label."""
    labels = {label for entries in shown.values() for entry in entries for label in entry.labels}
    assert not labels & {"workload", "worker", "node", "pod", "name", "id", "uid", "url", "path", "user"}
