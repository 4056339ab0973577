"""The models refuse what the API server refuses, with the same field, and take what it takes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from niyanta.resources.compile.pod_resources import NamespaceDefaults
from niyanta.resources.compile.requirements import compile_workload, parse_spec, parse_workload
from niyanta.resources.models.base import InvalidManifestError, parse, update_refusals
from tests.resources.wrong_manifests import (
    BASES,
    CHANGES_ALLOWED,
    CHANGES_REFUSED,
    MODELS,
    RIGHT,
    TEMPLATE_BEFORE,
    TEMPLATE_CHANGES,
    UNSEEN,
    WRONG,
    Case,
    template_after,
)

pytestmark = pytest.mark.unit


def compile_manifest(manifest: dict[str, Any]) -> None:
    spec = parse_workload(manifest).spec
    compile_workload(spec, namespace="default", customer="acme", labels={}, defaults=NamespaceDefaults())


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_a_wrong_manifest_is_refused_with_its_field(case: Case) -> None:
    with pytest.raises(InvalidManifestError) as refusal:
        parse(MODELS[case.kind], case.manifest)
    assert case.field in str(refusal.value)


@pytest.mark.parametrize("case", RIGHT, ids=str)
def test_a_right_manifest_is_taken(case: Case) -> None:
    parse(MODELS[case.kind], case.manifest)
    if case.kind == "Workload":
        compile_manifest(case.manifest)


@pytest.mark.parametrize("case", UNSEEN, ids=str)
def test_what_cel_cannot_see_is_refused_when_compiled(case: Case) -> None:
    with pytest.raises(InvalidManifestError) as refusal:
        compile_manifest(case.manifest)
    assert refusal.value.field.startswith(case.field)


@pytest.mark.parametrize("name", [*CHANGES_ALLOWED, *CHANGES_REFUSED])
def test_only_some_fields_may_change_after_creation(name: str) -> None:
    before = BASES["Workload"]["spec"]
    value = {**CHANGES_ALLOWED, **CHANGES_REFUSED}[name]
    refused = list(update_refusals(parse_spec(before), parse_spec({**before, name: value})))
    assert [r.field for r in refused] == ([f"spec.{name}"] if name in CHANGES_REFUSED else [])


def test_an_unchanged_spec_is_no_change() -> None:
    before = BASES["Workload"]["spec"]
    assert not list(update_refusals(parse_spec(before), parse_spec(copy.deepcopy(before))))


@pytest.mark.parametrize("change", TEMPLATE_CHANGES)
def test_nothing_in_the_template_may_change(change: str) -> None:
    old, new = (parse_spec({"template": {"spec": pod}}) for pod in (TEMPLATE_BEFORE, template_after(change)))
    assert [r.field for r in update_refusals(old, new)] == ["spec.template"]


def test_a_model_gives_its_manifest_back_as_it_was() -> None:
    for case in RIGHT:
        dumped = parse(MODELS[case.kind], case.manifest).manifest()["spec"]
        assert dumped == _without_nulls(case.manifest["spec"])


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value
