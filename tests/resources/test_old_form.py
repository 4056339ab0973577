"""Workloads of earlier releases become manifests with the present names."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from niyanta.resources.old_form import LAST_APPLIED, lost_fields, new_manifest, new_spec, old_fields, old_managed_fields
from tests.resources.old_specs import SPECS, TEMPLATE

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("old", "new", "paths"), SPECS)
def test_fields_with_other_names_move_and_all_others_stay(
    old: dict[str, Any], new: dict[str, Any], paths: list[str]
) -> None:
    given = copy.deepcopy(old)
    assert old_fields(old) == paths
    assert new_spec(old) == new
    assert new_spec(new) == new
    assert old_fields(new) == []
    assert old == given, "the argument was changed"


def test_managed_fields_tell_what_the_present_definition_has_dropped() -> None:
    hard = {"f:gpu": {"f:count": {}}, "f:workerIds": {}}
    spec = {"f:maxRetries": {}, "f:priority": {}, "f:affinity": {"f:hard": hard}}
    managed = [
        {"manager": "kubectl", "fieldsV1": {"f:spec": spec}},
        {"manager": "other", "fieldsV1": {"f:spec": {"f:maxRetries": {}}}},
        {"manager": "niyanta", "subresource": "status", "fieldsV1": {"f:status": {"f:workers": {}}}},
        {"manager": "broken"},
    ]
    assert old_managed_fields(managed) == ["spec.maxRetries", "spec.affinity.hard.gpu", "spec.affinity.hard.workerIds"]
    assert old_managed_fields([{"fieldsV1": {"f:spec": {"f:backoffLimit": {}}}}]) == []
    assert lost_fields({"metadata": {"managedFields": managed}, "spec": {"affinity": {"hard": {"gpu": {}}}}}) == [
        "spec.maxRetries",
        "spec.affinity.hard.workerIds",
    ]


def _object(**changes: Any) -> dict[str, Any]:
    metadata = {
        "name": "train",
        "namespace": "team",
        "labels": {"app": "x"},
        "uid": "u",
        "resourceVersion": "7",
        "generation": 2,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": [{"manager": "kubectl"}],
    } | changes
    spec = {"maxRetries": 3, "ttlSecondsAfterFinished": 300, "template": TEMPLATE}
    return {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "Workload",
        "metadata": metadata,
        "spec": spec,
        "status": {"phase": "Pending", "queuedAt": "2026-01-01T00:00:00Z"},
    }


def test_a_manifest_has_nothing_that_the_server_wrote() -> None:
    assert new_manifest(_object(annotations={LAST_APPLIED: "{}", "team": "ml"})) == {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": "train", "namespace": "team", "labels": {"app": "x"}, "annotations": {"team": "ml"}},
        "spec": {"backoffLimit": 3, "template": TEMPLATE},
    }


@pytest.mark.parametrize(
    "written",
    [
        {"annotations": {LAST_APPLIED: json.dumps({"spec": {"ttlSecondsAfterFinished": 300}})}},
        {"managedFields": [{"operation": "Apply", "fieldsV1": {"f:spec": {"f:ttlSecondsAfterFinished": {}}}}]},
    ],
)
def test_a_time_to_live_that_its_author_wrote_stays(written: dict[str, Any]) -> None:
    assert new_manifest(_object(**written))["spec"]["ttlSecondsAfterFinished"] == 300


def test_other_kinds_keep_their_spec() -> None:
    pool = {
        "apiVersion": "niyanta.io/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": "a"},
        "spec": {"replicas": 1},
    }
    assert new_manifest(pool | {"status": {"replicas": 1}}) == pool
