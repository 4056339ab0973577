"""JSON schemas for kubeconform from the /openapi/v2 of an API server: of its exact version, without a download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

JSON = dict[str, Any]

LOCATION = "{{ .ResourceKind }}-{{ .ResourceAPIVersion }}{{ .KindSuffix }}.json"
"""Template of kubeconform for the file name of a schema. KindSuffix has the first part of the group, if any."""

_DEFINITIONS = "definitions.json"
_INT_OR_STRING: JSON = {"anyOf": [{"type": "string"}, {"type": "integer"}]}
_QUANTITY: JSON = {"anyOf": [{"type": "string"}, {"type": "number"}]}


def write_schemas(openapi: JSON, folder: Path) -> int:
    """Writes a closed schema (unknown fields are errors) for every kind in `openapi`; returns their number."""
    definitions = {name: _closed(definition) for name, definition in openapi["definitions"].items()}
    for name in definitions:
        if name.endswith("api.resource.Quantity"):
            definitions[name] = _QUANTITY
    (folder / _DEFINITIONS).write_text(json.dumps({"definitions": definitions}))
    written = 0
    for name, definition in openapi["definitions"].items():
        for identity in definition.get("x-kubernetes-group-version-kind", []):
            schema = {"$ref": f"{_DEFINITIONS}#/definitions/{name}", "required": ["apiVersion", "kind"]}
            (folder / _file_name(identity)).write_text(json.dumps({"allOf": [schema]}))
            written += 1
    return written


def _file_name(identity: JSON) -> str:
    group = identity["group"].split(".")[0]
    version = identity["version"]
    suffix = f"-{group}-{version}" if group else f"-{version}"
    return f"{identity['kind'].lower()}-{version}{suffix}.json"


def _closed(node: Any) -> Any:
    if isinstance(node, list):
        return [_closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("format") == "int-or-string":
        return _INT_OR_STRING
    schema = {key: _closed(value) for key, value in node.items()}
    if isinstance(reference := schema.get("$ref"), str):
        schema["$ref"] = reference.replace("#/definitions/", f"{_DEFINITIONS}#/definitions/")
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        schema["additionalProperties"] = False
    return schema
