"""The REST door in the chart: no credentials, restricted pods, and permissions of the operator that depend on it."""

from __future__ import annotations

import pytest

from e2e.chart.conftest import DSN, Renderer
from e2e.chart.rendering.test_values import VALUE_SETS, containers, environment, one
from niyanta.settings import Settings
from testing.cluster.api_client import JSON
from testing.cluster.cluster import CommandError

pytestmark = pytest.mark.e2e


def rules(objects: list[JSON], resource: str) -> set[str]:
    """Verbs that the operator's ClusterRole has on a resource."""
    (role,) = [
        item
        for item in objects
        if item["kind"] == "ClusterRole" and item["metadata"]["name"] in ("niyanta-operator", "placer-operator")
    ]
    return {verb for rule in role["rules"] if resource in rule["resources"] for verb in rule["verbs"]}


def test_the_door_has_no_kubernetes_credentials(renderer: Renderer) -> None:
    objects = renderer.objects(DSN)
    pod = one(objects, "Deployment", "api")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert one(objects, "ServiceAccount", "api")["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == "niyanta-api"
    bound = [
        subject["name"]
        for item in objects
        if item["kind"] in ("RoleBinding", "ClusterRoleBinding")
        for subject in item["subjects"]
    ]
    assert set(bound) == {"niyanta-operator"}


def test_the_pod_of_the_door_meets_the_restricted_standard(renderer: Renderer) -> None:
    deployment = one(renderer.objects(DSN), "Deployment", "api")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert [container["command"] for container in containers(deployment)] == [
        ["niyanta", "migrate"],
        ["niyanta", "api"],
    ]
    for container in containers(deployment):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert environment(container)["NIYANTA_DSN"] == {"secretKeyRef": {"name": "niyanta-postgres", "key": "dsn"}}


def test_replicas_are_read_by_the_door_alone_and_come_from_a_secret(renderer: Renderer) -> None:
    for name, secret, key in (
        ("replicas", "niyanta-postgres-replicas", "replica-dsns"),
        ("replicas' secret", "pg-replicas", "uris"),
    ):
        objects = renderer.objects(VALUE_SETS[name])
        (door,) = one(objects, "Deployment", "api")["spec"]["template"]["spec"]["containers"]
        assert environment(door)["NIYANTA_REPLICA_DSNS"] == {"secretKeyRef": {"name": secret, "key": key}}
        for container in containers(one(objects, "Deployment")):
            assert "NIYANTA_REPLICA_DSNS" not in environment(container)
    made = {
        item["metadata"]["name"]: item for item in renderer.objects(VALUE_SETS["replicas"]) if item["kind"] == "Secret"
    }
    text = made["niyanta-postgres-replicas"]["stringData"]["replica-dsns"]
    assert Settings(replica_dsns=text).replicas == ("postgresql://a/n", "host=b dbname=n")


def test_the_operator_may_dispatch_and_drain_only_with_the_door(renderer: Renderer) -> None:
    with_door, without = renderer.objects(DSN), renderer.objects(VALUE_SETS["no REST door"])
    assert "create" in rules(with_door, "workloads")
    assert "patch" in rules(with_door, "nodes")
    assert rules(without, "workloads") == {"get", "list", "watch", "delete"}
    assert rules(without, "nodes") == {"list", "watch", "patch"}  # for scaling
    no_drain = renderer.objects(VALUE_SETS["no drain"])
    assert "create" in rules(no_drain, "workloads")
    assert rules(no_drain, "nodes") == {"list", "watch"}


def test_permissions_for_scaling_depend_on_its_values(renderer: Renderer) -> None:
    for name, scaling, on_nodes, on_pools in (
        ("defaults", "true", {"patch"}, {"patch"}),
        ("no scaling", "false", {"patch"}, set()),  # draining by REST cordons too
        ("no drain", "false", set(), set()),
        ("simulated workers", "true", {"patch", "create", "delete"}, {"patch"}),
    ):
        objects = renderer.objects(VALUE_SETS[name])
        assert rules(objects, "nodes") == {"list", "watch", *on_nodes}, name
        assert rules(objects, "workerpools") == {"list", "watch"}, name
        assert "get" in rules(objects, "customers"), name
        here = next(o for o in objects if o["kind"] == "Role" and o["metadata"]["name"] == "niyanta-operator")
        verbs = {verb for rule in here["rules"] if "workerpools" in rule["resources"] for verb in rule["verbs"]}
        assert verbs == {"get", *on_pools}, name
        (operator,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
        assert environment(operator)["NIYANTA_ENABLE_SCALING"] == scaling


def test_services_and_probes_use_the_ports_of_the_container(renderer: Renderer) -> None:
    for name, port, metrics_port in (("defaults", 80, 9090), ("everything", 443, 9191)):
        objects = renderer.objects(VALUE_SETS[name])
        deployment, service = one(objects, "Deployment", "api"), one(objects, "Service", "api")
        (shown,) = service["spec"]["ports"]
        assert (shown["port"], shown["targetPort"]) == (port, "api")
        (scraped,) = one(objects, "Service", "api-metrics")["spec"]["ports"]
        assert (scraped["port"], scraped["targetPort"]) == (metrics_port, "metrics")
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()
        assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
        (door,) = deployment["spec"]["template"]["spec"]["containers"]
        variables = environment(door)
        assert {item["name"]: item["containerPort"] for item in door["ports"]} == {
            "api": int(variables["NIYANTA_API_PORT"]),
            "metrics": int(variables["NIYANTA_METRICS_PORT"]),
        }
        for probe, path in (("startupProbe", "healthz"), ("livenessProbe", "healthz"), ("readinessProbe", "readyz")):
            assert door[probe]["httpGet"] == {"path": f"/{path}", "port": "metrics"}


def test_tls_comes_from_a_secret(renderer: Renderer) -> None:
    objects = renderer.objects(VALUE_SETS["everything"])
    pod = one(objects, "Deployment", "api")["spec"]["template"]["spec"]
    (door,) = pod["containers"]
    (mount,) = [item for item in door["volumeMounts"] if item["name"] == "tls"]
    for variable in ("NIYANTA_API_TLS_CERT", "NIYANTA_API_TLS_KEY"):
        assert environment(door)[variable].startswith(mount["mountPath"])
        assert variable.removeprefix("NIYANTA_").lower() in Settings.model_fields
    assert {"name": "tls", "secret": {"secretName": "api-tls", "defaultMode": 0o440}} in pod["volumes"]


def test_autoscaling_replaces_the_replicas_of_the_deployment(renderer: Renderer) -> None:
    objects = renderer.objects(VALUE_SETS["everything"])
    deployment = one(objects, "Deployment", "api")
    assert "replicas" not in deployment["spec"]
    scaler = one(objects, "HorizontalPodAutoscaler", "api")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 9)
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    with pytest.raises(CommandError, match="minReplicas is greater than"):
        renderer.template({**DSN, "api": {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}}})


