"""The pod of a placement is bound, owned and labelled, and keeps all fields of the user's template."""

from __future__ import annotations

from typing import Any

import pytest

from niyanta.resources import labels
from niyanta.resources.compile.pod import build_pod, pod_name
from niyanta.resources.compile.requirements import parse_spec

pytestmark = pytest.mark.unit
UID = "0b821f4a-ee5f-46c9-a7eb-30d5fa0fadb4"


def pod(spec: dict[str, Any] | None = None, template: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    containers = [{"name": "main", "image": "i"}, {"name": "side", "image": "i"}]
    inner = template or {"spec": {"containers": containers}}
    given: dict[str, Any] = {
        "workload_name": "render",
        "namespace": "team",
        "uid": UID,
        "customer": "acme",
        "attempt": 2,
        "index": 3,
        "worker": "node-7",
        "pool": "gpu",
        "worker_gpu_resource": "amd.com/gpu",
        "epoch": 5,
    }
    return build_pod(spec=parse_spec({"replicas": 4, "template": inner, **(spec or {})}), **{**given, **changes})


def test_it_is_bound_owned_and_labelled() -> None:
    made = pod()
    assert made["metadata"] == {
        "name": "render-0b821f4a-2-3",
        "namespace": "team",
        "labels": {
            "niyanta.io/workload": "render",
            "niyanta.io/workload-uid": UID,
            "niyanta.io/customer": "acme",
            "niyanta.io/attempt": "2",
            "niyanta.io/index": "3",
            "niyanta.io/epoch": "5",
            "niyanta.io/pool": "gpu",
        },
        "annotations": {},
        "finalizers": ["niyanta.io/outcome"],
        "ownerReferences": [
            {"apiVersion": "niyanta.io/v1alpha1", "kind": "Workload", "name": "render", "uid": UID, "controller": True}
        ],
    }
    assert made["spec"]["nodeName"] == "node-7"
    assert made["spec"]["restartPolicy"] == "Never"


def test_the_longest_name_is_a_valid_pod_name() -> None:
    assert len(pod_name("n" * 48, UID, attempt=101, index=511)) <= 253


def test_every_container_gets_the_variables_that_the_user_did_not_set() -> None:
    env = [{"name": "NIYANTA_INDEX", "value": "mine"}, {"name": "A", "value": "$(NIYANTA_ATTEMPT)"}]
    containers = [{"name": "a", "image": "i", "env": env}, {"name": "b", "image": "i"}]
    made = pod(template={"spec": {"containers": containers, "initContainers": [{"name": "c", "image": "i"}]}})["spec"]
    first = [(e["name"], e["value"]) for e in made["containers"][0]["env"]]
    injected = [("NIYANTA_ATTEMPT", "2"), ("NIYANTA_REPLICAS", "4")]
    assert first == [*injected, ("NIYANTA_INDEX", "mine"), ("A", "$(NIYANTA_ATTEMPT)")]
    for other in (made["containers"][1], made["initContainers"][0]):
        assert {e["name"]: e["value"] for e in other["env"]} == {"NIYANTA_INDEX": "3", **dict(injected)}


def test_gpus_go_to_the_first_container_under_the_workers_resource_name() -> None:
    made = pod({"gpu": {"count": 2}})["spec"]["containers"]
    assert made[0]["resources"] == {"limits": {"amd.com/gpu": "2"}}
    assert "resources" not in made[1]
    with pytest.raises(ValueError, match="node-7 has no GPU resource"):
        pod({"gpu": {}}, worker_gpu_resource=None)


def test_a_template_that_asks_for_gpus_itself_gets_no_more() -> None:
    resources = {"limits": {"nvidia.com/gpu": 2}}
    template = {"spec": {"containers": [{"name": "a", "image": "i", "resources": resources}]}}
    made = pod({"gpu": {"models": ["A100"]}}, template)
    assert made["spec"]["containers"][0]["resources"] == resources


def test_the_template_is_kept_and_not_shared_between_pods() -> None:
    template = {
        "metadata": {"labels": {"app": "x"}, "annotations": {"note": "y"}},
        "spec": {
            "containers": [{"name": "a", "image": "i", "command": ["run"], "securityContext": {"runAsUser": 1}}],
            "restartPolicy": "OnFailure",
            "serviceAccountName": "runner",
            "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
        },
    }
    made = pod(template=template)
    assert made["metadata"]["labels"]["app"] == "x"
    assert made["metadata"]["annotations"] == {"note": "y"}
    assert made["spec"]["restartPolicy"] == "OnFailure"
    assert made["spec"]["serviceAccountName"] == "runner"
    assert made["spec"]["volumes"] == template["spec"]["volumes"]
    assert made["spec"]["containers"][0]["command"] == ["run"]

    spec = parse_spec({"template": template})
    fixed: dict[str, Any] = {"workload_name": "a", "namespace": "n", "uid": UID, "spec": spec, "customer": "c"}
    fixed |= {"attempt": 1, "worker": "w", "pool": "p", "worker_gpu_resource": None, "epoch": 1}
    one, two = build_pod(index=0, **fixed), build_pod(index=1, **fixed)
    assert one["spec"]["containers"][0]["env"][0]["value"] == "0"
    assert two["spec"]["containers"][0]["env"][0]["value"] == "1"


@pytest.mark.parametrize(("given", "made"), [(0, 1), (-5, 1), (0.0, 1), (1, 1), (30, 30), (None, None)])
def test_pods_have_time_to_end(given: Any, made: Any) -> None:
    """A grace period of 0 would drop the pod before its containers have ended."""
    containers = [{"name": "a", "image": "i"}]
    spec = {"containers": containers, "terminationGracePeriodSeconds": given}
    assert pod(template={"spec": spec})["spec"].get("terminationGracePeriodSeconds") == made


def test_whole_numbers_are_integers_and_variables_may_be_null() -> None:
    """The Pod API refuses 5.0 where custom resources may have it; a quantity may be a fraction."""
    container = {"name": "a", "image": "i", "livenessProbe": {"periodSeconds": 5.0}, "env": None}
    requests = {"cpu": 0.5, "memory": 1024.0, "example.com/large": 1e18}
    made = pod(template={"spec": {"containers": [{**container, "resources": {"requests": requests}}]}})
    (found,) = made["spec"]["containers"]
    assert repr(found["livenessProbe"]) == "{'periodSeconds': 5}"
    assert (
        repr(found["resources"]["requests"]) == "{'cpu': 0.5, 'memory': 1024, 'example.com/large': 1000000000000000000}"
    )
    assert {entry["name"] for entry in found["env"]} == {"NIYANTA_INDEX", "NIYANTA_ATTEMPT", "NIYANTA_REPLICAS"}


def test_pods_carry_all_that_terms_of_others_select_by() -> None:
    made = pod({"type": "training"}, workload_labels={"b": "2", "a": ""})["metadata"]
    assert made["labels"]["niyanta.io/type"] == "training"
    assert made["labels"]["niyanta.io/customer"] == "acme"
    assert made["annotations"] == {"niyanta.io/workload-labels": '{"a":"","b":"2"}'}
    assert labels.workload_labels(made["annotations"]) == {"a": "", "b": "2"}
    assert "niyanta.io/type" not in pod()["metadata"]["labels"]


@pytest.mark.parametrize("text", ["", "[]", "1", "{", "[" * 100_000])
def test_labels_that_cannot_be_read_are_none(text: str) -> None:
    assert labels.workload_labels({"niyanta.io/workload-labels": text}) == {}
    assert labels.workload_labels({}) == {}


def test_label_values_are_valid_and_stay_distinct() -> None:
    assert labels.label_value("gpu.a_1-b") == "gpu.a_1-b"
    assert labels.label_value("") == ""
    long = [labels.label_value("p" * 80 + end) for end in ("a", "b")]
    assert long[0] != long[1]
    for text in (*long, labels.label_value("a/b c"), labels.label_value("///"), labels.label_value("é" * 70)):
        assert 0 < len(text) <= 63
        assert labels.label_value(text) == text
