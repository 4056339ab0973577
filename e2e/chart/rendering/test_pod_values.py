"""Values of the pods and of all objects: image, additions, security contexts, probes, labels and annotations."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from e2e.chart.conftest import CHART, DSN, IMAGE, Renderer
from e2e.chart.rendering.test_values import EXTRAS, VALUE_SETS, containers, environment, one
from testing.cluster.api_client import JSON
from testing.cluster.cluster import CommandError

PARTS = ("operator", "api")


def pod_of(objects: list[JSON], part: str) -> JSON:
    return dict(one(objects, "Deployment", part)["spec"]["template"]["spec"])


@pytest.mark.e2e
def test_an_image_must_be_named(renderer: Renderer) -> None:
    """A default that nobody publishes would end as ImagePullBackOff."""
    with pytest.raises(CommandError, match=r"Set image\.repository .* registry of yours"):
        renderer.template({"postgres": DSN["postgres"]})


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("image", "name"),
    [
        ({"repository": IMAGE}, f"{IMAGE}:0.1.0-alpha.1"),
        ({"repository": IMAGE, "tag": "edge"}, f"{IMAGE}:edge"),
        (
            {"repository": "team/niyanta", "registry": "mirror.example:5000/"},
            "mirror.example:5000/team/niyanta:0.1.0-alpha.1",
        ),
        ({"repository": IMAGE, "tag": "edge", "digest": "sha256:" + "0" * 64}, f"{IMAGE}@sha256:{'0' * 64}"),
    ],
)
def test_the_image_is_put_together_from_its_parts(renderer: Renderer, image: JSON, name: str) -> None:
    objects = renderer.objects({**DSN, "image": {**image, "pullSecrets": [{"name": "pull"}]}})
    for part in PARTS:
        assert {container["image"] for container in containers(one(objects, "Deployment", part))} == {name}
        assert pod_of(objects, part)["imagePullSecrets"] == [{"name": "pull"}]


@pytest.mark.e2e
@pytest.mark.parametrize("part", PARTS)
def test_pods_have_additional_volumes_containers_and_variables(renderer: Renderer, part: str) -> None:
    extra = {**EXTRAS, "extraEnv": [{"name": "TZ", "value": "UTC"}]}
    pod = pod_of(renderer.objects({**DSN, part: extra}), part)
    assert EXTRAS["extraVolumes"][0] in pod["volumes"]
    assert [item["name"] for item in pod["initContainers"]] == ["first", "migrate"]
    assert [item["name"] for item in pod["containers"]] == [part, "side"]
    for container in (pod["initContainers"][1], pod["containers"][0]):  # the migrations need the authority too
        assert EXTRAS["extraVolumeMounts"][0] in container["volumeMounts"]
    assert pod["containers"][0]["envFrom"] == EXTRAS["extraEnvFrom"]
    assert environment(pod["containers"][0])["TZ"] == "UTC"
    assert pod["topologySpreadConstraints"] == EXTRAS["topologySpread"]["constraints"]
    other = pod_of(renderer.objects({**DSN, part: extra}), PARTS[1 - PARTS.index(part)])
    assert "authority" not in {item["name"] for item in other["volumes"]}


@pytest.mark.e2e
@pytest.mark.parametrize("part", PARTS)
def test_a_variable_of_the_user_replaces_that_of_the_chart(renderer: Renderer, part: str) -> None:
    """Two entries of one name in a container's env are refused by server-side apply, which Helm 4 uses."""
    values = {
        **DSN,
        part: {"extraEnv": [{"name": "NIYANTA_DSN", "value": "postgresql://mine"}]},
        "migrations": {"extraEnv": [{"name": "NIYANTA_DSN", "value": "postgresql://owner"}]},
    }
    pod = pod_of(renderer.objects(values), part)
    for container, wanted in ((pod["containers"][0], "mine"), (pod["initContainers"][0], "owner")):
        names = [item["name"] for item in container["env"]]
        assert len(names) == len(set(names))
        assert environment(container)["NIYANTA_DSN"] == f"postgresql://{wanted}"


@pytest.mark.e2e
def test_no_variable_is_set_twice(renderer: Renderer) -> None:
    for name in ("everything", "additions", "own connection strings"):
        for item in renderer.objects(VALUE_SETS[name]):
            if item["kind"] in ("Deployment", "Job"):
                for container in containers(item):
                    names = [entry["name"] for entry in container.get("env", [])]
                    assert len(names) == len(set(names))


