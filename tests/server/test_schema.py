"""The OpenAPI document: no input causes a server error, and pages generated from it are up to date."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings

from niyanta.server.app import create_app
from niyanta.server.schema.docs_pages import markdown
from niyanta.settings import Settings
from tests.server.door_thread import DoorThread
from tests.server.make import manifest

pytestmark = pytest.mark.store
ROOT = Path(__file__).parent.parent.parent
_config = schemathesis.Config()
# It generates hundreds of cases per operation, which take minutes; the mutations of a manifest below go deeper.
_config.projects.default.phases.coverage.enabled = False
schema = schemathesis.openapi.from_dict(create_app(Settings()).openapi(), config=_config)


@pytest.fixture(scope="module")
def rest(_shared_dsn: str) -> Iterator[DoorThread]:
    found = DoorThread(_shared_dsn)
    yield found
    found.close()


@schemathesis.serializer("application/x-ndjson")
def _lines(_: Any, value: Any) -> bytes:
    """The generated value as a batch."""
    return value.encode(errors="replace") if isinstance(value, str) else json.dumps(value).encode(errors="replace")


@schema.parametrize()
@settings(
    max_examples=20,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
)
def test_no_input_causes_a_server_error(case: schemathesis.Case, rest: DoorThread) -> None:
    for token in rest.tokens:
        sent = case.as_transport_kwargs(base_url="http://door")
        headers = {name: value for name, value in dict(sent.pop("headers", None) or {}).items() if _sendable(value)}
        sent = {name: value for name, value in sent.items() if name in ("params", "json", "data", "content", "cookies")}
        data = sent.pop("data", None)
        if data is not None:
            sent["content"] = data if isinstance(data, bytes | str) else str(data)
        answer = rest.send(
            case.method, case.formatted_path, headers={**headers, "Authorization": f"Bearer {token}"}, **sent
        )
        no_leader = "urn:niyanta:problem:stale-figures" in answer.text  # there is no leader that writes statistics
        assert answer.status_code < 500 or no_leader, (answer.status_code, answer.text)
        assert answer.status_code in _documented(case) or answer.status_code in (400, 401, 404, 405), answer.text
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["type"].startswith("urn:niyanta:problem:")


def _documented(case: schemathesis.Case) -> set[int]:
    return {int(status) for status in case.operation.definition.raw["responses"]}


def _sendable(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and value.isascii()


MUTANTS: list[Any] = [
    None,
    0,
    -1,
    2**70,
    1.5,
    "",
    "\u0000",
    "\ud800".encode("utf-16", "surrogatepass").hex(),
    [],
    {},
    [[]],
    {"a": None},
]


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from _places(part, (*path, key))


def _mutated(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    first, *rest = path
    if isinstance(value, dict):
        return {key: _mutated(part, tuple(rest), new) if key == first else part for key, part in value.items()}
    return [_mutated(part, tuple(rest), new) if key == first else part for key, part in enumerate(value)]


def test_no_mutation_of_a_valid_manifest_causes_a_server_error(rest: DoorThread) -> None:
    """Replaces each field of a manifest with each odd value; schemathesis seldom goes this deep."""
    affinity = {"hard": {"workerTags": {"a": "b"}}, "anti": [{"types": ["x"]}]}
    right = manifest("m", gpu={"models": ["A"]}, affinity=affinity)
    right["metadata"]["labels"] = {"a": "b"}
    pod = right["spec"]["template"]["spec"]
    pod["volumes"] = [{"name": "v", "secret": {"secretName": "data"}}]
    pod["containers"][0] |= {
        "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "data", "key": "k"}}}],
        "resources": {"requests": {"cpu": "1"}},
        "ports": [{"containerPort": 1}],
    }
    headers = {"Authorization": f"Bearer {rest.tokens[0]}"}
    statuses = set()
    for path in _places(right):
        for new in MUTANTS:
            answer = rest.send("POST", "/v1/workloads", json=_mutated(right, path, new), headers=headers)
            assert answer.status_code < 500, (path, new, answer.text)
            statuses.add(answer.status_code)
    assert {202, 422} <= statuses


def test_unknown_paths_and_methods_are_problems_too(rest: DoorThread) -> None:
    for method, path, status in (("GET", "/nowhere", 404), ("DELETE", "/v1/workloads", 405), ("PUT", "/docs", 405)):
        answer = rest.send(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_the_documentation_page_is_self_contained(rest: DoorThread) -> None:
    page = rest.send("GET", "/docs")
    assert page.status_code == 200
    assert "/v1/workloads:batch" in page.text
    assert "http://" not in page.text.replace("http://door", "")
    assert "https://" not in page.text
    assert "<script" not in page.text
    document = rest.send("GET", "/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert "WorkloadManifest" in document["components"]["schemas"]


def test_docs_api_md_is_up_to_date() -> None:
    text = markdown(create_app(Settings()).openapi())
    assert (ROOT / "docs" / "api.md").read_text() == text, "run: niyanta api-docs > docs/api.md"
