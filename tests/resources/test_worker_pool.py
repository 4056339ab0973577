"""The schema of WorkerPools: integers only, durations in seconds, and drains that evict only if asked to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from niyanta.resources.models.worker_pool import Scaling
from niyanta.resources.schema.crds import render

pytestmark = pytest.mark.unit


def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, schema) of every field below a schema."""
    for name, below in (schema.get("properties") or {}).items():
        yield f"{path}.{name}", below
        yield from fields(below, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from fields(schema[key], f"{path}[]")


@pytest.fixture(scope="module")
def schema() -> dict[str, dict[str, Any]]:
    """Path -> schema of each field of a WorkerPool."""
    (text,) = (text for name, text in render().items() if name.startswith("workerpools"))
    version = yaml.safe_load(text)["spec"]["versions"][0]
    return dict(fields(version["schema"]["openAPIV3Schema"]))


def test_no_field_is_a_float(schema: dict[str, dict[str, Any]]) -> None:
    assert [path for path, field in schema.items() if field.get("type") == "number"] == []
    assert schema[".status.utilization.cpu"]["type"] == "integer"


def test_durations_are_integers_named_seconds(schema: dict[str, dict[str, Any]]) -> None:
    durations = {path for path in schema if path.startswith(".spec.scaling.")}
    assert durations
    assert all(path.endswith("Seconds") and schema[path]["type"] == "integer" for path in durations)


def test_a_drain_has_no_timeout_by_default(schema: dict[str, dict[str, Any]]) -> None:
    assert "default" not in schema[".spec.scaling.drainTimeoutSeconds"]
    assert Scaling().drain_timeout_seconds is None


def test_customers_are_named_as_everywhere(schema: dict[str, dict[str, Any]]) -> None:
    names = schema[".spec.customers"]["items"]
    assert (names["maxLength"], names["pattern"]) == (63, "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
