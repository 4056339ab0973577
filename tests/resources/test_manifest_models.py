"""The models accept and reject the same manifests as the API server, with the same field in the error."""

from __future__ import annotations

from typing import Any

import pytest

from niyanta.resources.compile.pod_resources import NamespaceDefaults
from niyanta.resources.compile.requirements import compile_workload, parse_workload
from niyanta.resources.models.base import InvalidManifestError, parse
from niyanta.resources.models.workload import WorkloadSpec
from tests.resources.manifest_bases import MODELS
from tests.resources.manifest_updates import CHANGES_ALLOWED, CHANGES_REFUSED
from tests.resources.right_manifests import RIGHT
from tests.resources.wrong_manifests import UNSEEN, WRONG, Case

pytestmark = pytest.mark.unit


def compile_manifest(manifest: dict[str, Any]) -> None:
    spec = parse_workload(manifest).spec
    compile_workload(spec, namespace="default", customer="acme", labels={}, defaults=NamespaceDefaults())


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_a_wrong_manifest_is_rejected_with_its_field(case: Case) -> None:
    with pytest.raises(InvalidManifestError) as error:
        parse(MODELS[case.kind], case.manifest)
    assert case.field in str(error.value)


@pytest.mark.parametrize("case", RIGHT, ids=str)
def test_a_right_manifest_is_accepted(case: Case) -> None:
    parse(MODELS[case.kind], case.manifest)
    if case.kind == "Workload":
        compile_manifest(case.manifest)


@pytest.mark.parametrize("case", UNSEEN, ids=str)
def test_errors_beyond_cel_are_rejected_when_compiled(case: Case) -> None:
    with pytest.raises(InvalidManifestError) as error:
        compile_manifest(case.manifest)
    assert error.value.field.startswith(case.field)


def test_every_field_of_the_spec_is_frozen_or_may_change() -> None:
    fields = {field.alias for field in WorkloadSpec.model_fields.values()}
    assert {rule.field for rule in WorkloadSpec.transitions} == {f".{name}" for name in CHANGES_REFUSED}
    assert fields == CHANGES_ALLOWED.keys() | CHANGES_REFUSED.keys()


def test_a_model_returns_its_manifest_unchanged() -> None:
    for case in RIGHT:
        dumped = parse(MODELS[case.kind], case.manifest).manifest()["spec"]
        assert dumped == _without_nulls(case.manifest["spec"])


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value
