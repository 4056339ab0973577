"""Documents of the adapter: quantities and both kinds of discovery; label selectors."""

from __future__ import annotations

import pytest

from niyanta.custom_metrics import documents
from niyanta.custom_metrics.documents import NAMESPACE_METRICS, POOL_METRICS
from niyanta.custom_metrics.label_selector import parse
from niyanta.resources.quantity import base_units
from niyanta.store.leader.demand_stats import DemandStats, NamespaceStats, PoolStats

pytestmark = pytest.mark.unit

POOL = PoolStats(
    pool="gpu",
    running_slots=3,
    queued_slots=4,
    queued_workloads=2,
    workers_needed=5,
    utilization_percent_sum=140,
    oldest_age_seconds=12.3456,
)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.0, "0"), (7, "7"), (12.5, "12500m"), (0.0001, "1m"), (3.0, "3"), (1.1, "1100m")]
)
def test_quantities_are_whole_or_in_thousandths(value: float, text: str) -> None:
    assert documents.quantity(value) == text
    assert base_units("figure", text, field="value") >= value


def test_every_metric_of_a_pool_has_its_figure() -> None:
    found = {name: documents.pool_value("ns", name, POOL).value for name in POOL_METRICS}
    assert found == {
        "demand": 7,
        "workers_needed": 5,
        "utilization_percent_sum": 140,
        "queue_depth": 2,
        "queue_oldest_age_seconds": 12.3456,
    }


def test_a_value_says_what_it_describes_and_when_it_was_counted() -> None:
    figures = DemandStats(at=1_700_000_000_500_000, epoch=1, pools=(POOL,))
    found = documents.value_list([documents.pool_value("niyanta-system", "demand", POOL)], figures)
    assert found["kind"] == "MetricValueList"
    assert found["apiVersion"] == "custom.metrics.k8s.io/v1beta2"
    assert found["items"] == [
        {
            "describedObject": {
                "kind": "WorkerPool",
                "namespace": "niyanta-system",
                "name": "gpu",
                "apiVersion": "niyanta.io/v1alpha1",
            },
            "metric": {"name": "demand"},
            "timestamp": "2023-11-14T22:13:20Z",
            "value": "7",
        }
    ]


def test_a_namespace_lives_in_none() -> None:
    figures = DemandStats(at=0, epoch=1)
    (item,) = documents.value_list([documents.namespace_value("demand", NamespaceStats("a"))], figures)["items"]
    assert item["describedObject"] == {"kind": "Namespace", "name": "a", "apiVersion": "v1"}


def test_both_kinds_of_discovery_list_the_same() -> None:
    plain = {(*item["name"].split("/"), item["namespaced"]) for item in documents.resources()["resources"]}
    (group,) = documents.aggregated()["items"]
    (version,) = group["versions"]
    found = {
        (resource["resource"], sub["subresource"], resource["scope"] == "Namespaced")
        for resource in version["resources"]
        for sub in resource["subresources"]
    }
    assert found == plain
    assert len(plain) == len(POOL_METRICS) + len(NAMESPACE_METRICS)


LABELS = {"gpu": "a100", "region": "eu", "example.com/spot": ""}


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ("", True),
        ("gpu=a100", True),
        ("gpu==a100,region=eu", True),
        ("gpu!=a100", False),
        ("cost!=high", True),
        ("gpu=h100", False),
        ("example.com/spot=", True),
        ("example.com/spot", True),
        ("!example.com/spot", False),
        ("!cost", True),
        ("region in (eu, us)", True),
        ("region in (us)", False),
        ("region notin (us),gpu", True),
        ("region notin (eu)", False),
        ("cost notin (high)", True),
        ("cost in (high)", False),
    ],
)
def test_label_selectors_select_as_kubernetes_does(selector: str, selected: bool) -> None:
    assert parse(selector)(LABELS) is selected


@pytest.mark.parametrize("selector", ["=a", "a=b c", "a in b", "a in (b", "a,", "a=b,,c", "a>1", "a=b;c"])
def test_what_is_no_label_selector_is_refused(selector: str) -> None:
    with pytest.raises(ValueError, match="label selector"):
        parse(selector)
