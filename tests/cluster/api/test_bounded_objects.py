"""Objects from the API server are bounded: what exceeds a bound becomes a stub, and the rest of a page goes on."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import orjson
import pytest

from niyanta.bounded_json import MAX_DEPTH, VIOLATION_KEY, BoundedJsonError
from niyanta.cluster.api import json_scan
from niyanta.cluster.api.bounded_objects import MAX_CONTAINERS, MAX_VALUES, read_event, read_object, read_page

pytestmark = pytest.mark.unit

META = {"name": "w", "namespace": "ns", "uid": "u", "resourceVersion": "7", "generation": 2, "labels": {"a": '[{"\\'}}


def workload(value: bytes) -> bytes:
    """A Workload with `value` as a field of its spec."""
    head = orjson.dumps({"apiVersion": "niyanta.io/v1alpha1", "kind": "Workload", "metadata": META})
    return head[:-1] + b',"spec":{"field":' + value + b',"after":1}}'


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


BAD = {
    "depth 100": nested(100),
    "depth 260": nested(260),
    "depth 1100": nested(1_100),
    "depth 700000": nested(700_000),
    "mixed depth": b'[{"a":' * 2_000 + b"1" + b"}]" * 2_000,
    "65 bits": b"36893488147419103232",
    "64 bits without a sign": b"9223372036854775808",
    "5000 digits": b"1" * 5_000,
    "infinity": b"1e400",
    "dense": b"[" + b",".join([b"[]"] * (MAX_CONTAINERS + 1)) + b"]",
    "many values": b"[" + b",".join([b'""'] * (MAX_VALUES + 1)) + b"]",
    "600 KiB": b'"' + b"x" * (600 * 1024) + b'"',
    "4 MiB": b'"' + b"x" * (4 * 1024 * 1024) + b'"',
}


@pytest.mark.parametrize("name", [name for name in BAD if name != "65 bits"])
def test_an_object_out_of_bounds_becomes_a_stub_with_its_identity(name: str) -> None:
    found = read_object(workload(BAD[name]))
    assert found["metadata"] == META
    assert found["spec"] == {}
    assert isinstance(found[VIOLATION_KEY], str)
    assert len(found[VIOLATION_KEY]) < 500


@pytest.mark.parametrize("name", BAD)
def test_every_object_that_is_read_can_be_encoded_and_decoded_by_all(name: str) -> None:
    raw = workload(BAD[name])
    for found in (read_object(raw), read_event(b'{"type":"ADDED","object":' + raw + b"}")):
        assert json.loads(orjson.dumps(found)) == found


@pytest.mark.parametrize("name", BAD)
def test_a_bad_item_leaves_the_rest_of_the_page_alone(name: str) -> None:
    items = b",".join([workload(b'"before"'), workload(BAD[name]), b'"junk"', workload(b'"behind"')])
    head = b'{"kind":"WorkloadList","metadata":{"resourceVersion":"9","continue":"t"},"items":['
    page = read_page(head + items + b"]}")
    assert page["metadata"] == {"resourceVersion": "9", "continue": "t"}
    assert [item["spec"].get("field") for item in page["items"]][::2] == ["before", "behind"]
    assert all(item["metadata"] == META and item["kind"] == "Workload" for item in page["items"])
    assert len(page["items"]) == 3


def test_the_deepest_legal_object_is_read() -> None:
    found = read_object(workload(nested(MAX_DEPTH - 2)))
    assert VIOLATION_KEY not in found
    assert VIOLATION_KEY in read_object(workload(nested(MAX_DEPTH - 1)))


def test_large_numbers_in_strings_are_no_numbers() -> None:
    assert read_object(workload(b'"\\"12345678901234567890"'))["spec"]["field"] == '"12345678901234567890'


def test_users_can_neither_set_nor_hide_a_violation() -> None:
    forged = orjson.loads(workload(b"1")) | {VIOLATION_KEY: "mine"}
    assert VIOLATION_KEY not in read_object(orjson.dumps(forged))


def test_managed_fields_and_the_last_applied_manifest_are_dropped() -> None:
    large = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 1_000, "team": "a"}
    raw = {"metadata": META | {"managedFields": [{"manager": "kubectl"}], "annotations": large}, "spec": {}}
    assert read_object(orjson.dumps(raw))["metadata"] == META | {"annotations": {"team": "a"}}


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"1", b'{"spec":{}', b"\xff", b'{"metadata":{"name":"\xa5"}}', nested(5_000), b'{"a":' * 5_000]
)
def test_what_is_no_object_at_all_is_refused(text: bytes) -> None:
    for read in (read_event, read_page) if text else (read_object, read_event, read_page):
        with contextlib.suppress(BoundedJsonError):
            assert not read(text).get("items")
    with contextlib.suppress(BoundedJsonError):
        assert "metadata" not in read_object(text)


def test_depth_and_pruning_agree_with_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_scan, "BLOCK_BYTES", 7)
    monkeypatch.setattr(json_scan, "FEW_BRACKETS", 0)
    rng = random.Random(4)
    for _ in range(300):
        value = _random_value(rng, 6)
        text = orjson.dumps(value)
        for small in (0, 1 << 16):
            monkeypatch.setattr(json_scan, "SMALL_BYTES", small)
            assert json_scan.shape(text) == (_depth(value), _containers(value))
        for most in range(8):
            assert orjson.loads(json_scan.pruned(text, most)) == _pruned(value, most)


def _random_value(rng: random.Random, levels: int) -> Any:
    kind = rng.choice(("list", "object", "text", "number")) if levels else "text"
    if kind == "list":
        return [_random_value(rng, levels - 1) for _ in range(rng.randrange(4))]
    if kind == "object":
        return {rng.choice('ab"[{\\') + str(i): _random_value(rng, levels - 1) for i in range(rng.randrange(4))}
    return "".join(rng.choices('x"\\[]{}é', k=5)) if kind == "text" else rng.randrange(100)


def _children(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _depth(value: Any) -> int:
    return 1 + max(map(_depth, _children(value)), default=0) if isinstance(value, dict | list) else 0


def _containers(value: Any) -> int:
    return int(isinstance(value, dict | list)) + sum(map(_containers, _children(value)))


def _pruned(value: Any, most: int) -> Any:
    if isinstance(value, dict | list) and most == 0:
        return 0
    if isinstance(value, dict):
        return {key: _pruned(child, most - 1) for key, child in value.items()}
    return [_pruned(child, most - 1) for child in value] if isinstance(value, list) else value