@pytest.mark.e2e
@pytest.mark.parametrize("part", PARTS)
def test_security_contexts_and_probes_are_changed_field_by_field(renderer: Renderer, part: str) -> None:
    values = {
        "podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
        "containerSecurityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "startupProbe": {"failureThreshold": 600},
        "livenessProbe": None,
        "readinessProbe": {"exec": {"command": ["true"]}},
    }
    pod = pod_of(renderer.objects({**DSN, part: values}), part)
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    for container in (pod["containers"][0], pod["initContainers"][0]):
        assert container["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
    main = pod["containers"][0]
    assert main["startupProbe"]["failureThreshold"] == 600
    assert main["startupProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}
    assert "livenessProbe" not in main
    assert main["readinessProbe"]["exec"] == {"command": ["true"]}
    assert "httpGet" not in main["readinessProbe"]


@pytest.mark.e2e
def test_every_object_and_pod_has_the_common_labels_and_annotations(renderer: Renderer) -> None:
    values = {
        **VALUE_SETS["everything"],
        "migrations": {"mode": "job"},
        "alerts": {"enabled": True, "runbookBaseUrl": "none"},
        "dashboards": {"enabled": True},
    }
    values["metrics"] = {**values["metrics"], "monitor": {"enabled": True}}
    objects = [item for item in renderer.objects(values) if item["kind"] != "CustomResourceDefinition"]
    assert len(objects) > 40
    pods = [item["spec"]["template"] for item in objects if item["kind"] in ("Deployment", "Job")]
    for item in (*objects, *pods):
        assert item["metadata"]["labels"]["example.com/owner"] == "batch", item
        assert item["metadata"]["annotations"]["example.com/docs"] == "wiki", item
    for deployment in (item for item in objects if item["kind"] == "Deployment"):
        assert "example.com/owner" not in deployment["spec"]["selector"]["matchLabels"]


@pytest.mark.e2e
def test_further_objects_are_rendered_as_manifests_and_as_templates(renderer: Renderer) -> None:
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "of-{{ .Release.Name }}"}}
    text = yaml.safe_dump({**manifest, "metadata": {"name": "in-{{ .Release.Namespace }}"}})
    found = renderer.objects({**DSN, "extraObjects": [manifest, text]})
    names = {item["metadata"]["name"] for item in found if item["kind"] == "ConfigMap"}
    assert names == {"of-niyanta", "in-niyanta-system"}


@pytest.mark.e2e
def test_a_route_leads_to_the_door_and_not_to_its_metrics(renderer: Renderer) -> None:
    route = {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["niyanta.example.com"]}
    objects = renderer.objects({**DSN, "api": {"httpRoute": route}})
    spec = one(objects, "HTTPRoute", "api")["spec"]
    (rule,) = spec["rules"]
    assert [match["path"]["value"] for match in rule["matches"]] == ["/v1", "/docs", "/openapi.json"]
    assert rule["backendRefs"] == [{"name": one(objects, "Service", "api")["metadata"]["name"], "port": 80}]
    assert (spec["parentRefs"], spec["hostnames"]) == ([{"name": "public"}], ["niyanta.example.com"])


def urls_of_test(objects: list[JSON]) -> list[str]:
    (pod,) = [item for item in objects if item["kind"] == "Pod"]
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["command"][:2] == ["python", "-c"]
    compile(container["command"][2], "reachable.py", "exec")
    return list(container["command"][3:])


@pytest.mark.e2e
def test_the_release_is_tested_through_its_services(renderer: Renderer) -> None:
    assert urls_of_test(renderer.objects(DSN)) == [
        "http://niyanta-metrics.niyanta-system:9090/readyz",
        "http://niyanta-api.niyanta-system:80/readyz",
    ]
    assert urls_of_test(renderer.objects(VALUE_SETS["everything"]))[1] == "https://placer-api.niyanta-system:443/readyz"
    assert not [item for item in renderer.objects(VALUE_SETS["bare"]) if item["kind"] == "Pod"]


class _Ready(BaseHTTPRequestHandler):
    """Answers 503 once, then 200."""

    answers: Iterator[int]

    def do_GET(self) -> None:
        self.send_response(next(self.answers))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@pytest.mark.process
def test_the_test_of_a_release_waits_until_its_servers_are_ready() -> None:
    _Ready.answers = iter((503, 200))
    with ThreadingHTTPServer(("127.0.0.1", 0), _Ready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/readyz"
        done = subprocess.run(
            [sys.executable, "-c", (CHART / "files" / "reachable.py").read_text(), url],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{url} 200"
