"""The schema of PodTemplateSpec is extracted from an API server's document without what a CRD can't hold."""

from __future__ import annotations

import json
from typing import Any

import pytest

from niyanta.resources.schema.pod_definitions import DEFINITIONS_FILE
from testing.cluster.template_schema import extract, render, short_description

pytestmark = pytest.mark.unit
CORE = "io.k8s.api.core.v1"


def document() -> dict[str, Any]:
    def reference(name: str) -> dict[str, Any]:
        return {"$ref": f"#/components/schemas/{name}"}

    quantity, meta = "io.k8s.apimachinery.pkg.api.resource.Quantity", "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    return {
        "components": {
            "schemas": {
                f"{CORE}.PodSpec": {
                    "type": "object",
                    "description": "PodSpec is a description of a pod.",
                    "required": ["disk"],
                    "properties": {
                        "name": {"type": "string", "default": "", "description": "Name of it. Cannot be updated."},
                        "disk": {"allOf": [reference(f"{CORE}.Disk")], "default": {}, "description": "Its disk"},
                        "meta": {"allOf": [reference(meta)], "default": {}},
                    },
                },
                f"{CORE}.Disk": {"type": "object", "properties": {"size": reference(quantity)}},
                quantity: {"oneOf": [{"type": "string"}, {"type": "number"}]},
                meta: {"type": "object", "properties": {"name": {"type": "string"}}},
                f"{CORE}.Service": {"type": "object"},
            }
        }
    }


def test_the_definitions_below_the_root_are_extracted_by_short_names() -> None:
    found = extract(document(), "v1.2.3")
    assert found["definitions"] == {
        "Disk": {"type": "object", "properties": {"size": {"$ref": "Quantity"}}},
        "PodSpec": {
            "type": "object",
            "required": ["disk"],
            "properties": {
                "disk": {"description": "Its disk", "$ref": "Disk"},
                "meta": {"type": "object"},
                "name": {"description": "Name of it.", "type": "string"},
            },
        },
        "Quantity": {"x-quantity": True},
    }


def test_the_rendered_file_is_read_back_unchanged() -> None:
    found = extract(document(), "v1.2.3")
    assert json.loads(render(found)) == found


def test_the_file_in_the_package_is_as_the_target_writes_it() -> None:
    text = DEFINITIONS_FILE.read_text(encoding="utf-8")
    assert render(json.loads(text)) == text


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("Name of it. More info: elsewhere.", "Name of it."),
        ("A field, e.g. of version 1.2 or so. More.", "A field, e.g. of version 1.2 or so."),
        ("word " * 30, "word " * 17 + "word ..."),
        ("", ""),
    ],
)
def test_a_description_is_cut_to_its_first_sentence(text: str, short: str) -> None:
    assert short_description(text) == short