def test_the_network_policy_of_the_door_allows_postgres_and_dns_alone(renderer: Renderer) -> None:
    objects = renderer.objects(VALUE_SETS["everything"])
    door, operator = (one(objects, "NetworkPolicy", part)["spec"] for part in ("api", "operator"))
    assert door["ingress"] == [
        {
            "ports": [{"port": "api", "protocol": "TCP"}],
            "from": [{"podSelector": {"matchLabels": {"door": "open"}}}],
        },
        {"ports": [{"port": "metrics", "protocol": "TCP"}], "from": [{"podSelector": {}}]},
    ]
    postgres, names = door["egress"]
    assert postgres == {"ports": [{"port": 6432, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}
    assert {(port["port"], port["protocol"]) for port in names.pop("ports")} == {
        (port, protocol) for port in (53, 5353) for protocol in ("UDP", "TCP")
    }
    assert names == {}
    ports = {port["port"] for rule in operator["egress"] for port in rule["ports"]}
    assert ports == {53, 5353, 6432, 443, 6443, 8443, 16443}


def test_pods_of_the_releases_namespace_alone_may_scrape_unless_peers_are_named(renderer: Renderer) -> None:
    monitoring = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    named = {"operator": {"networkPolicy": {"from": monitoring}}, "api": {"networkPolicy": {"metricsFrom": monitoring}}}
    for values, peers in (({}, [{"podSelector": {}}]), (named, monitoring)):
        objects = renderer.objects({**DSN, **values})
        for part in ("operator", "api"):
            rules = one(objects, "NetworkPolicy", part)["spec"]["ingress"]
            assert [rule["from"] for rule in rules if rule["ports"][0]["port"] == "metrics"] == [peers]


def test_only_an_operator_that_scales_on_ec2_reaches_the_addresses_of_credentials(renderer: Renderer) -> None:
    enabled = {"networkPolicy": {"instanceMetadata": {"enabled": True}}}
    for values, reaches in (({}, False), (enabled, True), ({**enabled, "scaling": {"enabled": False}}, False)):
        objects = renderer.objects({**DSN, **values})
        operator, door = (one(objects, "NetworkPolicy", part)["spec"]["egress"] for part in ("operator", "api"))
        found = [rule for rule in operator if rule["ports"] == [{"port": 80, "protocol": "TCP"}]]
        assert [bool(rule["to"]) for rule in found] == ([True] if reaches else [])
        if reaches:
            addresses = {peer["ipBlock"]["cidr"] for peer in found[0]["to"]}
            assert {"169.254.169.254/32", "fd00:ec2::254/128"} <= addresses
        assert all(port["port"] != 80 for rule in door for port in rule["ports"])


def test_namespaces_are_watched_only_for_their_label(renderer: Renderer) -> None:
    for needed in (True, False):
        objects = renderer.objects({**DSN, "policies": {"requireNamespaceLabel": needed}})
        assert rules(objects, "namespaces") == ({"list", "watch"} if needed else set())


def test_the_ingress_exposes_the_api_and_no_metrics(renderer: Renderer) -> None:
    spec = one(renderer.objects(VALUE_SETS["everything"]), "Ingress", "api")["spec"]
    (rule,) = spec["rules"]
    assert [path["path"] for path in rule["http"]["paths"]] == ["/v1", "/docs", "/openapi.json"]
    assert {path["backend"]["service"]["port"]["number"] for path in rule["http"]["paths"]} == {443}


def test_settings_reach_the_door(renderer: Renderer) -> None:
    values = {**DSN, "settings": {"dbPoolMax": 200, "logLevel": "DEBUG"}}
    for container in containers(one(renderer.objects(values), "Deployment", "api")):
        variables = environment(container)
        assert (variables["NIYANTA_DB_POOL_MAX"], variables["NIYANTA_LOG_LEVEL"]) == ("200", "DEBUG")
        assert "NIYANTA_SERVICE_ACCOUNT" not in variables
