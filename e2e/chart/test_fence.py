"""The fence refuses pods of a replaced leader and the operator's keys in pods of others, and accepts all other pods."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from e2e.chart.conftest import NAMESPACE, NODE, MakePod
from testing.cluster.api_client import JSON, Api, ApiError
from testing.cluster.cluster import Cluster
from testing.waiting import until

pytestmark = pytest.mark.e2e

PODS = "/api/v1/namespaces/tenant/pods"
FENCES = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
FENCE = f"{FENCES}/niyanta-fence"

SetFence = Callable[[str | None], None]


@pytest.fixture(autouse=True)
def cleared(installed: Cluster) -> Iterator[None]:
    yield
    installed.kubectl("delete", "pods,jobs", "--all", "-n", "tenant", "--force", "--grace-period=0")


@pytest.fixture
def set_fence(installed: Cluster, as_operator: Api, workload_pod: MakePod) -> SetFence:
    """Writes the ConfigMap as the operator, and waits until the API server applies it."""

    def set_to(epoch: str | None) -> None:
        if epoch is None:
            installed.api.delete(FENCE)
            seen = "no params found"
        else:
            body = {"metadata": {"name": "niyanta-fence"}, "data": {"epoch": epoch}}
            if installed.api.find(FENCE) is None:
                as_operator.post(FENCES, body)
            else:
                as_operator.patch(FENCE, {"data": {"epoch": epoch}})
            seen = f"the fence is at {epoch}" if epoch.isdigit() else "whole number under the key"
        until(lambda: seen in refusal(as_operator, workload_pod("probe", {"niyanta.io/epoch": "0"})), what=seen)

    return set_to


def refusal(api: Api, pod: JSON) -> str:
    """Message of the server's refusal; empty when it accepts the pod (a dry run, so the pod is not stored)."""
    try:
        api.request("POST", PODS, pod, query={"dryRun": "All"})
    except ApiError as error:
        return str(error)
    return ""


def test_a_lower_epoch_is_refused_and_an_equal_or_higher_one_accepted(
    as_operator: Api, workload_pod: MakePod, set_fence: SetFence
) -> None:
    set_fence("9")
    with pytest.raises(ApiError, match=r"niyanta-fence.*epoch 8, the fence is at 9") as refused:
        as_operator.post(PODS, workload_pod("late", {"niyanta.io/epoch": "8"}))
    # 403 and not 422: the operator treats 422 as a wrong manifest, and would fail the Workload.
    assert refused.value.status == 403
    as_operator.post(PODS, workload_pod("equal", {"niyanta.io/epoch": "9"}))
    # Compared as numbers: as text, 10 would come before 9.
    as_operator.post(PODS, workload_pod("later", {"niyanta.io/epoch": "10"}))


@pytest.mark.parametrize("epoch", ["x", "", "-1", "1e9", "9.0", "99999999999999999999"])
def test_an_epoch_that_is_not_a_number_is_refused(
    as_operator: Api, workload_pod: MakePod, set_fence: SetFence, epoch: str
) -> None:
    set_fence("1")
    assert refusal(as_operator, workload_pod("odd", {"niyanta.io/epoch": epoch}))


def test_a_pod_of_the_operator_without_an_epoch_is_refused(
    as_operator: Api, workload_pod: MakePod, set_fence: SetFence
) -> None:
    set_fence("1")
    assert "needs the label niyanta.io/epoch" in refusal(as_operator, workload_pod("bare", without="epoch"))


def test_without_the_configmap_only_pods_of_the_operator_are_refused(
    installed: Cluster, as_operator: Api, make_pod: MakePod, workload_pod: MakePod, set_fence: SetFence
) -> None:
    set_fence("1")
    set_fence(None)
    assert "niyanta-fence" in refusal(as_operator, workload_pod("ours", {"niyanta.io/epoch": "5"}))
    installed.api.post(PODS, make_pod("plain", {"app": "x"}))


def test_a_configmap_without_a_valid_epoch_refuses_pods(
    as_operator: Api, workload_pod: MakePod, set_fence: SetFence
) -> None:
    set_fence("soon")
    assert refusal(as_operator, workload_pod("ours", {"niyanta.io/epoch": "5"}))
    set_fence("1")
    assert not refusal(as_operator, workload_pod("ours", {"niyanta.io/epoch": "5"}))


@pytest.mark.parametrize(
    ("labels", "annotations"),
    [
        ({"niyanta.io/epoch": "99"}, {}),
        ({"niyanta.io/workload": "mine"}, {}),
        ({"app": "x"}, {"niyanta.io/score": "100"}),
    ],
)
def test_only_the_operator_creates_pods_with_its_keys(
    installed: Cluster, make_pod: MakePod, set_fence: SetFence, labels: dict[str, str], annotations: dict[str, str]
) -> None:
    set_fence("1")
    words = refusal(installed.api, make_pod("forged", labels, annotations))
    assert "niyanta-fence" in words
    assert "403" in words


