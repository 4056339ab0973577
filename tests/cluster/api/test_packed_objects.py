"""Listed Workloads are kept packed: whatever they hold, they take little memory, and they read like objects."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from niyanta.bounded_json import VIOLATION_KEY
from niyanta.cluster.api.bounded_objects import read_object
from niyanta.cluster.api.packed_objects import PackedManifest
from niyanta.scheduler.recovery import recovery

pytestmark = pytest.mark.unit

META = {"name": "w", "namespace": "team", "uid": "1", "generation": 1, "labels": {"app": "x"}}


def workload(**fields: Any) -> dict[str, Any]:
    return {"kind": "Workload", "metadata": {**META, "annotations": {"a": "b"}}, "spec": {"n": [1]}, **fields}


def test_it_reads_like_the_object() -> None:
    packed = PackedManifest(workload())
    assert dict(packed) == {"kind": "Workload", "metadata": META, "spec": {"n": [1]}}
    assert packed.get("status") is None
    assert VIOLATION_KEY not in packed
    assert len(packed) == 3
    assert packed.size == len('{"n":[1]}')
    with pytest.raises(KeyError):
        packed["status"]
    assert PackedManifest(workload() | {VIOLATION_KEY: "too deep"})[VIOLATION_KEY] == "too deep"


def test_dense_objects_take_little_memory() -> None:
    text = b'{"metadata":{"name":"w","namespace":"team","uid":"1"},"spec":{"x":[' + b",".join([b"[]"] * 4_900) + b"]}}"
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = [PackedManifest(read_object(text)) for _ in range(100)]
    grown = (tracemalloc.get_traced_memory()[0] - before) / len(kept)
    tracemalloc.stop()
    assert len(kept[0]["spec"]["x"]) == 4_900
    assert grown < 8 * 1024


def test_recovery_compiles_few_bytes_of_objects_at_once() -> None:
    objects = [PackedManifest(workload(spec={"x": "y" * 500_000})) for _ in range(10)]
    parts = list(recovery._parts(objects))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert [obj for part in parts for obj in part] == objects
    assert [len(part) for part in recovery._parts([workload()] * 1001)] == [500, 500, 1]
