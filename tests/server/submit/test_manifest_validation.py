"""Both doors validate alike: the invalid manifests that a real API server is tested with, through the REST door."""

from __future__ import annotations

import copy
from typing import Any

import httpx
import pytest

from tests.resources.right_manifests import RIGHT
from tests.resources.wrong_manifests import UNSEEN, WRONG, Case
from tests.server.make import SAFE

pytestmark = pytest.mark.store


def _of_workloads(cases: list[Case]) -> list[Case]:
    return [case for case in cases if case.kind == "Workload"]


def _made_safe(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with the security context that the REST door requires, if it has containers."""
    try:
        pod = manifest["spec"]["template"]["spec"]
        for container in [*pod.get("containers", []), *pod.get("initContainers", [])]:
            container.setdefault("securityContext", SAFE)
    except (KeyError, TypeError, AttributeError):
        pass
    return manifest


async def test_manifests_that_the_api_server_refuses_are_refused_with_the_same_field(client: httpx.AsyncClient) -> None:
    wrong = []
    for case in _of_workloads([*WRONG, *UNSEEN]):
        answer = await client.post("/v1/workloads", json=_made_safe(case.manifest))
        body = answer.json()
        if answer.status_code != 422 or body["type"] != "urn:niyanta:problem:invalid-manifest":
            wrong.append((case.name, answer.status_code, body.get("detail", "")))
        elif case.field not in body["detail"]:
            wrong.append((case.name, case.field, body["detail"]))
    assert wrong == []


async def test_manifests_that_the_api_server_accepts_are_accepted(client: httpx.AsyncClient) -> None:
    refused = []
    for number, case in enumerate(_of_workloads(RIGHT)):
        manifest = _made_safe(case.manifest)
        if len(manifest["metadata"]["name"]) <= 39:
            manifest["metadata"]["name"] = f"right-{number}"
        answer = await client.post("/v1/workloads", json=manifest)
        if answer.status_code != 202:
            refused.append((case.name, answer.status_code, answer.json()["type"], answer.json()["detail"]))
    # The REST door also requires the restricted standard, allowed scopes, and room for the name's suffix.
    beyond = ("pod-security", "customer-not-allowed", "reference-not-allowed")
    assert [item for item in refused if not item[2].endswith(beyond) and "39 characters" not in item[3]] == []
    assert len(refused) < len(_of_workloads(RIGHT)) / 2, refused


async def test_a_name_leaves_room_for_the_suffix_of_its_object(client: httpx.AsyncClient) -> None:
    case = RIGHT[0].manifest if RIGHT[0].kind == "Workload" else None
    body = _made_safe(case or {})
    for length, status in ((39, 202), (40, 422)):
        body["metadata"]["name"] = "n" * length
        answer = await client.post("/v1/workloads", json=body)
        assert answer.status_code == status, answer.text


async def test_labels_of_the_operator_are_refused(client: httpx.AsyncClient) -> None:
    body = _made_safe(RIGHT[0].manifest)
    body["metadata"]["labels"] = {"niyanta.io/rest-id": "x"}
    answer = await client.post("/v1/workloads", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "metadata.labels")


async def test_a_small_template_that_takes_much_memory_is_refused(client: httpx.AsyncClient) -> None:
    manifest = _made_safe(copy.deepcopy(_of_workloads(RIGHT)[0].manifest))
    manifest["spec"]["template"]["spec"]["dnsConfig"] = {"x": [[]] * 5_000}
    answer = await client.post("/v1/workloads", json=manifest)
    assert answer.status_code == 422
    assert "at most 5000 values" in answer.json()["detail"]