def test_similar_keys_are_accepted(installed: Cluster, make_pod: MakePod, set_fence: SetFence) -> None:
    set_fence("1")
    labels = {"niyanta": "x", "niyanta.io.example.com/a": "b", "e2e.niyanta.io/a": "b"}
    assert not refusal(installed.api, make_pod("alike", labels))


def test_a_job_with_the_operators_labels_creates_no_pod_and_has_an_event(
    installed: Cluster, set_fence: SetFence
) -> None:
    set_fence("1")
    pod = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "registry.invalid/none"}]}
    template = {"metadata": {"labels": {"niyanta.io/epoch": "99"}}, "spec": pod}
    installed.api.post(
        "/apis/batch/v1/namespaces/tenant/jobs", {"metadata": {"name": "copycat"}, "spec": {"template": template}}
    )

    def has_event() -> bool:
        events = installed.api.items("/api/v1/namespaces/tenant/events")
        return any("niyanta-fence" in event["message"] and event["reason"] == "FailedCreate" for event in events)

    until(has_event, what="the Job's event names the fence")
    assert installed.api.items(PODS) == []


def test_others_may_change_pods_of_the_operator_except_its_keys(
    installed: Cluster, as_operator: Api, workload_pod: MakePod, set_fence: SetFence
) -> None:
    set_fence("1")
    as_operator.post(PODS, workload_pod("ours", {"niyanta.io/epoch": "1"}, {"niyanta.io/note": "a"}))
    path = f"{PODS}/ours"
    refused: list[JSON] = [
        {"labels": {"niyanta.io/epoch": "2"}},
        {"labels": {"niyanta.io/epoch": None}},
        {"labels": {"niyanta.io/new": "x"}},
        {"labels": None},
        {"annotations": {"niyanta.io/note": "b"}},
        {"annotations": {"niyanta.io/note": None}},
        {"annotations": {"niyanta.io/new": "x"}},
    ]
    for change in refused:
        with pytest.raises(ApiError, match=r"niyanta-fence.*set and changed by the operator alone"):
            installed.api.patch(path, {"metadata": change})
    allowed: list[JSON] = [
        {"labels": {"app": "x"}, "annotations": {"sim/run-for": "1h"}},
        {"labels": {"app": None}},
        {"finalizers": ["example.com/hold"]},
        {"finalizers": None},
    ]
    for change in allowed:
        installed.api.patch(path, {"metadata": change})
    as_operator.patch(path, {"metadata": {"labels": {"niyanta.io/new": "x"}, "finalizers": ["niyanta.io/outcome"]}})
    as_operator.patch(path, {"metadata": {"labels": {"niyanta.io/new": None}, "finalizers": None}})


def test_others_may_not_add_the_operators_keys_to_pods(
    installed: Cluster, make_pod: MakePod, set_fence: SetFence
) -> None:
    set_fence("1")
    installed.api.post(PODS, make_pod("theirs"))
    with pytest.raises(ApiError, match="niyanta-fence"):
        installed.api.patch(f"{PODS}/theirs", {"metadata": {"labels": {"niyanta.io/epoch": "1"}}})
    installed.api.patch(f"{PODS}/theirs", {"metadata": {"labels": {"app": "x"}}})


def test_others_may_not_set_the_operators_keys_by_status_or_binding(
    installed: Cluster, make_pod: MakePod, set_fence: SetFence
) -> None:
    """A write of the status may change labels, and a binding's metadata is copied into its pod."""
    set_fence("1")
    pod = make_pod("theirs")
    del pod["spec"]["nodeName"]
    pod["spec"]["schedulerName"] = "none"
    installed.api.post(PODS, pod)
    forged: list[JSON] = [{"labels": {"niyanta.io/workload-uid": "x"}}, {"annotations": {"niyanta.io/score": "1"}}]
    for metadata in forged:
        with pytest.raises(ApiError, match="niyanta-fence"):
            installed.api.patch(f"{PODS}/theirs/status", {"metadata": metadata})
        binding = {"metadata": {"name": "theirs", **metadata}, "target": {"kind": "Node", "name": NODE}}
        for path in (f"{PODS}/theirs/binding", "/api/v1/namespaces/tenant/bindings"):
            with pytest.raises(ApiError, match="niyanta-fence"):
                installed.api.post(path, {"apiVersion": "v1", "kind": "Binding", **binding})
    status = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}, "metadata": {"labels": {"app": "x"}}}
    installed.api.patch(f"{PODS}/theirs/status", status)
    target = {"kind": "Node", "name": NODE}
    installed.api.post(f"{PODS}/theirs/binding", {"metadata": {"name": "theirs"}, "target": target})
