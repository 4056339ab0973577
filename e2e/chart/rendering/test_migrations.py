"""Migrations by init containers, by a hook Job or by other means."""

from __future__ import annotations

import pytest

from e2e.chart.conftest import DSN, Renderer
from e2e.chart.rendering.test_values import EXTRAS, VALUE_SETS, containers, environment, one
from testing.cluster.api_client import JSON

pytestmark = pytest.mark.e2e

OWNER = {"postgres": {**DSN["postgres"], "migrate": {"dsn": "postgresql://owner@db.example/niyanta"}}}


def hooks(objects: list[JSON]) -> dict[str, JSON]:
    """Objects that helm makes before an installation or an upgrade, by kind."""
    wanted = "pre-install,pre-upgrade"
    found = [item for item in objects if item["metadata"].get("annotations", {}).get("helm.sh/hook") == wanted]
    return {item["kind"]: item for item in found}


def migrates(objects: list[JSON]) -> list[str]:
    """Kinds of the objects that run `niyanta migrate`."""
    return [
        item["kind"]
        for item in objects
        if item["kind"] in ("Deployment", "Job")
        for container in containers(item)
        if container.get("command") == ["niyanta", "migrate"]
    ]


def test_the_mode_decides_where_migrations_run(renderer: Renderer) -> None:
    for mode, wanted in (("init", ["Deployment", "Deployment"]), ("job", ["Job"]), ("none", [])):
        assert sorted(migrates(renderer.objects({**DSN, "migrations": {"mode": mode}}))) == wanted


def test_the_job_needs_nothing_that_is_installed_later(renderer: Renderer) -> None:
    """Hooks run before the release's own objects exist: an account or a Secret of the release would be missing."""
    for values in (VALUE_SETS["migrations in a Job"], VALUE_SETS["everything"], {**DSN, **OWNER}):
        objects = renderer.objects({**values, "migrations": {"mode": "job"}})
        made = hooks(objects)
        assert set(made) == {"ServiceAccount", "Secret", "Job"}
        job = made["Job"]
        pod = job["spec"]["template"]["spec"]
        assert pod["serviceAccountName"] == made["ServiceAccount"]["metadata"]["name"]
        assert pod["automountServiceAccountToken"] is False
        (container,) = containers(job)
        reference = environment(container)["NIYANTA_MIGRATE_DSN"]["secretKeyRef"]
        assert reference["name"] == made["Secret"]["metadata"]["name"]
        assert reference["key"] in made["Secret"]["stringData"]
        weights = {
            kind: int(item["metadata"]["annotations"].get("helm.sh/hook-weight", 0)) for kind, item in made.items()
        }
        assert max(weights["ServiceAccount"], weights["Secret"]) < weights["Job"]
        names = [(item["kind"], item["metadata"]["name"]) for item in objects]
        assert len(names) == len(set(names))


def test_the_job_has_the_owners_connection_string_and_no_other_pod_has(renderer: Renderer) -> None:
    objects = renderer.objects({**DSN, **OWNER, "migrations": {"mode": "job"}})
    assert hooks(objects)["Secret"]["stringData"] == {"dsn": "postgresql://owner@db.example/niyanta"}
    secrets = [item for item in objects if item["kind"] == "Secret" and "owner@" in str(item.get("stringData"))]
    assert secrets == [hooks(objects)["Secret"]]
    for part in ("operator", "api"):
        for container in containers(one(objects, "Deployment", part)):
            assert "NIYANTA_MIGRATE_DSN" not in environment(container)


def test_the_job_reads_an_existing_secret(renderer: Renderer) -> None:
    own = {"existingSecret": "pg-owner", "key": "uri"}
    for postgres, variable, secret in (
        ({"existingSecret": "pg-app", "key": "uri"}, "NIYANTA_DSN", "pg-app"),
        ({"existingSecret": "pg-app", "key": "uri", "migrate": own}, "NIYANTA_MIGRATE_DSN", "pg-owner"),
        ({**DSN["postgres"], "migrate": own}, "NIYANTA_MIGRATE_DSN", "pg-owner"),
    ):
        made = hooks(renderer.objects({**DSN, "postgres": postgres, "migrations": {"mode": "job"}}))
        assert set(made) == {"ServiceAccount", "Job"}
        (container,) = containers(made["Job"])
        assert environment(container)[variable] == {"secretKeyRef": {"name": secret, "key": "uri"}}


def test_the_job_meets_the_restricted_standard_and_has_its_own_volumes(renderer: Renderer) -> None:
    job = hooks(renderer.objects(VALUE_SETS["additions"]))["Job"]
    pod = job["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    (container,) = containers(job)
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert EXTRAS["extraVolumes"][0] in pod["volumes"]
    assert EXTRAS["extraVolumeMounts"][0] in container["volumeMounts"]
    assert environment(container)["PGAPPNAME"] == "migrate"
    assert (pod["restartPolicy"], job["spec"]["backoffLimit"]) == ("Never", 3)
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
