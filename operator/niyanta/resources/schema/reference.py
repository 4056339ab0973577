"""The field reference `docs/resources.md`, generated from the same schemas as the CRDs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from niyanta.resources.models.base import VALIDATIONS
from niyanta.resources.schema.crds import KINDS, definition
from niyanta.resources.schema.openapi import Schema

_HEADER = """# Resources

<!-- Generated from operator/niyanta/resources; edit the models, not this file. -->

Group `niyanta.io`, version `v1alpha1`. `kubectl explain workloads.niyanta.io.spec` shows the same, and also the fields
of the pod template that aren't listed here: those of the Pod API of Kubernetes 1.37, which are passed on to the pods.

The API server checks fields, types and rules, even when the operator is not running, and the REST door checks the same.
Other errors are found when a workload enters the queue, and shown in its status: templates or affinities over 64 KiB,
more than 128 labels of the Workload, NUL characters, requests above their limits (or below them, for resources that
can't be overcommitted), a GPU count that differs from the template's, host ports that differ from containerPort with
hostNetwork, overhead and nodeSelector that differ from the RuntimeClass.
"""

_TABLE = "| field | type | default | bounds | meaning |\n| --- | --- | --- | --- | --- |"


def _type(schema: Schema) -> str:
    if "x-kubernetes-int-or-string" in schema:
        return "quantity"
    if "enum" in schema:
        return " \\| ".join(str(value) or '""' for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"map of {_type(schema['additionalProperties'])}"
    return str(schema.get("type", "quantity"))


def _bounds(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    parts = []
    if low is not None or high is not None:
        parts.append(f"{'' if low is None else low} to {'any' if high is None else high}")
    for key, text in (("maxItems", "at most {} items"), ("maxProperties", "at most {} keys"), ("maxLength", "{} long")):
        if key in schema:
            parts.append(text.format(schema[key]))
    return ", ".join(parts)


def _rows(schema: Schema, path: str) -> Iterator[str]:
    for name, part in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        required = name in schema.get("required", ())
        default = "required" if required else f"`{part['default']}`" if "default" in part else ""
        description = " ".join(part.get("description", "").split())
        yield f"| `{here}` | {_type(part)} | {default} | {_bounds(part)} | {description} |"
        below, suffix = part, ""
        while below.get("type") == "array":
            below, suffix = below["items"], suffix + "[]"
        yield from _rows(below, here + suffix)


def _rules(schema: Schema) -> Iterator[str]:
    for rule in schema.get(VALIDATIONS, ()):
        yield rule["message"]
    children: list[Any] = list(schema.get("properties", {}).values())
    children += [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
    for child in children:
        yield from _rules(child)


def render_reference() -> str:
    """The text of docs/resources.md."""
    out = [_HEADER]
    for kind in KINDS:
        made = definition(kind, modelled=True)
        names = made["spec"]["names"]
        root = made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        out.append(f"## {names['kind']} (`{kind.plural}.niyanta.io`, `{kind.short}`)\n\n{root['description']}\n")
        for part in ("spec", "status"):
            out.append(f"### {names['kind']}: {part}\n\n{_TABLE}")
            out.append("\n".join(_rows(root["properties"][part], part)) + "\n")
        rules = dict.fromkeys(_rules(root))
        out.append(f"### {names['kind']}: rules\n\n" + "\n".join(f"- {message}" for message in rules) + "\n")
    return "\n".join(out)
