"""The template of the Workload CRD: the definitions of the Pod API, with our models' fields in place of theirs.

Where a model keeps unknown fields, the Pod API's other fields are added; where it doesn't, the model has them all.
"""

from __future__ import annotations

from typing import Any

from niyanta.resources import quantity
from niyanta.resources.models.base import PRESERVE, REFUSED
from niyanta.resources.schema.openapi import Schema
from niyanta.resources.schema.pod_definitions import INT_OR_STRING, QUANTITY, expanded, pod_definitions

_NESTED = ("properties", "items", "additionalProperties")


def with_pod_api(own: Schema) -> Schema:
    """The structural schema of a pod's spec: `own` (of the models) within the Pod API's."""
    definitions = pod_definitions()
    return _merged(expanded(definitions.root, definitions), own, "spec")


def _merged(api: Schema, own: Schema, where: str) -> Schema:
    if own.get("type") != api.get("type") and QUANTITY not in api:
        raise ValueError(f"{where} is {own.get('type')} in the models, and {api.get('type')} in the Pod API")
    if REFUSED in own:
        return {**types_alone(api), **{key: value for key, value in own.items() if key not in (REFUSED, "items")}}
    out = {key: value for key, value in own.items() if key not in _NESTED}
    is_open = own.get("type") == "object" and out.pop(PRESERVE, False)
    if "properties" in own:
        theirs = api["properties"] if is_open else {}
        parts = {name: _published(part) for name, part in theirs.items() if name not in own["properties"]}
        for name, part in own["properties"].items():
            known = api.get("properties", {}).get(name)
            if known is None:
                raise ValueError(f"{where}.{name} is in the models, and not in the Pod API")
            parts[name] = _merged(known, part, f"{where}.{name}")
        out["properties"] = dict(sorted(parts.items()))
    for key in ("items", "additionalProperties"):
        if key in own:
            out[key] = _merged(api[key], own[key], f"{where}[]")
    return out


def _published(api: Schema) -> Schema:
    """A part of the Pod API as a structural schema."""
    if QUANTITY in api:
        return {**_described(api), **quantity.OPEN_SCHEMA}
    return _each_part(api, _published)


def types_alone(api: Schema) -> Schema:
    """The types of a part of the Pod API, for fields that a rule refuses: the API server evaluates no rule as long as
    another check of the schema fails."""
    if QUANTITY in api:
        return {INT_OR_STRING: True}
    kept = {key: value for key, value in api.items() if key in ("type", INT_OR_STRING, *_NESTED)}
    return _each_part(kept, types_alone)


def _described(api: Schema) -> Schema:
    return {"description": api["description"]} if "description" in api else {}


def _each_part(api: Schema, change: Any) -> Schema:
    out = dict(api)
    if "properties" in api:
        out["properties"] = {name: change(part) for name, part in api["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in api:
            out[key] = change(api[key])
    return out
