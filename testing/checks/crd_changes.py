"""Comparison of two releases' CustomResourceDefinitions: changes that objects or clients of the older one can't bear.

Within a version fields are only added: no field goes, no type, list type or map key changes, nothing is newly required,
no bound is tightened, and no default changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_SAME = (
    *("type", "format", "pattern", "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type"),
    *("x-kubernetes-int-or-string", "x-kubernetes-embedded-resource", "anyOf", "oneOf", "allOf", "not", "default"),
    *("multipleOf", "uniqueItems"),
)
"""Keywords whose values must be equal, absent ones included."""

_MOST = ("maximum", "maxLength", "maxItems", "maxProperties")
_LEAST = ("minimum", "minLength", "minItems", "minProperties")
_LOOSENED = ("nullable", "x-kubernetes-preserve-unknown-fields")
"""Keywords that may be set, but not taken away."""


def breaking_changes(old: Schema, new: Schema) -> list[str]:
    """One line for each change between two definitions of a kind that breaks objects or clients of `old`."""
    return [*_definition(old["spec"], new["spec"])]


def _definition(old: Schema, new: Schema) -> Iterator[str]:
    for key in ("group", "scope"):
        if old[key] != new[key]:
            yield f"{key}: {old[key]} became {new[key]}"
    for key in ("kind", "listKind", "plural", "singular"):
        if old["names"].get(key) != new["names"].get(key):
            yield f"names.{key}: {old['names'].get(key)} became {new['names'].get(key)}"
    for key in ("shortNames", "categories"):
        for gone in sorted(set(old["names"].get(key, ())) - set(new["names"].get(key, ()))):
            yield f"names.{key}: {gone} is gone"
    versions = {version["name"]: version for version in new["versions"]}
    for version in old["versions"]:
        yield from _version(version, versions.get(version["name"]))


def _version(old: Schema, new: Schema | None) -> Iterator[str]:
    if new is None or (old["served"] and not new["served"]):
        yield f"version {old['name']} is gone"
        return
    for name, value in (old.get("subresources") or {}).items():
        if (new.get("subresources") or {}).get(name) != value:
            yield f"subresource {name} changed"
    selectable = {item["jsonPath"] for item in new.get("selectableFields", ())}
    for item in old.get("selectableFields", ()):
        if item["jsonPath"] not in selectable:
            yield f"selectable field {item['jsonPath']} is gone"
    yield from _schema(old["schema"]["openAPIV3Schema"], new["schema"]["openAPIV3Schema"], "")


def _schema(old: Schema, new: Schema, path: str) -> Iterator[str]:
    at = path or "(root)"
    for key in _SAME:
        if old.get(key) != new.get(key):
            yield f"{at}: {key} was {old.get(key)!r}, is {new.get(key)!r}"
    for key in _MOST:
        if key in new and (key not in old or new[key] < old[key]):
            yield f"{at}: {key} was {old.get(key)}, is {new[key]}"
    for key in _LEAST:
        if key in new and new[key] > old.get(key, 0 if key != "minimum" else float("-inf")):
            yield f"{at}: {key} was {old.get(key)}, is {new[key]}"
    for key in _LOOSENED:
        if old.get(key) and not new.get(key):
            yield f"{at}: {key} is gone"
    for name in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
        yield f"{at}: {name} is newly required"
    if "enum" in new:
        gone = [value for value in old.get("enum", ("any value",)) if value not in new["enum"]]
        yield from (f"{at}: {value} is no longer allowed" for value in gone)
    known = {rule["rule"] for rule in old.get("x-kubernetes-validations", ())}
    for rule in new.get("x-kubernetes-validations", ()):
        if rule["rule"] not in known and not _is_about_new_fields(rule["rule"], old):
            yield f"{at}: new rule {rule['rule']}"
    yield from _children(old, new, path)


def _is_about_new_fields(rule: str, old: Schema) -> bool:
    """True for a rule of changes that mentions only fields which `old` doesn't have: such a change was impossible."""
    mentions = re.findall(r"\b(?:self|oldSelf)\b(?:\.(\w+))?", rule)
    return "oldSelf" in rule and all(name and name not in old.get("properties", {}) for name in mentions)


def _children(old: Schema, new: Schema, path: str) -> Iterator[str]:
    properties = new.get("properties", {})
    for name, schema in old.get("properties", {}).items():
        child = f"{path}.{name}".lstrip(".")
        if name not in properties:
            yield f"{child}: is gone"
        else:
            yield from _schema(schema, properties[name], child)
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _schema(before, after, path + mark)
        elif before != after:
            yield f"{path}: {key} changed"
