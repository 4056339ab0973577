"""Extracts the schema of PodTemplateSpec from a running API server into the package: `make template-schema`.

The file has the definitions that PodTemplateSpec refers to, without what a CRD can't hold or doesn't need: long
descriptions, strategies of patches, defaults (the API server sets them on the pods), and the metadata of objects, which
`niyanta.resources` models itself.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from niyanta.resources.schema.pod_definitions import DEFINITIONS_FILE
from testing.cluster.cluster import Cluster

ROOT = "io.k8s.api.core.v1.PodSpec"
OBJECT_META = "ObjectMeta"
LONGEST_DESCRIPTION = 90
_KEPT = ("type", "format", "enum", "required")
_QUANTITY = {"x-quantity": True}
_INT_OR_STRING = {"x-kubernetes-int-or-string": True}
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs)|\d)$")


def extract(document: Mapping[str, Any], version: str) -> dict[str, Any]:
    """The definitions below PodSpec in an OpenAPI v3 document of the core API, by short name."""
    schemas = document["components"]["schemas"]
    found: dict[str, Any] = {}
    waiting = [ROOT]
    while waiting:
        name = waiting.pop()
        if _short(name) not in found:
            found[_short(name)] = _definition(_short(name), schemas[name])
            waiting += [other for other in _references(schemas[name]) if _short(other) != OBJECT_META]
    return {"kubernetes": version, "root": _short(ROOT), "definitions": dict(sorted(found.items()))}


def _short(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str):
            yield reference.rsplit("/", 1)[-1]
        for part in value.values():
            yield from _references(part)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part)


def _definition(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    if name == "Quantity":
        return dict(_QUANTITY)
    if name == "IntOrString":
        return dict(_INT_OR_STRING)
    return _compact({key: value for key, value in schema.items() if key != "description"})


def _compact(schema: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if "description" in schema and (text := short_description(schema["description"])):
        out["description"] = text
    out |= {key: schema[key] for key in _KEPT if key in schema}
    for part in (schema, *schema.get("allOf", ())):
        if "$ref" in part:
            name = _short(part["$ref"])
            out |= {"type": "object"} if name == OBJECT_META else {"$ref": name}
    if "properties" in schema:
        out["properties"] = {name: _compact(part) for name, part in sorted(schema["properties"].items())}
    for key in ("items", "additionalProperties"):
        if key in schema:
            out[key] = _compact(schema[key])
    return out


def short_description(text: str) -> str:
    """The first sentence, or its beginning of whole words."""
    words = " ".join(text.split()).split(" ")
    found = ""
    for word in words:
        if len(found) + len(word) + 1 > LONGEST_DESCRIPTION:
            return found.rstrip(",;:(") + " ..."
        found = f"{found} {word}".lstrip()
        if word.endswith(".") and not _ABBREVIATION.search(word[:-1]):
            return found
    return found


def render(extracted: Mapping[str, Any]) -> str:
    """The file's text: one line per property, so that differences between versions can be read."""
    lines = []
    for name, definition in extracted["definitions"].items():
        properties = definition.get("properties")
        if not properties:
            lines.append(f"  {json.dumps(name)}: {_line(definition)}")
            continue
        head = _line({key: value for key, value in definition.items() if key != "properties"})
        body = ",\n".join(f"    {json.dumps(key)}: {_line(value)}" for key, value in properties.items())
        lines.append(f'  {json.dumps(name)}: {head[:-1]}, "properties": {{\n{body}\n  }}}}')
    head = "".join(f" {json.dumps(key)}: {json.dumps(extracted[key])},\n" for key in ("kubernetes", "root"))
    return f'{{\n{head} "definitions": {{\n' + ",\n".join(lines) + "\n }\n}\n"


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the schema of pod templates from a Kubernetes API server.")
    parser.add_argument("--out", type=Path, default=DEFINITIONS_FILE, help="file to write")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the file differs; write nothing")
    options = parser.parse_args()
    with Cluster.create("schema") as cluster:
        version = cluster.api.get("/version")["gitVersion"]
        text = render(extract(cluster.api.get("/openapi/v3/api/v1"), version))
    if options.check:
        return int(not options.out.is_file() or options.out.read_text(encoding="utf-8") != text)
    options.out.write_text(text, encoding="utf-8")
    print(f"{options.out}: {len(text)} bytes, Kubernetes {version}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
