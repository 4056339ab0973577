"""Secrets of the chart: connection strings of operator, REST door and migrations, and the token of the metrics."""

from __future__ import annotations

import pytest

from e2e.chart.conftest import DSN, Renderer
from e2e.chart.rendering.test_values import VALUE_SETS, containers, environment, one
from testing.cluster.cluster import CommandError

pytestmark = pytest.mark.e2e

IMAGE_ALONE = {"image": DSN["image"]}


def test_a_database_must_be_named_once(renderer: Renderer) -> None:
    with pytest.raises(CommandError, match=r"set postgres\.existingSecret"):
        renderer.template(IMAGE_ALONE)
    with pytest.raises(CommandError, match="not both"):
        renderer.template({**DSN, "postgres": {"dsn": "postgresql://x", "existingSecret": "pg"}})
    twice = {"dsns": ["postgresql://r"], "existingSecret": "pg"}
    with pytest.raises(CommandError, match="not both"):
        renderer.template({**DSN, "postgres": {"dsn": "postgresql://x", "replicas": twice}})


def test_a_refusal_does_not_show_the_password(renderer: Renderer) -> None:
    with pytest.raises(CommandError) as refusal:
        renderer.template({"postgres": {"dsn": "postgresql://u:hunter2@h/d", "colour": "blue"}})
    assert "hunter2" not in str(refusal.value)


def test_the_connection_string_comes_from_the_secret(renderer: Renderer) -> None:
    for name, secret, key in (("defaults", "niyanta-postgres", "dsn"), ("existing secret", "pg-app", "uri")):
        objects = renderer.objects(VALUE_SETS[name])
        for container in [*containers(one(objects, "Deployment")), *containers(one(objects, "Deployment", "api"))]:
            assert environment(container)["NIYANTA_DSN"] == {"secretKeyRef": {"name": secret, "key": key}}


def test_each_process_has_only_its_own_connection_string(renderer: Renderer) -> None:
    """The REST door must not be able to act as the operator or as the owner of the tables."""
    objects = renderer.objects(VALUE_SETS["own connection strings"])
    strings = {
        "migrate": {"NIYANTA_MIGRATE_DSN": {"secretKeyRef": {"name": "pg-owner", "key": "uri"}}},
        "operator": {"NIYANTA_DSN": {"secretKeyRef": {"name": "niyanta-postgres", "key": "dsn"}}},
        "api": {"NIYANTA_API_DSN": {"secretKeyRef": {"name": "niyanta-postgres-api", "key": "api-dsn"}}},
    }
    roles = {"NIYANTA_DOOR_ROLE": "door", "NIYANTA_OPERATOR_ROLE": "placer"}
    for component in ("operator", "api"):
        for container in containers(one(objects, "Deployment", component)):
            variables = environment(container)
            assert {k: v for k, v in variables.items() if k.endswith("DSN")} == strings[container["name"]]
            found = {k: v for k, v in variables.items() if k in roles}
            assert found == (roles if container["name"] == "migrate" else {})
    twice = {**DSN, "postgres": {**DSN["postgres"], "api": {"dsn": "postgresql://x", "existingSecret": "pg"}}}
    with pytest.raises(CommandError, match="not both"):
        renderer.template(twice)


def test_the_token_of_the_metrics_reaches_the_processes(renderer: Renderer) -> None:
    objects = renderer.objects(VALUE_SETS["metrics with a token"])
    for component in ("operator", "api"):
        deployment = one(objects, "Deployment", component)
        container = containers(deployment)[-1]
        file = environment(container)["NIYANTA_METRICS_TOKEN_FILE"]
        (mount,) = [item for item in container["volumeMounts"] if item["name"] == "metrics-token"]
        assert file == f"{mount['mountPath']}/token"
        volumes = {item["name"]: item for item in deployment["spec"]["template"]["spec"]["volumes"]}
        assert volumes["metrics-token"]["secret"]["secretName"] == "metrics-token"
        assert volumes["metrics-token"]["secret"]["items"] == [{"key": "token", "path": "token"}]
