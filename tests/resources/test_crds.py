"""The generated CRDs equal the files in the repository, are deterministic, and have bounds everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from niyanta.resources.schema import crds
from niyanta.resources.schema.reference import render_reference

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]


def schemas(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, schema) of each field, without the fields of those that are rejected."""
    yield path, schema
    if schema.get("description", "").startswith("Rejected"):
        return
    for name, part in schema.get("properties", {}).items():
        yield from schemas(part, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from schemas(schema[key], f"{path}[]")


def roots() -> Iterator[tuple[str, dict[str, Any]]]:
    for kind in crds.KINDS:
        yield kind.plural, crds.definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def test_the_files_in_the_repository_equal_the_generated_ones() -> None:
    assert crds.drift(ROOT / "crds") == []
    assert (ROOT / "docs/resources.md").read_text(encoding="utf-8") == render_reference()


def test_drift_finds_changed_missing_and_left_over_files(tmp_path: Path) -> None:
    crds.write(tmp_path)
    assert crds.drift(tmp_path) == []
    (tmp_path / "customers.niyanta.io.yaml").write_text("changed")
    (tmp_path / "workloads.niyanta.io.yaml").unlink()
    (tmp_path / "old.niyanta.io.yaml").write_text("")
    found = {Path(path).name for path in crds.drift(tmp_path)}
    assert found == {"customers.niyanta.io.yaml", "workloads.niyanta.io.yaml", "old.niyanta.io.yaml"}


def test_every_list_map_and_text_of_a_spec_is_bounded() -> None:
    for name, root in roots():
        for path, schema in schemas(root["properties"]["spec"], "spec"):
            kind = schema.get("type")
            if schema.get("description", "").startswith("Rejected"):
                continue
            if kind == "array":
                assert "maxItems" in schema, (name, path)
            elif kind == "object" and "additionalProperties" in schema:
                assert "maxProperties" in schema, (name, path)
            elif kind == "string" and "enum" not in schema and "annotations" not in path:
                assert "maxLength" in schema or path.endswith("creationTimestamp"), (name, path)


def test_every_field_is_described() -> None:
    for name, root in roots():
        for part in ("spec", "status"):
            for path, schema in schemas(root["properties"][part], part):
                if not path.endswith("[]"):
                    assert schema.get("description"), (name, path)


def test_schemas_are_structural() -> None:
    """No references, no unions except int-or-string, and a type wherever unknown fields are not preserved."""
    for name, root in roots():
        for path, schema in schemas(root, ""):
            assert "$ref" not in schema, (name, path)
            assert "anyOf" not in schema or schema.get("x-kubernetes-int-or-string"), (name, path)
            kept = schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("x-kubernetes-int-or-string")
            assert "type" in schema or kept, (name, path)


def test_the_chart_has_the_same_crds_behind_its_switches() -> None:
    files = crds.render()
    for name, text in crds.render_chart().items():
        assert text.count("{{- if") == 2
        assert text.count("{{- end }}") == 2
        lines = [line for line in text.splitlines() if "{{-" not in line and "helm.sh" not in line]
        lines = [line for line in lines if line != "  annotations:"]
        templated, plain = ("\n".join(lines).replace('{{ "{{" }}', "{{"), files[name])
        assert yaml.load(templated, yaml.CSafeLoader) == yaml.load(plain, yaml.CSafeLoader)
