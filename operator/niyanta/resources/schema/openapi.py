"""Pydantic's JSON schema of a model, turned into a structural OpenAPI v3 schema as a CRD needs it.

References are inlined, `anyOf [X, null]` becomes X (the field may be absent), titles and null defaults are
removed. Used by `crds`.
"""

from __future__ import annotations

from typing import Any

from niyanta.resources.models.base import PRESERVE, REFUSED, VALIDATIONS, Model

Schema = dict[str, Any]

_PLAIN = (
    *("description", "format", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern"),
    *("minItems", "maxItems", "maxProperties", "required", VALIDATIONS, PRESERVE, "x-kubernetes-int-or-string"),
    *("x-kubernetes-list-type", "x-kubernetes-list-map-keys", REFUSED),
)
_HANDLED = frozenset(
    ("title", "default", "additionalProperties", "type", "properties", "items", "anyOf", "const", "$ref", "$defs")
)


def structural(model: type[Model]) -> Schema:
    """Structural schema of `model`; raises ValueError for constructs that CRDs don't support."""
    found = model.model_json_schema(by_alias=True, mode="validation")
    return _convert(found, found.get("$defs", {}), model.__name__)


def _resolved(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """`schema` without $ref and null alternatives; keys beside them (descriptions, defaults) take precedence."""
    while True:
        if "$ref" in schema:
            target = definitions[schema["$ref"].rsplit("/", 1)[-1]]
        elif "anyOf" in schema and "x-kubernetes-int-or-string" not in schema:
            others = [option for option in schema["anyOf"] if option.get("type") != "null"]
            if len(others) != 1:
                raise ValueError(f"a union can't be part of a structural schema: {schema}")
            target = others[0]
        else:
            return schema
        schema = {**target, **{key: value for key, value in schema.items() if key not in ("$ref", "anyOf")}}


def _own(schema: Schema, where: str) -> Schema:
    """The keys of a schema except nested schemas."""
    unknown = schema.keys() - _HANDLED - set(_PLAIN) - {"exclusiveMaximum"}
    if unknown:
        raise ValueError(f"{where}: a structural schema does not support {sorted(unknown)}")
    out: Schema = {}
    if "type" in schema:
        out["type"] = schema["type"]
    if schema.get("type") == "integer":
        out["format"] = "int64"
        if "exclusiveMaximum" in schema:
            out["maximum"] = schema["exclusiveMaximum"] - 1
    if "const" in schema:
        out["enum"] = [schema["const"]]
    for key in _PLAIN:
        if schema.get(key) not in (None, []):
            out[key] = schema[key]
    if "x-kubernetes-int-or-string" in schema:
        out["anyOf"] = schema["anyOf"]
    if schema.get("default") is not None:
        out["default"] = schema["default"]
    return out


def _convert(schema: Schema, definitions: dict[str, Schema], where: str) -> Schema:
    schema = _resolved(schema, definitions)
    out = _own(schema, where)
    if "properties" in schema:
        out["properties"] = {
            name: _convert(part, definitions, f"{where}.{name}") for name, part in schema["properties"].items()
        }
    more = schema.get("additionalProperties")
    if isinstance(more, dict):
        out["additionalProperties"] = _convert(more, definitions, f"{where}.*")
    elif more is True:
        out[PRESERVE] = True
    if "items" in schema:
        out["items"] = _convert(schema["items"], definitions, f"{where}[]")
    return out
