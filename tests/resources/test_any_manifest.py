"""Any JSON in any place of a manifest is accepted or refused with InvalidManifestError; nothing else is raised. An
accepted spec can be compiled, checked, stored and made a pod."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from niyanta.lifecycle import Door
from niyanta.resources import pod_security, template_lists
from niyanta.resources.compile.pod import build_pod
from niyanta.resources.compile.pod_resources import NamespaceDefaults
from niyanta.resources.compile.requirements import compile_workload, parse_spec
from niyanta.resources.models.base import InvalidManifestError, parse
from niyanta.resources.models.customer import Customer
from niyanta.resources.models.worker_pool import WorkerPool
from niyanta.resources.ownership import check_terms, term_uses
from tests.resources.repeated import repeated

pytestmark = pytest.mark.unit

_TOKEN = {"audience": "a", "path": "t"}
SELECTOR = {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]}
SPEC: dict[str, Any] = {
    "customer": "acme",
    "type": "training",
    "priority": 10,
    "replicas": 2,
    "timeoutSeconds": 60,
    "gpu": {"models": ["A100"], "count": 1, "minMemory": "40Gi"},
    "affinity": {
        "hard": {
            "nodeNames": ["n"],
            "workerTags": {"a": "b"},
            "workerExpressions": [{"key": "k", "operator": "Gt", "values": ["1"]}],
            "near": [{"workloadSelector": SELECTOR, "topologyKey": "topology.kubernetes.io/zone"}],
        },
        "soft": [{"weight": 5, "regions": ["eu"]}],
        "anti": [{"types": ["a"], "workloadSelector": SELECTOR, "scope": "Customer"}],
    },
    "topology": {"key": "topology.kubernetes.io/zone", "mode": "Preferred"},
    "template": {
        "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
        "spec": {
            "containers": [
                {
                    "name": "main",
                    "image": "i",
                    "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                    "envFrom": [{"configMapRef": {"name": "m"}}],
                    "ports": [{"containerPort": 80, "hostPort": 80}],
                    "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": 1.5, "memory": "1Gi"}},
                    "securityContext": {"capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "Localhost"}},
                }
            ],
            "initContainers": [{"name": "before", "image": "i", "restartPolicy": "Always"}],
            "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}],
            "nodeSelector": {"a": "b"},
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{"key": "k", "operator": "Exists"}]}]
                    }
                }
            },
            "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": _TOKEN}]}}],
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"sysctls": [{"name": "x", "value": "1"}]},
            "priorityClassName": "p",
        },
    },
}
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 2**63, -(2**63) - 1, 1e300, -0.0, 0.5, "", "\0", "\ud800", "*", "a" * 70_000, "9" * 5000]),
    st.floats(),
    st.text(max_size=20),
)
KEYS = st.one_of(st.text(max_size=8), st.sampled_from(["name", "key", "\0", "k" * 400, "__class__", "model_config"]))
JUNK = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4))
DEPTHS = (10, 60, 70, 260, 1100, 100_000)
DEEP = st.builds(lambda depth, as_list: _nested(depth, as_list=as_list), st.sampled_from(DEPTHS), st.booleans())


def _nested(depth: int, *, as_list: bool) -> Any:
    found: Any = "x"
    for _ in range(depth):
        found = [found] if as_list else {"a": found}
    return found


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from _paths(part, (*path, key))


def _changed(base: Any, path: tuple[Any, ...], junk: Any, key: str | None) -> Any:
    """A copy of `base` with `junk` at `path`, or under `key` in the object there."""
    if not path and key is None:
        return junk
    found = copy.deepcopy(base)
    place, steps = found, path if key is None else (*path, key)
    for step in steps[:-1]:
        place = place[step]
    if isinstance(place, dict):
        place[steps[-1]] = junk
    elif isinstance(place, list):
        place[steps[-1] if isinstance(steps[-1], int) else 0] = junk
    return found


def _handle(spec: Any) -> None:
    """The way of a spec through doors and leader."""
    parsed = parse_spec(spec)
    customer = parse(Customer, {"metadata": {"name": "acme"}, "spec": {}})
    check_terms(term_uses(parsed.affinity), customer)
    for door in Door:
        found = template_lists.violation(parsed.template, customer, door)
        assert found is None or (len(found.message) < 1500 and found.message.isprintable())
    pod_security.check_template(parsed.template.manifest())
    compile_workload(parsed, namespace="n", customer="acme", labels={}, defaults=NamespaceDefaults())
    orjson.dumps(parsed.manifest())
    fixed: dict[str, Any] = {"workload_name": "a", "namespace": "n", "uid": "u", "customer": "acme", "attempt": 1}
    made = build_pod(**fixed, index=0, spec=parsed, worker="w", pool="p", worker_gpu_resource="nvidia.com/gpu", epoch=1)
    orjson.dumps(made)


def _refusal(action: Callable[[], object]) -> str:
    """The text of the InvalidManifestError that `action` raises; "" if it raises nothing."""
    try:
        action()
    except InvalidManifestError as refused:
        return str(refused)
    return ""


def test_the_base_is_accepted() -> None:
    _handle(SPEC)


@pytest.mark.poison
@pytest.mark.timeout(1200)
def test_any_json_in_a_workload() -> None:
    @settings(deadline=None)
    @example(("template", "spec", "containers", 0, "env", 0, "name"), [], None)
    @given(st.sampled_from(sorted(_paths(SPEC), key=str)), JUNK | DEEP, st.none() | KEYS)
    def check(path: tuple[Any, ...], junk: Any, key: str | None) -> None:
        refusal = _refusal(lambda: _handle(_changed(SPEC, path, junk, key)))
        assert len(refusal) < 2500
        assert refusal.isprintable()

    repeated(check)


CUSTOMER: dict[str, Any] = {
    "metadata": {"name": "acme", "generation": 1},
    "spec": {"namespaces": ["a"], "tolerations": [{"key": "k"}], "topologyKeys": ["a"], "maxQueueDepth": 1},
}
POOL: dict[str, Any] = {
    "metadata": {"name": "gpu"},
    "spec": {"nodeSelector": SELECTOR, "gpu": {"model": "A", "memory": "1Gi"}, "customers": ["a"], "replicas": 1},
}


@pytest.mark.parametrize(("kind", "base"), [(Customer, CUSTOMER), (WorkerPool, POOL)])
@settings(deadline=None)
@given(data=st.data())
def test_any_json_in_a_customer_or_pool(
    kind: type[Customer] | type[WorkerPool], base: Any, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(sorted(_paths(base), key=str)))
    made = _changed(base, path, data.draw(JUNK), data.draw(st.none() | KEYS))
    assert len(_refusal(lambda: parse(kind, made))) < 2500
