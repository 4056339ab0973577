"""Objects that were created under a release's CustomResourceDefinitions live on under the present ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from testing.cluster.api_client import APPLY_PATCH, JSON, MERGE_PATCH, ApiError
from testing.cluster.cluster import Cluster, Kind
from testing.processes.run_directory import REPO
from testing.scenarios.schema_samples import Refusals, accepted_objects, sample
from testing.waiting import until

pytestmark = pytest.mark.e2e

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
GROUP = "/apis/niyanta.io/v1alpha1"
NAMESPACE = "upgraded"
RELEASES = sorted((REPO / "testing" / "data" / "crds").glob("v*"))
MANAGER = "upgrade-test"


@pytest.fixture
def empty_cluster() -> Iterator[Cluster]:
    """A cluster of its own, because definitions are replaced."""
    with Cluster.create("crds") as cluster:
        if cluster.kind is Kind.EXISTING:
            pytest.skip("replaces the definitions: needs a cluster of its own")
        cluster.create_namespace(NAMESPACE)
        yield cluster


def install(cluster: Cluster, folder: Path) -> list[JSON]:
    """Apply the definitions of a folder and wait until the API server serves them."""
    found = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.yaml"))]
    for definition in found:
        path = f"{DEFINITIONS}/{definition['metadata']['name']}?fieldManager={MANAGER}&force=true"
        cluster.api.patch(path, definition, content_type=APPLY_PATCH)
    for definition in found:
        name = definition["metadata"]["name"]
        schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]

        def served(kind: str = definition["spec"]["names"]["kind"], schema: JSON = schema) -> bool:
            """True once the published schema is this one, which the server takes up some time after the write."""
            models = cluster.api.get(f"/openapi/v3{GROUP}").get("components", {}).get("schemas", {})
            shown = next((m for n, m in models.items() if n.endswith(f".{kind}")), {}).get("properties", {})
            return set(shown.get("spec", {}).get("properties", {})) == set(schema.get("properties", {}))

        until(served, what=f"{name} is served", timeout=60, tolerate=True)
    return found


def location(definition: JSON) -> str:
    spec = definition["spec"]
    within = f"/namespaces/{NAMESPACE}" if spec["scope"] == "Namespaced" else ""
    return f"{GROUP}{within}/{spec['names']['plural']}"


def refusals(cluster: Cluster, path: str, obj: JSON, *, dry_run: bool = True) -> Refusals:
    """Field, reason and message of each cause with which the API server refuses to create the object."""
    query = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
    try:
        cluster.api.request("POST", path, obj, query=query)
    except ApiError as error:
        causes = error.details.get("causes") or ()
        if not causes:
            raise
        return [(cause.get("field", ""), cause.get("reason", ""), cause.get("message", "")) for cause in causes]
    return ()


def create_samples(cluster: Cluster, definition: JSON) -> dict[str, JSON]:
    """Create objects that have every field of the schema that the API server accepts; path -> the stored object."""
    path, kind = location(definition), definition["spec"]["names"]["kind"]
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    base = {"apiVersion": "niyanta.io/v1alpha1", "kind": kind, "metadata": {"name": "sample"}}
    objects, refused = accepted_objects(base, schema, lambda obj: refusals(cluster, path, obj))
    print(f"{kind}: {len(objects)} objects; no object may have {len(refused)} fields:")
    for field, causes in refused.items():
        print(".".join(map(str, field)), *(f"{at}: {message}" for at, reason, message in causes if "Req" not in reason))
    assert objects
    made = {}
    for number, obj in enumerate(objects):
        obj["metadata"]["name"] = name = f"sample-{number}"
        cluster.api.post(path, obj)
        made[f"{path}/{name}"] = cluster.api.get(f"{path}/{name}")
    return made


def status_of(definition: JSON) -> JSON:
    """A status with every field of the schema."""
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    found: JSON = sample(schema)
    for condition in found.get("conditions", ()):
        condition["status"] = "True"
    return found


@pytest.mark.parametrize("release", RELEASES, ids=lambda folder: folder.name)
def test_objects_of_a_release_are_read_and_written_under_the_present_definitions(
    empty_cluster: Cluster, release: Path
) -> None:
    api = empty_cluster.api
    frozen = install(empty_cluster, release)
    made = {definition["metadata"]["name"]: create_samples(empty_cluster, definition) for definition in frozen}
    present = {definition["metadata"]["name"]: definition for definition in install(empty_cluster, REPO / "crds")}
    for name, objects in made.items():
        for path, before in objects.items():
            now = api.get(path)
            assert {key: now[key] for key in before} == before, path
            written = api.request(
                "PATCH",
                f"{path}/status",
                {"status": status_of(present[name])},
                query={"fieldValidation": "Strict"},
                content_type=MERGE_PATCH,
            )
            assert json.dumps(written["spec"]) == json.dumps(before["spec"]), path
            assert written["status"] == status_of(present[name])
            assert written["metadata"]["generation"] == before["metadata"]["generation"]
            # A write of the whole object is validated in full.
            written["metadata"]["labels"] = {"upgraded": "yes"}
            stored: dict[str, Any] = api.request("PUT", path, written, query={"fieldValidation": "Strict"})
            assert stored["spec"] == before["spec"]
