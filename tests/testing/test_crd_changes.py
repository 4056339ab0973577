"""The comparison of definitions finds every kind of change that breaks objects of the older release."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from testing.checks.crd_changes import breaking_changes

pytestmark = pytest.mark.unit

Change = Callable[[dict[str, Any]], Any]

PROPERTIES: dict[str, Any] = {
    "count": {"type": "integer", "minimum": 1, "maximum": 10, "default": 2},
    "name": {"type": "string", "maxLength": 10, "enum": ["a", "b"]},
    "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    "labels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 5}},
    "items": {
        "type": "array",
        "maxItems": 4,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["index"],
        "items": {"type": "object", "required": ["index"], "properties": {"index": {"type": "integer"}}},
    },
}


def definition() -> dict[str, Any]:
    spec = {
        "type": "object",
        "required": ["count"],
        "properties": copy.deepcopy(PROPERTIES),
        "x-kubernetes-validations": [{"rule": "self.count > 0", "message": "count"}],
    }
    version = {
        "name": "v1alpha1",
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "selectableFields": [{"jsonPath": ".status.phase"}],
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}},
    }
    names = {"kind": "Thing", "plural": "things", "shortNames": ["th"]}
    return {"spec": {"group": "niyanta.io", "scope": "Namespaced", "names": names, "versions": [version]}}


BREAKING: list[tuple[str, Change]] = [
    ("spec.count: is gone", lambda s: s["properties"].pop("count")),
    ("spec.items[].index: is gone", lambda s: s["properties"]["items"]["items"]["properties"].pop("index")),
    ("spec.count: type was", lambda s: s["properties"]["count"].update(type="string")),
    ("spec.count: default was 2, is None", lambda s: s["properties"]["count"].pop("default")),
    ("spec.count: maximum was 10, is 9", lambda s: s["properties"]["count"].update(maximum=9)),
    ("spec.count: minimum was 1, is 2", lambda s: s["properties"]["count"].update(minimum=2)),
    ("spec.name: minLength was None, is 1", lambda s: s["properties"]["name"].update(minLength=1)),
    ("spec.name: pattern was None", lambda s: s["properties"]["name"].update(pattern="^a$")),
    ("spec.name: b is no longer allowed", lambda s: s["properties"]["name"].update(enum=["a", "c"])),
    ("spec.count: any value is no longer allowed", lambda s: s["properties"]["count"].update(enum=[1])),
    ("spec: name is newly required", lambda s: s["required"].append("name")),
    (
        "spec.items: x-kubernetes-list-type was",
        lambda s: s["properties"]["items"].update({"x-kubernetes-list-type": "set"}),
    ),
    (
        "spec.items: x-kubernetes-list-map-keys was",
        lambda s: s["properties"]["items"].update({"x-kubernetes-list-map-keys": ["index", "name"]}),
    ),
    ("spec.items: maxItems was 4, is 3", lambda s: s["properties"]["items"].update(maxItems=3)),
    (
        "spec.open: x-kubernetes-preserve-unknown-fields is gone",
        lambda s: s["properties"].update(open={"type": "object"}),
    ),
    (
        "spec.labels{}: maxLength was 5, is 4",
        lambda s: s["properties"]["labels"]["additionalProperties"].update(maxLength=4),
    ),
    ("spec.labels: additionalProperties changed", lambda s: s["properties"]["labels"].pop("additionalProperties")),
    ("spec: new rule self.count > 1", lambda s: s["x-kubernetes-validations"].append({"rule": "self.count > 1"})),
    ("spec: new rule has(self.new)", lambda s: s["x-kubernetes-validations"].append({"rule": "has(self.new)"})),
    (
        "spec: new rule self == oldSelf",
        lambda s: s["x-kubernetes-validations"].append({"rule": "self == oldSelf || self.new == oldSelf.new"}),
    ),
]


@pytest.mark.parametrize(("line", "change"), BREAKING, ids=[line for line, _ in BREAKING])
def test_a_change_that_breaks_objects_is_found(line: str, change: Change) -> None:
    new = definition()
    change(new["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"])
    found = breaking_changes(definition(), new)
    assert len(found) == 1
    assert found[0].startswith(line)


@pytest.mark.parametrize(
    ("line", "change"),
    [
        ("scope: Namespaced became Cluster", lambda s: s.update(scope="Cluster")),
        ("names.kind: Thing became Other", lambda s: s["names"].update(kind="Other")),
        ("names.shortNames: th is gone", lambda s: s["names"].update(shortNames=["t"])),
        ("version v1alpha1 is gone", lambda s: s["versions"][0].update(served=False)),
        ("subresource status changed", lambda s: s["versions"][0].update(subresources={})),
        ("selectable field .status.phase is gone", lambda s: s["versions"][0].update(selectableFields=[])),
    ],
)
def test_a_change_that_breaks_clients_is_found(line: str, change: Change) -> None:
    new = definition()
    change(new["spec"])
    assert breaking_changes(definition(), new) == [line]


def test_new_fields_wider_bounds_and_other_texts_break_nothing() -> None:
    new = definition()
    spec = new["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["new"] = {"type": "array", "maxItems": 1, "x-kubernetes-list-type": "set", "items": {}}
    spec["properties"]["count"] |= {"maximum": 20, "minimum": 0, "description": "another text"}
    spec["properties"]["name"]["enum"].append("c")
    del spec["properties"]["items"]["maxItems"]
    spec["required"] = []
    spec["x-kubernetes-validations"] = [{"rule": "has(self.new) == has(oldSelf.new)"}]
    assert breaking_changes(definition(), new) == []
