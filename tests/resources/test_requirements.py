"""A spec is compiled to the engine's requirements; equivalent specs get the same class."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niyanta.engine import types as engine
from niyanta.engine.types import Expression, HostPort, Matcher, NodeTerm, Op, PeerTerm, Scope, Selector, SoftTerm
from niyanta.resources.compile.pod_resources import NamespaceDefaults, RuntimeClass
from niyanta.resources.compile.requirements import Compiled, class_id, compile_workload, is_gpu_resource, parse_spec
from niyanta.resources.models.base import InvalidManifestError

pytestmark = pytest.mark.unit
NONE = NamespaceDefaults()


def compiled(spec: dict[str, Any] | None = None, *, defaults: NamespaceDefaults = NONE, **pod: Any) -> Compiled:
    full = {"template": {"spec": {"containers": [{"name": "main", "image": "i"}], **pod}}, **(spec or {})}
    return compile_workload(
        parse_spec(full), namespace="team", customer="acme", labels={"b": "2", "a": "1"}, defaults=defaults
    )


def gpus(resource: str, count: int) -> list[dict[str, Any]]:
    return [{"name": "main", "image": "i", "resources": {"limits": {resource: count}}}]


def test_the_smallest_workload_needs_one_pod_and_nothing_else() -> None:
    found = compiled()
    assert found.requirements == engine.Requirements(requests=(("pods", 1),))
    assert found.subject == engine.Subject("team", "acme", "", (("a", "1"), ("b", "2")))
    assert found.replicas == 1


def test_hard_soft_anti_and_near() -> None:
    found = compiled(
        {
            "type": "video",
            "gpu": {"models": ["H100", "A100"], "minMemory": "40Gi"},
            "affinity": {
                "hard": {
                    "nodeNames": ["b", "a", "b"],
                    "workerTags": {"disk": "ssd"},
                    "workerExpressions": [{"key": "cores", "operator": "Gt", "values": ["8"]}],
                    "capabilities": ["ffmpeg"],
                    "regions": ["eu"],
                    "zones": ["eu-1"],
                    "pools": ["p"],
                    "compliance": ["hipaa"],
                    "near": [{"types": ["db"], "topologyKey": "zone"}],
                },
                "soft": [{"weight": 7, "pools": ["cheap"]}],
                "anti": [
                    {"customers": ["rival"], "scope": "Cluster"},
                    {"workloadSelector": {"matchLabels": {"a": "b"}}, "scope": "Customer"},
                ],
            },
        }
    ).requirements
    assert found.hard == Matcher(
        node_names=("a", "b"),
        pools=("p",),
        regions=("eu",),
        zones=("eu-1",),
        compliance=("hipaa",),
        capabilities=("ffmpeg", "video"),
        gpu_models=("A100", "H100"),
        gpu_min_memory=40 << 30,
        tags=(Expression("cores", Op.GT, ("8",)), Expression("disk", Op.IN, ("ssd",))),
    )
    assert found.soft == (SoftTerm(7, matcher=Matcher(pools=("cheap",))),)
    assert set(found.anti) == {
        PeerTerm(Selector(customers=("rival",)), scope=Scope.CLUSTER),
        PeerTerm(Selector(labels=(Expression("a", Op.IN, ("b",)),)), scope=Scope.CUSTOMER),
    }
    assert found.near == (PeerTerm(Selector(types=("db",)), "zone"),)
    assert (found.gpu_count, found.wants_gpu) == (1, True)


def test_a_topology_is_required_unless_it_is_only_preferred() -> None:
    zone = "topology.kubernetes.io/zone"
    assert compiled({"topology": {"key": zone}}).requirements.topology == engine.Topology(zone)
    preferred = {"key": zone, "mode": "Preferred"}
    assert compiled({"topology": preferred}).requirements.topology == engine.Topology(zone, required=False)
    assert len({compiled(spec).class_id for spec in ({}, {"topology": {"key": zone}}, {"topology": preferred})}) == 3


@pytest.mark.parametrize(
    ("gpu", "containers", "count", "wants"),
    [
        (None, None, 0, False),
        ({}, None, 1, True),
        ({"count": 4}, None, 4, True),
        (None, gpus("nvidia.com/gpu", 2), 0, True),
        ({"models": ["A100"]}, gpus("nvidia.com/gpu", 2), 0, True),
        ({"count": 2}, gpus("nvidia.com/gpu", 2), 0, True),
        (None, gpus("nvidia.com/gpu", 0), 0, False),
        (None, gpus("example.com/fpga", 1), 0, False),
    ],
)
def test_gpus_are_requested_by_the_spec_or_by_the_template(gpu: Any, containers: Any, count: int, wants: bool) -> None:
    pod = {"containers": containers} if containers else {}
    found = compiled({"gpu": gpu} if gpu is not None else {}, **pod).requirements
    assert (found.gpu_count, found.wants_gpu) == (count, wants)


def test_two_different_gpu_counts_are_rejected() -> None:
    with pytest.raises(
        InvalidManifestError,
        match=r"spec\.gpu\.count: must equal the number that the template requests \(1\)",
    ):
        compiled({"gpu": {"count": 2}}, containers=gpus("amd.com/gpu", 1))


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("nvidia.com/gpu", True),
        ("amd.com/gpu", True),
        ("nvidia.com/gpu.shared", True),
        ("nvidia.com/mig-1g.5gb", True),
        ("gpu.intel.com/i915", True),
        ("cpu", False),
        ("gpu", False),
        ("example.com/gpurse", False),
        ("google.com/tpu", False),
    ],
)
def test_which_resources_are_gpus(name: str, gpu: bool) -> None:
    assert is_gpu_resource(name) is gpu


def test_the_template_gives_the_constraints_that_kube_scheduler_would_apply() -> None:
    found = compiled(
        nodeSelector={"disk": "ssd"},
        tolerations=[
            {"key": "a", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "b", "value": "c"},
            {"key": "d", "operator": "Exists", "effect": "PreferNoSchedule"},
        ],
        affinity={
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b", "a"]}]},
                        {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]},
                    ]
                },
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 3, "preference": {"matchExpressions": [{"key": "x", "operator": "Exists"}]}},
                    {"weight": 4, "preference": {}},
                ],
            }
        },
    ).requirements
    assert found.node_selector == (("disk", "ssd"),)
    assert set(found.tolerations) == {
        engine.Toleration("a", exists=True, effect="NoSchedule"),
        engine.Toleration("b", value="c"),
    }
    assert set(found.node_terms) == {
        NodeTerm(expressions=(Expression("zone", Op.IN, ("a", "b")),)),
        NodeTerm(fields=(Expression("metadata.name", Op.NOT_IN, ("n1",)),)),
    }
    assert found.soft == (SoftTerm(3, node=NodeTerm(expressions=(Expression("x", Op.EXISTS),))),)


def test_host_ports_of_containers_and_sidecars() -> None:
    ports = [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]
    containers = [{"name": "a", "image": "i", "ports": ports}]
    init = [
        {"name": "s", "image": "i", "restartPolicy": "Always", "ports": [{"containerPort": 1, "hostPort": 1}]},
        {"name": "i", "image": "i", "ports": [{"containerPort": 2, "hostPort": 2}]},
    ]
    assert set(compiled(containers=containers, initContainers=init).requirements.host_ports) == {
        HostPort(8080),
        HostPort(1),
    }
    ports[0] = {"containerPort": 80, "hostIP": "10.0.0.1"}
    assert set(compiled(containers=containers, hostNetwork=True).requirements.host_ports) == {
        HostPort(80, host_ip="10.0.0.1"),
        HostPort(53, "UDP"),
    }


def test_a_runtime_class_adds_its_scheduling_constraints() -> None:
    kata = RuntimeClass({"cpu": 100}, {"sandbox": "yes"}, (engine.Toleration("sandbox", exists=True),))
    known = NamespaceDefaults(runtime_classes={"kata": kata})
    found = compiled(defaults=known, runtimeClassName="kata", nodeSelector={"a": "b"}).requirements
    assert found.node_selector == (("a", "b"), ("sandbox", "yes"))
    assert found.tolerations == kata.tolerations
    assert found.requests == (("cpu", 100), ("pods", 1))
    with pytest.raises(InvalidManifestError, match=r"nodeSelector\.sandbox"):
        compiled(defaults=known, runtimeClassName="kata", nodeSelector={"sandbox": "no"})


def test_requests_are_per_pod_whatever_the_replicas() -> None:
    containers = [{"name": "a", "image": "i", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]
    found = compiled({"replicas": 5}, containers=containers)
    assert found.requirements.requests == (("cpu", 1000), ("memory", 1 << 30), ("pods", 1))
    assert found.replicas == 5


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=4)
HARD = st.fixed_dictionaries(
    {"nodeNames": WORDS, "capabilities": WORDS, "regions": WORDS, "zones": WORDS, "compliance": WORDS},
    optional={"workerTags": st.dictionaries(st.sampled_from("xyz"), st.sampled_from("pq"))},
)
ANTI = st.lists(st.fixed_dictionaries({"types": WORDS.filter(bool)}), max_size=3)
SOFT = st.lists(st.fixed_dictionaries({"weight": st.integers(1, 100), "pools": WORDS.filter(bool)}), max_size=3)


def _shuffled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict):
        items = [(k, _shuffled(v, rng)) for k, v in value.items()]
        rng.shuffle(items)
        return dict(items)
    if isinstance(value, list):
        found = [_shuffled(v, rng) for v in value]
        rng.shuffle(found)
        return found
    return value


@settings(max_examples=50, deadline=None)
@given(HARD, ANTI, SOFT, st.randoms(use_true_random=False))
def test_the_order_of_a_manifest_does_not_change_its_class(hard: Any, anti: Any, soft: Any, rng: random.Random) -> None:
    affinity = {"hard": hard, "anti": anti, "soft": soft}
    one = compiled({"affinity": affinity})
    other = compiled({"affinity": _shuffled(copy.deepcopy(affinity), rng)})
    assert one.requirements == other.requirements
    assert one.class_id == other.class_id


@settings(max_examples=50, deadline=None)
@given(HARD, HARD)
def test_classes_are_equal_exactly_when_requirements_are(first: Any, second: Any) -> None:
    one, other = compiled({"affinity": {"hard": first}}), compiled({"affinity": {"hard": second}})
    assert (one.class_id == other.class_id) == (one.requirements == other.requirements)


def test_class_ids_equal_those_of_earlier_releases() -> None:
    """Class ids are stored in Postgres: a change would split the classes of an existing queue."""
    assert class_id(engine.Requirements(requests=(("pods", 1),))) == "41655dc1a81242703983864aa20b580d"
    full = engine.Requirements(
        requests=(("cpu", 500), ("pods", 1)),
        hard=Matcher(regions=("eu",), tags=(Expression("disk", Op.IN, ("ssd",)),)),
        anti=(PeerTerm(Selector(types=("a",)), scope=Scope.CLUSTER),),
        wants_gpu=True,
    )
    assert class_id(full) == "e4248b6666f23d3426fc34e6306eb7f3"


def test_metadata_does_not_split_classes() -> None:
    assert compiled({"priority": 1, "customer": "a"}).class_id == compiled({"priority": 90, "suspend": True}).class_id
