"""Requests of a pod equal those that Kubernetes computes."""

from __future__ import annotations

from typing import Any

import pytest

from niyanta.engine.types import Toleration
from niyanta.resources.compile.pod_resources import NamespaceDefaults, RuntimeClass, pod_requests
from niyanta.resources.models.base import InvalidManifestError, parse
from niyanta.resources.models.pod_template import PodSpec

pytestmark = pytest.mark.unit
NONE = NamespaceDefaults()


def container(name: str, cpu: Any = None, *, limit: Any = None, **more: Any) -> dict[str, Any]:
    resources = {"requests": {"cpu": cpu} if cpu is not None else {}, "limits": {"cpu": limit} if limit else {}}
    return {"name": name, "image": "i", "resources": resources, **more}


def cpu_of(defaults: NamespaceDefaults = NONE, **pod: Any) -> int:
    return pod_requests(parse(PodSpec, pod), defaults).get("cpu", 0)


SIDECAR = {"restartPolicy": "Always"}


@pytest.mark.parametrize(
    ("containers", "init", "millicores"),
    [
        ([container("a")], [], 0),
        ([container("a", 1), container("b", "500m")], [], 1500),
        ([container("a", limit=2)], [], 2000),
        ([container("a", 1, limit=2)], [], 1000),
        ([container("a", 1)], [container("i", 3), container("j", 2)], 3000),
        ([container("a", 4)], [container("i", 3)], 4000),
        ([container("a", 1)], [container("s", 1, **SIDECAR)], 2000),
        # an init container runs beside the sidecars that were started before it, not beside later ones
        ([container("a", 1)], [container("s", 1, **SIDECAR), container("i", 5)], 6000),
        ([container("a", 1)], [container("i", 5), container("s", 1, **SIDECAR)], 5000),
        ([container("a", 1)], [container("s", 2, **SIDECAR), container("t", 3, **SIDECAR)], 6000),
    ],
)
def test_containers_sidecars_and_init_containers(containers: list[Any], init: list[Any], millicores: int) -> None:
    assert cpu_of(containers=containers, initContainers=init) == millicores


@pytest.mark.parametrize(
    ("pod_level", "inside", "millicores"),
    [
        ({"requests": {"cpu": 4}}, 1, 4000),
        ({"requests": {"cpu": 4}, "limits": {"cpu": 8}}, 1, 4000),
        ({"limits": {"cpu": 8}}, 1, 1000),
        ({"limits": {"cpu": 8}}, None, 8000),
    ],
)
def test_resources_of_the_pod_as_a_whole(pod_level: dict[str, Any], inside: Any, millicores: int) -> None:
    assert cpu_of(containers=[container("a", inside)], resources=pod_level) == millicores


def test_limit_ranges_fill_in_missing_requests() -> None:
    def limits(name: str, **item: Any) -> dict[str, Any]:
        return {"metadata": {"name": name}, "spec": {"limits": [{"type": "Container", **item}]}}

    ranges = [limits("b", defaultRequest={"cpu": 9}), limits("a", default={"cpu": "2"}, defaultRequest={"cpu": "1"})]
    ranges.append({"metadata": {"name": "c"}, "spec": {"limits": [{"type": "Pod", "max": {"cpu": 5}}]}})
    defaults = NamespaceDefaults.from_limit_ranges(ranges)
    assert cpu_of(defaults, containers=[container("a"), container("b", "100m"), container("c", limit=3)]) == 4100
    for item, expected in (
        ({"default": {"cpu": 2}}, 2000),
        ({"max": {"cpu": 3}}, 3000),
        ({"min": {"cpu": 1}}, 1000),
        ({"min": {"cpu": 1}, "max": {"cpu": 3}}, 3000),
    ):
        filled = NamespaceDefaults.from_limit_ranges([limits("a", **item)])
        assert cpu_of(filled, containers=[container("a")]) == expected


def test_a_runtime_class_adds_its_overhead() -> None:
    manifest = {
        "overhead": {"podFixed": {"cpu": "250m", "memory": "64Mi"}},
        "scheduling": {"nodeSelector": {"sandbox": "yes"}, "tolerations": [{"key": "sandbox", "operator": "Exists"}]},
    }
    kata = RuntimeClass.from_manifest(manifest)
    assert kata.tolerations == (Toleration("sandbox", exists=True),)
    known = NamespaceDefaults(runtime_classes={"kata": kata})
    pod = {"containers": [container("a", 1)], "runtimeClassName": "kata"}
    assert pod_requests(parse(PodSpec, pod), known) == {"cpu": 1250, "memory": 64 << 20}
    assert cpu_of(known, **pod, overhead={"cpu": "250m", "memory": "64Mi"}) == 1250
    assert cpu_of(NONE, **pod, overhead={"cpu": "250m"}) == 1250, "where the classes aren't known, given is believed"
    with pytest.raises(InvalidManifestError, match=r"spec\.overhead"):
        pod_requests(parse(PodSpec, {**pod, "overhead": {"cpu": 1}}), known, "spec")
    with pytest.raises(InvalidManifestError, match=r"spec\.runtimeClassName: there is no such"):
        pod_requests(parse(PodSpec, {**pod, "runtimeClassName": "gvisor"}), known, "spec")


def test_zero_requests_are_left_out_and_sums_are_bounded() -> None:
    assert pod_requests(parse(PodSpec, {"containers": [container("a", 0)]}), NONE) == {}
    huge = {"name": "a", "image": "i", "resources": {"requests": {"memory": str(2**62)}}}
    pod = {"containers": [huge, {**huge, "name": "b"}, {**huge, "name": "c"}]}
    with pytest.raises(InvalidManifestError, match="add up"):
        pod_requests(parse(PodSpec, pod), NONE)
