"""The Workload CRD's template: typed throughout, of moderate size, and with our rules on the refused fields."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from niyanta.resources import quantity
from niyanta.resources.schema import crds
from niyanta.resources.schema.pod_definitions import expanded, pod_definitions
from niyanta.resources.schema.template import with_pod_api

pytestmark = pytest.mark.unit
ANNOTATION_LIMIT = 256 * 1024
"""Bytes of an object's annotations; kubectl's client-side apply writes the whole object into one."""

Schema = dict[str, Any]


def workload() -> Schema:
    return crds.definition(crds.KINDS[0])


def spec() -> Schema:
    root = workload()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    found: Schema = root["properties"]["spec"]["properties"]["template"]["properties"]["spec"]
    return found


def below(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from below(part, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from below(schema[key], f"{path}[]")


def paths(schema: Schema) -> set[str]:
    return {path for path, _ in below(schema)}


def test_the_template_has_every_field_of_the_pod_api() -> None:
    definitions = pod_definitions()
    assert paths(expanded(definitions.root, definitions)) - paths(spec()) == set()


def test_only_quantities_have_no_type() -> None:
    for path, schema in below(spec()):
        if "type" not in schema:
            typed = schema.get("x-kubernetes-int-or-string") or quantity.OPEN_SCHEMA.items() <= schema.items()
            assert typed, path


def test_the_crds_are_far_below_the_limit_of_client_side_apply() -> None:
    for kind in crds.KINDS:
        text = json.dumps(crds.definition(kind), separators=(",", ":"))
        assert len(text.encode()) < 0.7 * ANNOTATION_LIMIT, kind.plural


def test_every_list_of_every_kind_has_a_list_type() -> None:
    for kind in crds.KINDS:
        root = crds.definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for path, schema in below(root):
            if schema.get("type") == "array":
                assert schema.get("x-kubernetes-list-type") in ("atomic", "map", "set"), path


def test_lists_in_which_the_pod_api_accepts_duplicates_are_atomic() -> None:
    lists = [schema for _, schema in below(spec()) if schema.get("type") == "array"]
    assert {schema["x-kubernetes-list-type"] for schema in lists} == {"atomic"}


def test_refused_fields_have_types_alone_so_that_their_rule_is_reported() -> None:
    refused = spec()["properties"]["topologySpreadConstraints"]
    assert refused["description"].startswith("Rejected")
    item = refused["items"]["properties"]
    assert item["maxSkew"] == {"type": "integer"}
    assert "required" not in refused["items"]
    rules = [rule["rule"] for rule in spec()["x-kubernetes-validations"]]
    assert "!has(self.topologySpreadConstraints)" in rules


def test_a_model_of_another_type_than_the_pod_api_is_an_error() -> None:
    own = {"type": "object", "properties": {"containers": {"type": "string"}}}
    with pytest.raises(ValueError, match=r"spec\.containers is string in the models, and array in the Pod API"):
        with_pod_api(own)


def test_the_columns_and_the_selectable_fields_are_those_of_the_contract() -> None:
    version = workload()["spec"]["versions"][0]
    columns = {column["name"]: column.get("priority", 0) for column in version["additionalPrinterColumns"]}
    narrow = [name for name, priority in columns.items() if not priority]
    assert narrow == ["Phase", "Pods", "Customer", "Priority", "Placement", "Age", "Reason"]
    assert [name for name, priority in columns.items() if priority] == ["Score", "Message"]
    assert version["selectableFields"] == [{"jsonPath": ".status.phase"}, {"jsonPath": ".status.customer"}]
