"""Definitions of the Pod API, as Kubernetes publishes them (`pod_template_1.37.json`), with our overlay
(`pod_template_overlay.yaml`): the base of the Workload CRD's template and of the REST door's check of it.

The JSON file is made by `make template-schema`; the overlay is edited by hand.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

Schema = dict[str, Any]

DEFINITIONS_FILE = Path(__file__).with_name("pod_template_1.37.json")
OVERLAY_FILE = Path(__file__).with_name("pod_template_overlay.yaml")
QUANTITY = "x-quantity"
"""Key of a schema that stands for a quantity."""
INT_OR_STRING = "x-kubernetes-int-or-string"


@dataclass(frozen=True, slots=True)
class PodDefinitions:
    """Schemas by name; a schema may refer to another by `$ref` with its name. Don't change them."""

    kubernetes: str
    root: str
    """Name of the definition of a pod's spec."""
    schemas: dict[str, Schema]


@cache
def pod_definitions() -> PodDefinitions:
    """The definitions with the overlay. Raises ValueError if the overlay names a field that doesn't exist."""
    published = json.loads(DEFINITIONS_FILE.read_text(encoding="utf-8"))
    overlay = yaml.safe_load(OVERLAY_FILE.read_text(encoding="utf-8"))
    schemas = published["definitions"]
    for schema in schemas.values():
        _add_defaults(schema, overlay["defaults"])
    for name, fields in overlay["definitions"].items():
        for field, changes in fields.items():
            properties = schemas.get(name, {}).get("properties", {})
            if field not in properties:
                raise ValueError(f"the overlay changes {name}.{field}, which Kubernetes doesn't have")
            _merge(properties[field], changes)
    return PodDefinitions(published["kubernetes"], published["root"], schemas)


def _add_defaults(schema: Schema, defaults: dict[str, Schema]) -> None:
    """Bounds of every list, map, text and number. An optional enum also takes "", which the Pod API replaces by its
    default."""
    kind: str = {"array": "list", "string": "string"}.get(schema.get("type", "")) or schema.get("format", "")
    if "additionalProperties" in schema:
        kind = "map"
    if "enum" not in schema:
        for bound, value in defaults.get(kind, {}).items():
            schema.setdefault(bound, value)
    for name, part in schema.get("properties", {}).items():
        if "enum" in part and name not in schema.get("required", ()) and "" not in part["enum"]:
            part["enum"] = ["", *part["enum"]]
        _add_defaults(part, defaults)
    for key in ("items", "additionalProperties"):
        if key in schema:
            _add_defaults(schema[key], defaults)


def _merge(schema: Schema, changes: Schema) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(schema.get(key), dict):
            _merge(schema[key], value)
        else:
            schema[key] = copy.deepcopy(value)


def expanded(name: str, definitions: PodDefinitions) -> Schema:
    """A definition without references, each of which is replaced by what it refers to."""
    return _expanded(definitions.schemas[name], definitions)


def _expanded(schema: Schema, definitions: PodDefinitions) -> Schema:
    if "$ref" in schema:
        target = expanded(schema["$ref"], definitions)
        return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    out = dict(schema)
    if "properties" in schema:
        out["properties"] = {name: _expanded(part, definitions) for name, part in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in schema:
            out[key] = _expanded(schema[key], definitions)
    return out
