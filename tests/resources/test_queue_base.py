"""The base of a queue class holds what placement reads of a spec, and nothing else."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from niyanta.engine.types import Toleration
from niyanta.resources.compile.pod_resources import NamespaceDefaults, RuntimeClass
from niyanta.resources.compile.queue_base import spec_class
from niyanta.resources.compile.requirements import compile_workload, parse_spec
from niyanta.resources.models.base import InvalidManifestError

pytestmark = pytest.mark.unit

SPEC: dict[str, Any] = {
    "replicas": 2,
    "type": "train",
    "gpu": {"count": 1, "models": ["H100"]},
    "topology": {"key": "topology.kubernetes.io/zone", "mode": "Preferred"},
    "affinity": {
        "hard": {"regions": ["eu"], "near": [{"workloadSelector": {"matchLabels": {"role": "db"}}}]},
        "soft": [{"weight": 5, "pools": ["cheap"]}],
        "anti": [{"workloadSelector": {"matchLabels": {"app": "x"}}, "scope": "Customer"}],
    },
    "template": {
        "spec": {
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "containers": [
                {
                    "name": "main",
                    "image": "busybox",
                    "ports": [{"containerPort": 80, "hostPort": 8080}],
                    "resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "1Gi"}},
                },
                {"name": "side", "image": "busybox"},
            ],
            "initContainers": [{"name": "init", "image": "busybox", "resources": {"requests": {"cpu": 2}}}],
        }
    },
}

ELSEWHERE = [
    ("priority", 77),
    ("customer", "acme"),
    ("suspend", True),
    ("timeoutSeconds", 5),
    ("backoffLimit", 0),
    ("ttlSecondsAfterFinished", 9),
    ("template.metadata", {"labels": {"a": "b"}}),
    ("template.spec.containers.0.image", "other"),
    ("template.spec.containers.0.command", ["sh"]),
    ("template.spec.containers.0.env", [{"name": "A", "value": "1"}]),
    ("template.spec.containers.1.name", "renamed"),
    ("template.spec.terminationGracePeriodSeconds", 5),
]
"""Fields that placement doesn't read."""

READ = [
    ("replicas", 3),
    ("type", "serve"),
    ("gpu.count", 2),
    ("gpu.models", ["A100"]),
    ("topology.mode", "Required"),
    ("topology.key", "kubernetes.io/hostname"),
    ("affinity.hard.regions", ["us"]),
    ("affinity.soft.0.weight", 6),
    ("affinity.anti.0.scope", "Namespace"),
    ("affinity.anti.0.workloadSelector.matchLabels", {"app": "y"}),
    ("affinity.hard.near.0.workloadSelector.matchLabels", {"role": "cache"}),
    ("template.spec.nodeSelector", {}),
    ("template.spec.tolerations", []),
    ("template.spec.containers.0.ports", []),
    ("template.spec.containers.0.resources.requests", {"cpu": "501m"}),
    ("template.spec.containers.0.resources.limits", {"memory": "2Gi"}),
    ("template.spec.containers.1.resources", {"requests": {"cpu": 0}}),
    ("template.spec.initContainers.0.resources", {"requests": {"cpu": 3}}),
    ("template.spec.initContainers.0.restartPolicy", "Always"),
    ("template.spec.runtimeClassName", "gvisor"),
    (
        "template.spec.affinity",
        {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]
                }
            }
        },
    ),
]
"""Fields that it reads, and other values of them."""


def changed(path: str, value: Any) -> dict[str, Any]:
    spec = copy.deepcopy(SPEC)
    *parents, last = path.split(".")
    place: Any = spec
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    place[last] = value
    return spec


def base(spec: dict[str, Any], *, namespace: str = "team", customer: str = "acme") -> str:
    return spec_class(parse_spec(spec)).base(namespace=namespace, customer=customer)


@pytest.mark.parametrize(("path", "value"), ELSEWHERE, ids=[path for path, _ in ELSEWHERE])
def test_what_placement_does_not_read_is_not_in_the_base(path: str, value: Any) -> None:
    assert base(changed(path, value)) == base(SPEC)


@pytest.mark.parametrize(("path", "value"), READ, ids=[path for path, _ in READ])
def test_what_placement_reads_is_in_the_base(path: str, value: Any) -> None:
    assert base(changed(path, value)) != base(SPEC)


def test_namespace_and_customer_are_in_the_base() -> None:
    found = {base(SPEC), base(SPEC, namespace="other"), base(SPEC, customer="other"), base(SPEC, namespace="acme")}
    assert len(found) == 4
    assert all(len(one) == 32 for one in found)


def test_equal_amounts_and_defaults_have_one_base() -> None:
    same = changed("template.spec.containers.0.resources.requests", {"cpu": 0.5})
    assert base(same) == base(SPEC)
    assert base({**SPEC, "topology": {"key": "topology.kubernetes.io/zone", "mode": "Preferred"}}) == base(SPEC)


def test_label_keys_are_visible_within_the_reach_of_the_terms() -> None:
    found = spec_class(parse_spec(SPEC)).visible_keys(namespace="team", customer="acme")
    assert found == (("customer/acme", "app"), ("namespace/team", "app"), ("namespace/team", "role"))
    cluster = changed("affinity.anti.0.scope", "Cluster")
    assert ("*", "app") in spec_class(parse_spec(cluster)).visible_keys(namespace="team", customer="acme")


def test_workloads_of_one_base_compile_alike_under_any_defaults() -> None:
    """Random specs and defaults: where the bases are equal, so are the requirements."""
    rng = random.Random(7)
    runtimes = {"gvisor": RuntimeClass({"cpu": 100}, {"vm": "1"}, (Toleration("vm", exists=True),))}
    defaults = [
        NamespaceDefaults({"cpu": cpu, "memory": memory}, runtimes) for cpu in (0, 100, 600) for memory in (0, 2**28)
    ]
    by_base: dict[str, list[tuple[Any, ...]]] = {}
    for _ in range(400):
        spec = copy.deepcopy(SPEC)
        for path, value in rng.sample(READ, 2) + rng.sample(ELSEWHERE, 3):
            try:
                other = changed(path, value)
            except (KeyError, TypeError):
                continue
            top = path.split(".")[0]
            spec[top] = copy.deepcopy(other[top])
        parsed = parse_spec(spec)
        results = []
        for given in defaults:
            for wildcard in (False, True):
                place = {"namespace": "team", "customer": "acme", "labels": {}}
                try:
                    found = compile_workload(parsed, **place, defaults=given, wildcard=wildcard)  # type: ignore[arg-type]
                except InvalidManifestError as refused:
                    results.append(str(refused))
                else:
                    results.append((found.requirements, found.replicas))
        by_base.setdefault(base(spec), []).append(tuple(results))
    assert any(len(found) > 2 for found in by_base.values())
    assert all(len(set(found)) == 1 for found in by_base.values())
