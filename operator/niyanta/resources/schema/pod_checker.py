"""Checks a pod's spec against the definitions of the Pod API, as the API server checks it by the CRD's schema: unknown
fields, types, bounds and enums, each error with its path.

The definitions are compiled once, into a validator of pydantic-core. It never changes or copies the spec.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic_core import CoreSchema, PydanticCustomError, SchemaValidator, ValidationError, core_schema

from niyanta.resources import quantity
from niyanta.resources.models.base import InvalidManifestError, manifest_errors
from niyanta.resources.schema.pod_definitions import INT_OR_STRING, QUANTITY, PodDefinitions, Schema, pod_definitions


def first_error(spec: Any) -> InvalidManifestError | None:
    """The first error of a pod's spec, its path relative to the spec; None for a valid one."""
    try:
        _validator().validate_python(spec)
    except ValidationError as error:
        return manifest_errors(error)[0]
    return None


@cache
def _validator() -> SchemaValidator:
    definitions = pod_definitions()
    return SchemaValidator(
        core_schema.definitions_schema(
            core_schema.definition_reference_schema(definitions.root), list(_compiled(definitions))
        )
    )


def _compiled(definitions: PodDefinitions) -> list[CoreSchema]:
    return [{**_node(schema), "ref": name} for name, schema in definitions.schemas.items()]


def _node(schema: Schema) -> CoreSchema:
    if "$ref" in schema:
        return core_schema.definition_reference_schema(schema["$ref"])
    if schema.get(QUANTITY):
        return core_schema.no_info_plain_validator_function(_quantity)
    if schema.get(INT_OR_STRING):
        return core_schema.no_info_plain_validator_function(_int_or_string)
    return _BY_TYPE[schema["type"]](schema)


def _object(schema: Schema) -> CoreSchema:
    if "additionalProperties" in schema:
        # The API server prunes null entries.
        values = core_schema.nullable_schema(_node(schema["additionalProperties"]))
        return core_schema.dict_schema(
            core_schema.str_schema(strict=True), values, max_length=schema.get("maxProperties"), strict=True
        )
    if "properties" not in schema:
        return core_schema.dict_schema(strict=True)
    required = schema.get("required", ())
    fields = {
        name: core_schema.typed_dict_field(
            _node(part) if name in required else core_schema.nullable_schema(_node(part)), required=name in required
        )
        for name, part in schema["properties"].items()
    }
    return core_schema.typed_dict_schema(fields, extra_behavior="forbid", strict=True)


def _array(schema: Schema) -> CoreSchema:
    return core_schema.list_schema(_node(schema["items"]), max_length=schema.get("maxItems"), strict=True)


def _string(schema: Schema) -> CoreSchema:
    if "enum" in schema:
        return core_schema.literal_schema(schema["enum"])
    return core_schema.str_schema(
        pattern=schema.get("pattern"),
        min_length=schema.get("minLength"),
        max_length=schema.get("maxLength"),
        strict=True,
    )


def _integer(schema: Schema) -> CoreSchema:
    low, high = schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1)
    return core_schema.no_info_before_validator_function(_whole, core_schema.int_schema(ge=low, le=high, strict=True))


def _whole(value: Any) -> Any:
    """A float such as 20.0 as an integer, as the API server reads it."""
    return int(value) if type(value) is float and value.is_integer() and abs(value) < 2**63 else value


def _boolean(_: Schema) -> CoreSchema:
    return core_schema.bool_schema(strict=True)


_BY_TYPE = {"object": _object, "array": _array, "string": _string, "integer": _integer, "boolean": _boolean}


def _quantity(value: Any) -> Any:
    if not quantity.valid(value):
        raise PydanticCustomError("quantity", 'must be a non-negative quantity, such as 2, "500m" or "1Gi"')
    return value


def _int_or_string(value: Any) -> Any:
    whole = _whole(value)
    if isinstance(whole, bool) or not (isinstance(whole, str) or (isinstance(whole, int) and abs(whole) < 2**63)):
        raise PydanticCustomError("int_or_string", "must be an integer or a string")
    return value
