"""A pod's spec is checked by the definitions of the Pod API, each error with its path."""

from __future__ import annotations

from typing import Any

import pytest

from niyanta.resources.schema.pod_checker import first_error

pytestmark = pytest.mark.unit


def with_container(**fields: Any) -> dict[str, Any]:
    return {"containers": [{"name": "main", "image": "busybox", **fields}]}


WRONG: dict[str, dict[str, Any]] = {
    "containers[0].commnad": with_container(commnad=["x"]),
    "containers[0].imagePullPolicy": with_container(imagePullPolicy=17),
    "containers[0].args": with_container(args="x"),
    "containers[0].args[1]": with_container(args=["x", None]),
    "containers[0].env[0].value": with_container(env=[{"name": "A", "value": 5}]),
    "containers[0].env[0].name": with_container(env=[{"value": "5"}]),
    "containers[0].livenessProbe.httpGet.port": with_container(livenessProbe={"httpGet": {"port": True}}),
    "containers[0].livenessProbe.periodSeconds": with_container(livenessProbe={"periodSeconds": 2**31}),
    "containers[0].securityContext.runAsUser": with_container(securityContext={"runAsUser": 1.5}),
    "containers[0].tty": with_container(tty="yes"),
    "containers": {"containers": {"name": "main"}},
    "hostAliases": {**with_container(), "hostAliases": [{"ip": "10.0.0.1"}] * 257},
    "volumes[0].emptyDir.sizeLimit": {**with_container(), "volumes": [{"name": "a", "emptyDir": {"sizeLimit": []}}]},
    "volumes[0].csi.volumeAttributes.a": {
        **with_container(),
        "volumes": [{"name": "a", "csi": {"driver": "d", "volumeAttributes": {"a": 1}}}],
    },
    "init_containers": {**with_container(), "init_containers": []},
}


@pytest.mark.parametrize("field", WRONG)
def test_an_error_is_named_with_its_path(field: str) -> None:
    error = first_error(WRONG[field])
    assert error is not None
    assert error.field == field


def test_an_unknown_field_and_a_missing_one_read_as_the_api_server_writes_them() -> None:
    unknown, missing = first_error(WRONG["init_containers"]), first_error({})
    assert unknown is not None
    assert missing is not None
    assert unknown.message == "unknown field"
    assert (missing.field, missing.message) == ("containers", "Required value")


@pytest.mark.parametrize(
    "spec",
    [
        with_container(),
        with_container(args=None, env=[{"name": "A", "value": None}]),
        with_container(env=[{"name": "A"}, {"name": "A"}], ports=[{"containerPort": 80.0}] * 2),
        with_container(readinessProbe={"httpGet": {"port": "web"}}, livenessProbe={"tcpSocket": {"port": 80}}),
        with_container(resources={"requests": {"cpu": 0.5, "memory": "1Gi", "pods": None}}),
        {**with_container(), "volumes": [{"name": "a", "emptyDir": {"sizeLimit": 1024}}]},
        {**with_container(), "priority": -5, "imagePullSecrets": [{}, {}], "evictionResponders": None},
    ],
    ids=str,
)
def test_what_the_pod_api_accepts_passes(spec: dict[str, Any]) -> None:
    assert first_error(spec) is None
