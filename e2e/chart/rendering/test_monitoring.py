"""Monitors, alerts and dashboards of the chart: rendered on request, and consistent with the objects they watch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from e2e.chart.conftest import CHART, DSN, NAMESPACE, Renderer
from testing.cluster.api_client import JSON
from testing.cluster.cluster import CommandError

pytestmark = pytest.mark.e2e

GROUP = "monitoring.coreos.com/v1"
RUNBOOKS = "https://wiki.example.com/run/"
KINDS = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
ALL_ON = {
    **DSN,
    "alerts": {"enabled": True, "runbookBaseUrl": "none"},
    "dashboards": {"enabled": True},
    "metrics": {"monitor": {"enabled": True}},
}


def of_kind(objects: list[JSON], kind: str) -> dict[str, JSON]:
    return {item["metadata"]["name"]: item for item in objects if item["kind"] == kind}


def rules(renderer: Renderer, **values: Any) -> dict[str, JSON]:
    """The alerts by name, with `alerts` and further values as given."""
    alerts = {"enabled": True, "runbookBaseUrl": RUNBOOKS, **values.pop("alerts", {})}
    (found,) = of_kind(renderer.objects({**DSN, **values, "alerts": alerts}), "PrometheusRule").values()
    assert found["apiVersion"] == GROUP
    assert set(found["spec"]) == {"groups"}
    for group in found["spec"]["groups"]:
        assert set(group) == {"name", "rules"}
        assert group["rules"], group["name"]
        for rule in group["rules"]:
            assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
            links = set() if alerts["runbookBaseUrl"] == "none" else {"runbook_url"}
            assert set(rule["annotations"]) == {"summary", "description", *links}
            assert all(isinstance(value, str) for value in (*rule["labels"].values(), *rule["annotations"].values()))
    return {rule["alert"]: rule for group in found["spec"]["groups"] for rule in group["rules"]}


def test_monitoring_is_disabled_by_default(renderer: Renderer) -> None:
    """The definitions of the Prometheus operator may be missing in the cluster."""
    kinds = {item["kind"] for item in renderer.objects(DSN)}
    assert not kinds & {*KINDS, "ConfigMap"}


def test_the_chart_is_valid_with_all_monitoring(renderer: Renderer) -> None:
    renderer.lint(ALL_ON)
    dashboards = {**DSN, "dashboards": {"enabled": True, "annotations": {"grafana_folder": "Niyanta"}}}
    summary = renderer.conform(renderer.template(dashboards))
    assert summary["skipped"] == summary["invalid"] == 0


def test_a_service_monitor_finds_the_services_and_their_port(renderer: Renderer) -> None:
    objects = renderer.objects({**ALL_ON, "fullnameOverride": "placer"})
    services = of_kind(objects, "Service")
    wanted = {"placer-operator": "placer-metrics", "placer-api": "placer-api-metrics"}
    monitors = of_kind(objects, "ServiceMonitor")
    assert monitors.keys() == wanted.keys()
    for name, monitor in monitors.items():
        assert monitor["apiVersion"] == GROUP
        assert set(monitor["spec"]) == {"selector", "endpoints"}
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint == {"port": "metrics", "interval": "15s", "scrapeTimeout": "10s"}
        selector = monitor["spec"]["selector"]["matchLabels"].items()
        scraped = [
            service["metadata"]["name"]
            for service in services.values()
            if selector <= service["metadata"]["labels"].items()
            and "metrics" in {port.get("name") for port in service["spec"]["ports"]}
        ]
        assert scraped == [wanted[name]]


def test_a_pod_monitor_finds_the_pods_and_needs_no_service(renderer: Renderer) -> None:
    monitor = {"enabled": True, "kind": "PodMonitor", "labels": {"release": "stack"}}
    objects = renderer.objects({**DSN, "metrics": {"service": {"enabled": False}, "monitor": monitor}})
    deployments = of_kind(objects, "Deployment")
    monitors = of_kind(objects, "PodMonitor")
    assert monitors.keys() == {"niyanta-operator", "niyanta-api"}
    for name, found in monitors.items():
        assert found["metadata"]["labels"]["release"] == "stack"
        (endpoint,) = found["spec"]["podMetricsEndpoints"]
        selector = found["spec"]["selector"]["matchLabels"].items()
        template = deployments[name]["spec"]["template"]
        assert selector <= template["metadata"]["labels"].items()
        ports = {port["name"] for container in template["spec"]["containers"] for port in container["ports"]}
        assert endpoint["port"] in ports
        others = [item for other, item in deployments.items() if other != name]
        assert not any(selector <= item["spec"]["template"]["metadata"]["labels"].items() for item in others)


def test_a_service_monitor_without_services_is_refused(renderer: Renderer) -> None:
    with pytest.raises(CommandError, match="PodMonitor works without it"):
        renderer.template({**DSN, "metrics": {"service": {"enabled": False}, "monitor": {"enabled": True}}})


def test_alerts_use_the_namespace_and_limits_of_the_release(renderer: Renderer) -> None:
    found = rules(renderer)
    assert len(found) > 20
    assert all(f'namespace="{NAMESPACE}"' in rule["expr"] for rule in found.values())
    assert "> 1800" in found["NiyantaStarvationRisk"]["expr"]
    own = rules(renderer, settings={"maxQueueWait": 600, "maxReplicaLag": 30}, alerts={"queueDepth": 2_000_000})
    assert "> 600" in own["NiyantaStarvationRisk"]["expr"]
    assert "> 30" in own["NiyantaReplicaLag"]["expr"]
    assert own["NiyantaQueueGrowing"]["expr"].endswith("> 2000000")
    text = json.dumps(list(found.values()))
    assert not any(name in text for name in ("$maxQueueWait", "$maxReplicaLag", "$queueDepth", "$namespace"))
    assert "$labels" in text, "templates of Prometheus are kept"


def test_alerts_of_disabled_components_are_left_out(renderer: Renderer) -> None:
    everything = set(rules(renderer))
    without_door = everything - set(rules(renderer, api={"enabled": False}))
    of_door = {f"NiyantaApi{what}" for what in ("Down", "Errors", "Slow", "KeysExpiring")}
    assert without_door == {*of_door, "NiyantaQueueNearlyFull"}
    without_adapter = everything - set(rules(renderer, metricsAdapter={"enabled": False}))
    of_adapter = {f"NiyantaAdapter{what}" for what in ("Errors", "CertificateExpiring", "NotRegistered")}
    assert without_adapter == of_adapter
    assert everything - set(rules(renderer, alerts={"disabled": ["NiyantaLoopStalls"]})) == {"NiyantaLoopStalls"}


def test_alerts_have_the_labels_and_runbook_addresses_of_the_values(renderer: Renderer) -> None:
    plain = rules(renderer)["NiyantaNoLeader"]
    assert plain["labels"] == {"severity": "critical"}
    asked = {"alertLabels": {"team": "batch", "severity": "page"}}
    found = rules(renderer, alerts=asked)
    assert {rule["labels"]["severity"] for rule in found.values()} == {"page"}
    assert found["NiyantaNoLeader"]["labels"]["team"] == "batch"
    for name, rule in found.items():
        assert rule["annotations"]["runbook_url"] == f"https://wiki.example.com/run/{name}.md"
    labels = {**DSN, "alerts": {"enabled": True, "runbookBaseUrl": "none", "labels": {"release": "stack"}}}
    (made,) = of_kind(renderer.objects(labels), "PrometheusRule").values()
    assert made["metadata"]["labels"]["release"] == "stack"


def test_links_to_runbooks_are_absolute_or_absent(renderer: Renderer) -> None:
    with pytest.raises(CommandError, match=r"Set alerts\.runbookBaseUrl"):
        renderer.template({**DSN, "alerts": {"enabled": True}})
    assert rules(renderer, alerts={"runbookBaseUrl": "none"})


def test_targets_and_series_are_relabelled_as_asked(renderer: Renderer) -> None:
    asked = {
        "relabelings": [{"targetLabel": "cluster", "replacement": "eu"}],
        "metricRelabelings": [{"action": "labeldrop", "regex": "pod"}],
    }
    for kind, endpoints in (("ServiceMonitor", "endpoints"), ("PodMonitor", "podMetricsEndpoints")):
        values = {**DSN, "metrics": {"monitor": {"enabled": True, "kind": kind, **asked}}}
        monitors = of_kind(renderer.objects(values), kind)
        assert len(monitors) == 2
        for found in monitors.values():
            (endpoint,) = found["spec"][endpoints]
            assert asked.items() <= endpoint.items()


def test_dashboards_are_complete_in_configmaps_for_the_sidecar(renderer: Renderer) -> None:
    dashboards = {"enabled": True, "namespace": "monitoring", "labels": {"team_dashboard": "yes"}}
    found = of_kind(renderer.objects({**DSN, "dashboards": dashboards}), "ConfigMap")
    files = {path.name: path.read_text() for path in (CHART / "dashboards").glob("*.json")}
    assert len(found) == len(files) == 4
    shown: dict[str, str] = {}
    for made in found.values():
        assert made["metadata"]["namespace"] == "monitoring"
        assert made["metadata"]["labels"]["team_dashboard"] == "yes"
        shown |= made["data"]
    assert {name.removeprefix("niyanta-"): json.loads(text) for name, text in shown.items()} == {
        name: json.loads(text) for name, text in files.items()
    }


WRONG: list[tuple[JSON, str]] = [
    ({"metrics": {"monitor": {"enable": True}}}, "'enable' not allowed"),
    ({"metrics": {"monitor": {"kind": "Probe"}}}, "/metrics/monitor/kind"),
    ({"metrics": {"monitor": {"interval": "often"}}}, "/metrics/monitor/interval"),
    ({"alerts": {"runbookBaseUrl": "wiki"}}, "/alerts/runbookBaseUrl"),
    ({"alerts": {"queueDepth": -1}}, "minimum: got -1, want 0"),
    ({"alerts": {"disabled": "all"}}, "/alerts/disabled"),
    ({"dashboards": {"namespace": "Not A Name"}}, "/dashboards/namespace"),
]


@pytest.mark.parametrize(("values", "words"), WRONG, ids=lambda part: part if isinstance(part, str) else "")
def test_a_wrong_value_is_refused_by_name(renderer: Renderer, values: JSON, words: str) -> None:
    with pytest.raises(CommandError, match="don't meet the specifications") as refusal:
        renderer.template({**DSN, **values})
    assert words in str(refusal.value)
