"""Odd values in a pod's spec: the checker and the REST door accept them or refuse them as a manifest, and raise nothing
else."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest

from niyanta.bounded_json import BoundedJsonError, decode
from niyanta.resources.schema.pod_checker import first_error
from niyanta.server.problems import Problem
from niyanta.server.submit.manifest import ManifestReader
from niyanta.store.rows import CustomerRow

pytestmark = pytest.mark.unit

ODD: list[Any] = [
    "\ud800",
    "a\0b",
    {"\ud800": "a"},
    {"a\0": "\ud800"},
    [],
    {},
    [[]],
    [None],
    {"a": None},
    None,
    True,
    float("nan"),
    float("inf"),
    float("-inf"),
    1e300,
    -0.0,
    2**63,
    -(2**70),
    10**5000,
]
PLACES: list[tuple[Any, ...]] = [
    (),
    ("containers",),
    ("containers", 0),
    ("containers", 0, "name"),
    ("containers", 0, "imagePullPolicy"),
    ("containers", 0, "command"),
    ("containers", 0, "ports", 0, "protocol"),
    ("containers", 0, "ports", 0, "containerPort"),
    ("containers", 0, "livenessProbe", "httpGet", "port"),
    ("containers", 0, "resources", "requests"),
    ("containers", 0, "resources", "requests", "cpu"),
    ("restartPolicy",),
    ("nodeSelector",),
    ("nodeSelector", "a"),
    ("terminationGracePeriodSeconds",),
    ("hostNetwork",),
    ("tolerations", 0, "effect"),
    ("\ud800",),
]
POD: dict[str, Any] = {
    "containers": [
        {
            "name": "main",
            "image": "i",
            "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "livenessProbe": {"httpGet": {"port": 80}},
            "resources": {"requests": {"cpu": "1"}},
        }
    ],
    "nodeSelector": {"a": "b"},
    "tolerations": [{"key": "k", "effect": "NoExecute"}],
}


def with_odd(place: tuple[Any, ...], odd: Any) -> Any:
    if not place:
        return odd
    found = copy.deepcopy(POD)
    part: Any = found
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = odd
    return found


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_the_checker_returns_its_error(place: tuple[Any, ...]) -> None:
    for odd in ODD:
        error = first_error(with_odd(place, odd))
        assert error is None or str(error).isprintable()


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_the_door_raises_nothing_but_problems(place: tuple[Any, ...]) -> None:
    reader = ManifestReader(operator_namespace="niyanta-system")
    customer = CustomerRow(name="acme", tier="standard", namespaces=("team",))
    for odd in ODD:
        manifest = {
            "apiVersion": "niyanta.io/v1alpha1",
            "kind": "Workload",
            "metadata": {"name": "w"},
            "spec": {"type": "batch", "template": {"spec": with_odd(place, odd)}},
        }
        with contextlib.suppress(Problem):
            reader.read(manifest, customer, tier_weight=1)


@pytest.mark.parametrize("text", [b'"\\ud800"', b"NaN", b"Infinity", b"1" * 30, b"\xff", b'{"a":'])
def test_the_decoder_refuses_what_no_manifest_has(text: bytes) -> None:
    with pytest.raises(BoundedJsonError):
        decode(text)


def test_the_last_of_duplicate_keys_counts() -> None:
    assert decode(b'{"a": 1, "a": [2]}') == {"a": [2]}
