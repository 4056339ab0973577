"""Rendering of the chart: valid manifests, strict values, and settings that reach the operator."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from e2e.chart.conftest import DSN, OPERATOR, Renderer
from niyanta.settings import Settings
from testing.cluster.api_client import JSON
from testing.cluster.cluster import CommandError
from testing.processes.run_directory import REPO
from tools.chart_schema import SET_BY_CHART, camel_case
from tools.chart_schema import main as schema_main

EXTRAS: JSON = {
    "extraVolumes": [{"name": "authority", "secret": {"secretName": "pg-ca"}}],
    "extraVolumeMounts": [{"name": "authority", "mountPath": "/etc/pg", "readOnly": True}],
    "extraContainers": [{"name": "side", "image": "registry.invalid/side"}],
    "extraInitContainers": [{"name": "first", "image": "registry.invalid/first"}],
    "extraEnvFrom": [{"configMapRef": {"name": "proxies"}}],
    "topologySpread": {
        "constraints": [{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
    },
}
"""Additions to the pods of the operator or the REST door."""

VALUE_SETS: dict[str, JSON] = {
    "defaults": DSN,
    "no replicas": {**DSN, "operator": {"replicas": 0}},
    "one replica": {**DSN, "operator": {"replicas": 1}},
    "existing secret": {**DSN, "postgres": {"existingSecret": "pg-app", "key": "uri"}},
    "replicas": {
        **DSN,
        "postgres": {**DSN["postgres"], "replicas": {"dsns": ["postgresql://a/n", "host=b dbname=n"]}},
    },
    "replicas' secret": {
        **DSN,
        "postgres": {**DSN["postgres"], "replicas": {"existingSecret": "pg-replicas", "key": "uris"}},
    },
    "own connection strings": {
        **DSN,
        "postgres": {
            **DSN["postgres"],
            "operatorRole": "placer",
            "api": {"dsn": "postgresql://door@db.example/niyanta", "role": "door"},
            "migrate": {"existingSecret": "pg-owner", "key": "uri"},
        },
    },
    "metrics with a token": {**DSN, "metrics": {"token": {"existingSecret": "metrics-token"}}},
    "no network policies": {
        **DSN,
        "operator": {"networkPolicy": {"enabled": False}},
        "api": {"networkPolicy": {"enabled": False}},
    },
    "default customer": {**DSN, "defaultCustomer": {"enabled": True}},
    "migrations in a Job": {**DSN, "migrations": {"mode": "job"}},
    "additions": {
        **DSN,
        "operator": {**EXTRAS, "nodeSelector": {"kubernetes.io/os": "linux"}},
        "api": EXTRAS,
        "migrations": {
            "mode": "job",
            "extraEnv": [{"name": "PGAPPNAME", "value": "migrate"}],
            "job": {"extraVolumes": EXTRAS["extraVolumes"], "extraVolumeMounts": EXTRAS["extraVolumeMounts"]},
        },
    },
    "no conditions for authors": {
        **DSN,
        "policies": {"requireNamespaceLabel": False, "authors": {"requirePodCreate": False}},
    },
    "use of ServiceAccounts": {**DSN, "policies": {"authors": {"requireServiceAccountUse": True}}},
    "no definitions": {**DSN, "crds": {"enabled": False}},
    "definitions not kept": {**DSN, "crds": {"keep": False}},
    "no REST door": {**DSN, "api": {"enabled": False}},
    "one API replica": {**DSN, "api": {"replicas": 1}},
    "no drain": {**DSN, "api": {"drainWorkers": False}, "scaling": {"enabled": False}},
    "no scaling": {**DSN, "scaling": {"enabled": False}},
    "simulated workers": {**DSN, "scaling": {"kwok": {"enabled": True}}},
    "no metrics adapter": {**DSN, "metricsAdapter": {"enabled": False}},
    "metrics adapter elsewhere": {
        **DSN,
        "operator": {"replicas": 0},
        "metricsAdapter": {"externalName": "operator.example.com", "port": 8443},
    },
    "bare": {
        **DSN,
        "api": {"enabled": False},
        "fence": {"enabled": False},
        "migrations": {"mode": "none"},
        "metrics": {"service": {"enabled": False}},
        "metricsAdapter": {"enabled": False},
        "rbac": {"create": False, "userRoles": False},
        "serviceAccount": {"create": False, "name": "mine"},
    },
    "everything": {
        **DSN,
        "fullnameOverride": "placer",
        "commonLabels": {"example.com/owner": "batch"},
        "commonAnnotations": {"example.com/docs": "wiki"},
        "image": {"repository": "mirror.example/niyanta", "tag": "edge", "pullSecrets": [{"name": "pull"}]},
        "settings": {"cycleInterval": 0.5, "dbPoolMax": 100, "logLevel": "DEBUG", "enableAging": False},
        "operator": {
            "replicas": 3,
            "priorityClassName": "system-cluster-critical",
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"key": "control", "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {}},
            "podAnnotations": {"example.com/a": "b"},
            "podLabels": {"example.com/c": "d"},
            "extraEnv": [{"name": "TZ", "value": "UTC"}],
            "networkPolicy": {"enabled": True},
        },
        "api": {
            "port": 8443,
            "service": {"type": "LoadBalancer", "port": 443, "annotations": {"example.com/zone": "a"}},
            "tls": {"existingSecret": "api-tls"},
            "ingress": {
                "enabled": True,
                "className": "nginx",
                "annotations": {"example.com/e": "f"},
                "hosts": ["niyanta.example.com"],
                "tls": [{"secretName": "web-tls", "hosts": ["niyanta.example.com"]}],
            },
            "autoscaling": {"enabled": True, "minReplicas": 3, "maxReplicas": 9},
            "networkPolicy": {"enabled": True, "from": [{"podSelector": {"matchLabels": {"door": "open"}}}]},
            "serviceAccount": {"name": "door", "annotations": {"example.com/role": "door"}},
            "priorityClassName": "system-cluster-critical",
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"key": "control", "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {}},
            "podAnnotations": {"example.com/a": "b"},
            "podLabels": {"example.com/c": "d"},
            "extraEnv": [{"name": "TZ", "value": "UTC"}],
        },
        "networkPolicy": {"postgres": {"ports": [6432], "to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}},
        "metrics": {"port": 9191, "service": {"annotations": {"example.com/scrape": "true"}}},
        "serviceAccount": {"name": "placer", "annotations": {"example.com/role": "placer"}},
    },
}

WRONG_VALUES: list[tuple[JSON, str]] = [
    ({"operater": {}}, "'operater' not allowed"),
    ({"operator": {"replica": 2}}, "'replica' not allowed"),
    ({"operator": {"replicas": -1}}, "minimum: got -1, want 0"),
    ({"operator": {"replicas": "two"}}, "got string, want integer"),
    ({"operator": {"podLabels": {"niyanta.io/workload": "x"}}}, "/operator/podLabels"),
    ({"postgres": {"existingSecret": "Not A Name"}}, "/postgres/existingSecret"),
    ({"postgres": {"replicas": {"dsns": "postgresql://a/n"}}}, "/postgres/replicas/dsns"),
    ({"settings": {"cycle_interval": 1}}, "'cycle_interval' not allowed"),
    ({"settings": {"dsn": "x"}}, "'dsn' not allowed"),
    ({"settings": {"dbPoolMin": 0}}, "minimum: got 0, want 1"),
    ({"settings": {"logLevel": "LOUD"}}, "/settings/logLevel"),
    ({"settings": {"enableAging": "maybe"}}, "/settings/enableAging"),
    ({"settings": {"lease": "soon"}}, "/settings/lease"),
    ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
    ({"image": {"registry": "https://registry.example"}}, "/image/registry"),
    ({"commonLabels": {"niyanta.io/workload": "x"}}, "/commonLabels"),
    ({"commonLabels": {"app.kubernetes.io/component": "x"}}, "/commonLabels"),
    ({"migrations": {"enabled": False}}, "'enabled' not allowed"),
    ({"migrations": {"mode": "never"}}, "/migrations/mode"),
    ({"operator": {"extraVolumeMounts": [{"name": "ca"}]}}, "/operator/extraVolumeMounts/0"),
    ({"api": {"livenessProbe": True}}, "/api/livenessProbe"),
    ({"api": {"httpRoute": {"enabled": True}}}, "/api/httpRoute/parentRefs"),
    ({"metrics": {"port": 80}}, "minimum: got 80, want 1,024"),
    ({"metricsAdapter": {"port": 443}}, "minimum: got 443, want 1,024"),
    ({"metricsAdapter": {"externalName": "Not A Name"}}, "/metricsAdapter/externalName"),
    ({"settings": {"metricsAdapterPort": 7443}}, "'metricsAdapterPort' not allowed"),
    ({"crds": {"enabled": "yes"}}, "/crds/enabled"),
    ({"scaling": {"kwok": True}}, "/scaling/kwok"),
    ({"policies": {"authors": {"requirePodCreate": "yes"}}}, "/policies/authors/requirePodCreate"),
    ({"settings": {"requirePolicies": False}}, "'requirePolicies' not allowed"),
    ({"settings": {"enableScaling": False}}, "'enableScaling' not allowed"),
    ({"api": {"replica": 2}}, "'replica' not allowed"),
    ({"api": {"port": 443}}, "minimum: got 443, want 1,024"),
    ({"api": {"service": {"type": "ExternalName"}}}, "/api/service/type"),
    ({"api": {"ingress": {"enabled": True}}}, "/api/ingress/hosts"),
    ({"api": {"podLabels": {"niyanta.io/workload": "x"}}}, "/api/podLabels"),
    ({"networkPolicy": {"postgres": {"ports": []}}}, "/networkPolicy/postgres/ports"),
]


def containers(deployment: JSON) -> list[JSON]:
    pod = deployment["spec"]["template"]["spec"]
    return [*pod.get("initContainers", []), *pod["containers"]]


def environment(container: JSON) -> dict[str, Any]:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in container["env"]}


def one(objects: list[JSON], kind: str, component: str = "operator") -> JSON:
    """The object of this kind of the operator, or of the REST door (`api`)."""
    label = "app.kubernetes.io/component"
    (found,) = [item for item in objects if item["kind"] == kind and item["metadata"]["labels"].get(label) == component]
    return found


@pytest.mark.e2e
@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS.keys())
def test_rendered_manifests_conform_to_the_schemas_of_the_server(renderer: Renderer, values: JSON) -> None:
    renderer.lint(values)
    manifests = renderer.template(values)
    summary = renderer.conform(manifests)
    assert summary["valid"] == manifests.count("\nkind: ") > 0
    assert summary["skipped"] == 0


@pytest.mark.e2e
def test_a_misspelt_field_does_not_conform(renderer: Renderer) -> None:
    manifests = renderer.template(DSN).replace("readinessProbe:", "readynessProbe:")
    with pytest.raises(AssertionError, match="readynessProbe"):
        renderer.conform(manifests)


@pytest.mark.e2e
def test_values_enable_and_disable_objects(renderer: Renderer) -> None:
    def kinds(name: str) -> Counter[str]:
        return Counter(item["kind"] for item in renderer.objects(VALUE_SETS[name]))

    everything = kinds("defaults")
    assert everything["CustomResourceDefinition"] == 3
    assert everything["Secret"] == 2
    assert everything["APIService"] == 1
    assert everything["Deployment"] == everything["PodDisruptionBudget"] == 2
    assert everything["Service"] == 4
    assert everything["ValidatingAdmissionPolicy"] == everything["ValidatingAdmissionPolicyBinding"] == 5
    assert kinds("no conditions for authors")["ValidatingAdmissionPolicy"] == 4
    assert kinds("no metrics adapter")["ValidatingAdmissionPolicy"] == 4
    assert "ConfigMap" not in everything
    assert not {"Ingress", "HorizontalPodAutoscaler"} & set(everything)
    assert everything["NetworkPolicy"] == 2
    assert "NetworkPolicy" not in kinds("no network policies")
    for name in ("no replicas", "one replica", "one API replica", "no REST door"):
        assert kinds(name)["PodDisruptionBudget"] == 1, name
    assert kinds("no REST door")["Deployment"] == 1
    assert kinds("no REST door")["Service"] == 2
    # An unavailable APIService would block the deletion of every namespace.
    for name in ("no metrics adapter", "no replicas", "bare"):
        assert "APIService" not in kinds(name), name
        assert kinds(name)["Secret"] == 1, name
    assert kinds("metrics adapter elsewhere")["APIService"] == 1
    assert kinds("everything")["NetworkPolicy"] == kinds("everything")["PodDisruptionBudget"] == 2
    assert kinds("existing secret")["Secret"] == 1
    assert kinds("own connection strings")["Secret"] == 3
    assert "CustomResourceDefinition" not in kinds("no definitions")
    assert set(kinds("bare")) == {
        *("Deployment", "Secret", "CustomResourceDefinition", "PodDisruptionBudget", "NetworkPolicy")
    }


@pytest.mark.e2e
def test_the_apiservice_leads_to_the_port_of_the_metrics_adapter(renderer: Renderer) -> None:
    def named(objects: list[JSON], kind: str, name: str) -> JSON:
        (found,) = [item for item in objects if item["kind"] == kind and item["metadata"]["name"] == name]
        return dict(found["spec"])

    for values, fullname in (("defaults", "niyanta"), ("everything", "placer")):
        objects = renderer.objects(VALUE_SETS[values], namespace="elsewhere")
        registration = named(objects, "APIService", "v1beta2.custom.metrics.k8s.io")
        adapter = f"{fullname}-metrics-adapter"
        assert registration["service"] == {"name": adapter, "namespace": "elsewhere", "port": 443}
        assert not {"caBundle", "insecureSkipTLSVerify"} & set(registration), "only the leader writes these fields"
        (port,) = named(objects, "Service", adapter)["ports"]
        operator = containers(one(objects, "Deployment"))[-1]
        assert port["targetPort"] in {item["name"] for item in operator["ports"]}
        variables = environment(operator)
        assert {
            "name": "adapter",
            "containerPort": int(variables["NIYANTA_METRICS_ADAPTER_PORT"]),
            "protocol": "TCP",
        } in (operator["ports"])
        assert variables["NIYANTA_METRICS_ADAPTER"] == "true"
        assert variables["NIYANTA_METRICS_ADAPTER_SERVICE"] == adapter
    away = renderer.objects(VALUE_SETS["metrics adapter elsewhere"])
    assert named(away, "APIService", "v1beta2.custom.metrics.k8s.io")["service"]["port"] == 8443
    assert named(away, "Service", "niyanta-metrics-adapter")["externalName"] == "operator.example.com"
    off = environment(containers(one(renderer.objects(VALUE_SETS["no metrics adapter"]), "Deployment"))[-1])
    assert off["NIYANTA_METRICS_ADAPTER"] == "false"


@pytest.mark.e2e
def test_definitions_are_kept_by_default(renderer: Renderer) -> None:
    def policies(name: str) -> set[str | None]:
        crds = [item for item in renderer.objects(VALUE_SETS[name]) if item["kind"] == "CustomResourceDefinition"]
        return {item["metadata"].get("annotations", {}).get("helm.sh/resource-policy") for item in crds}

    assert policies("defaults") == {"keep"}
    assert policies("definitions not kept") == {None}


@pytest.mark.e2e
@pytest.mark.parametrize(("values", "words"), WRONG_VALUES, ids=lambda part: part if isinstance(part, str) else "")
def test_a_wrong_value_is_refused_by_name(renderer: Renderer, values: JSON, words: str) -> None:
    with pytest.raises(CommandError, match="don't meet the specifications") as refusal:
        renderer.template({**DSN, **values})
    assert words in str(refusal.value)


@pytest.mark.e2e
def test_the_pod_of_the_operator_meets_the_restricted_standard(renderer: Renderer) -> None:
    deployment = one(renderer.objects(DSN), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert [container["name"] for container in containers(deployment)] == ["migrate", "operator"]
    for container in containers(deployment):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert [container["command"] for container in containers(deployment)] == [
        ["niyanta", "migrate"],
        ["niyanta", "operator"],
    ]


@pytest.mark.e2e
def test_the_pod_carries_no_key_of_the_fence(renderer: Renderer) -> None:
    meta = one(renderer.objects(VALUE_SETS["everything"]), "Deployment")["spec"]["template"]["metadata"]
    assert not [key for key in (*meta["labels"], *meta["annotations"]) if key.startswith("niyanta.io/")]


@pytest.mark.e2e
def test_the_fence_knows_the_account_the_operator_runs_as(renderer: Renderer) -> None:
    assert OPERATOR in renderer.template(DSN)
    renamed = renderer.template(VALUE_SETS["everything"], namespace="elsewhere")
    assert "'system:serviceaccount:elsewhere:placer'" in renamed
    assert OPERATOR not in renamed


@pytest.mark.e2e
def test_every_setting_reaches_the_operator_unchanged(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        if name in SET_BY_CHART:
            continue
        default = field.default
        if isinstance(default, bool):
            wanted[name] = not default
        elif isinstance(default, int):
            # Helm reads large numbers as floats, and they must be rendered as integers.
            wanted[name] = 2_000_000 if name.endswith("pool_max") else default + 1
        elif isinstance(default, float):
            wanted[name] = 0.75 if name == "orphan_stop_ratio" else default + 0.25
        else:
            wanted[name] = {"log_format": "console", "log_level": "ERROR"}.get(name, default)
    settings = {camel_case(name): value for name, value in wanted.items()}
    deployment = one(renderer.objects({**DSN, "settings": settings}), "Deployment")
    for container in containers(deployment):
        for variable, value in environment(container).items():
            if isinstance(value, str):
                monkeypatch.setenv(variable, value)
        read = Settings()
        assert {name: getattr(read, name) for name in wanted} == wanted
        assert read.default_customer is False
        assert read.require_policies is True
        assert read.service_account == "niyanta-operator"


@pytest.mark.e2e
def test_the_operator_asks_for_the_policy_on_authors_where_it_is_part_of_the_release(renderer: Renderer) -> None:
    for name, asks in (("defaults", "true"), ("no conditions for authors", "false"), ("bare", "false")):
        (operator,) = one(renderer.objects(VALUE_SETS[name]), "Deployment")["spec"]["template"]["spec"]["containers"]
        assert environment(operator)["NIYANTA_REQUIRE_AUTHORS_POLICY"] == asks, name


@pytest.mark.unit
def test_the_values_schema_is_generated_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["schema.py", "--check"])
    assert schema_main() == 0


@pytest.mark.unit
def test_the_image_is_built_with_the_tested_packages() -> None:
    def entries(name: str) -> dict[str, str]:
        text = (REPO / name).read_text()
        blocks = [block for block in text.split("\n") if block and not block.startswith("#")]
        found: dict[str, str] = {}
        for line in blocks:
            if not line.startswith(" "):
                found[key := line.split()[0]] = ""
            else:
                found[key] += line.strip(" \\") + "\n"
        return found

    build, dev = entries("requirements-build.lock"), entries("requirements-dev.lock")
    assert any(name.startswith("hatchling==") for name in build)
    assert build == {name: dev[name] for name in build}, "copy the entries anew from requirements-dev.lock"
