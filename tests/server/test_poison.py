"""Hostile input to the REST door: whatever comes in, the answer is below 500, and a problem document if it is refused.

NIYANTA_POISON_SECONDS sets the time of the random part (`make poison`: ten minutes).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from testing.scenarios.hostile_input import PHRASES, documents, nested, nested_lists
from tests.server.door_thread import DoorThread
from tests.server.make import manifest

pytestmark = [pytest.mark.store, pytest.mark.poison, pytest.mark.timeout(1200)]

SECONDS = float(os.environ.get("NIYANTA_POISON_SECONDS", "4"))
NDJSON = {"Content-Type": "application/x-ndjson"}

# --- JSON as text, some of it not even JSON --------------------------------------------------------------------------

_escapes = st.sampled_from(
    ["\\u0000", "\\ud800", "\\udfff", "\\ud83d\\ude00", "\\uffff", "\\n", '\\"', "\\x", "\x00", "\t", "é", "\u202e"]
)
_strings = st.lists(st.one_of(_escapes, st.text("ab/.-_=", max_size=5)), max_size=6).map(lambda p: f'"{"".join(p)}"')
_numbers = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(["1e400", "-1e400", "1e-400", "NaN", "Infinity", "-0", "0.0", "1E5", "9" * 5000, "01", "--1"]),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
)
_scalars = st.one_of(_strings, _numbers, st.sampled_from(["null", "true", "false", "", "nul", "{", "]"]))
_special = st.one_of(
    st.sampled_from([30, 33, 260, 1100, 5000]).map(nested),
    st.sampled_from([30, 33, 260, 1100, 5000]).map(nested_lists),
    st.integers(1, 30_000).map(lambda n: "[" + ",".join(["[]"] * n) + "]"),
    st.integers(1, 20_000).map(lambda n: "{" + ",".join(f'"k{i}":{{}}' for i in range(n)) + "}"),
    st.sampled_from(PHRASES).map(lambda phrase: orjson.dumps(phrase).decode()),
    st.sampled_from([1_000, 70_000, 300_000, 1_500_000]).map(lambda n: '"' + "x" * n + '"'),
)
_values = st.recursive(
    st.one_of(_scalars, _scalars, _scalars, _special),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda parts: f"[{','.join(parts)}]"),
        st.lists(st.tuples(_strings, inner), max_size=4).map(
            lambda pairs: "{" + ",".join(f"{key}:{value}" for key, value in pairs) + "}"
        ),
    ),
    max_leaves=8,
)


def _manifest() -> dict[str, Any]:
    found = manifest("poison", affinity={"hard": {"workerTags": {"a": "b"}}, "anti": [{"types": ["x"]}]}, type="x")
    found["metadata"]["labels"] = {"a": "b"}
    container = found["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": "A", "value": "b"}]
    container["resources"] = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"nvidia.com/gpu": 1}}
    found["spec"]["template"]["spec"]["volumes"] = [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}]
    return found


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from _paths(part, (*path, key))


def _with(value: Any, path: tuple[Any, ...], text: str) -> str:
    """JSON text of a value whose part at `path` is `text`."""
    if not path:
        return text

    def part_of(key: Any, part: Any) -> str:
        return _with(part, path[1:], text) if key == path[0] else orjson.dumps(part).decode()

    if isinstance(value, dict):
        return "{" + ",".join(f"{orjson.dumps(key).decode()}:{part_of(key, part)}" for key, part in value.items()) + "}"
    return "[" + ",".join(part_of(key, part) for key, part in enumerate(value)) + "]"


_PATHS = list(_paths(_manifest()))
_manifests = st.builds(lambda path, text: _with(_manifest(), path, text), st.sampled_from(_PATHS), _values)
_bodies = st.one_of(_manifests, _manifests, _values).map(lambda text: text.encode("utf-8", "surrogatepass"))
_lines = st.one_of(_bodies, st.binary(max_size=30), st.sampled_from([b"", b" ", b"\r", b"{}"]))
_odd_texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["\x00", "a\x00b", "\ud800", "9" * 30, "-1", "e30", "W10", "WzEsIjEiXQ", "A" * 300, "%00", "1/1"]),
)
_queries = st.dictionaries(
    st.sampled_from(["status", "type", "name", "customer", "createdAfter", "limit", "cursor", "withSpec", "x"]),
    _odd_texts,
    max_size=3,
)
_headers = st.dictionaries(
    st.sampled_from(["Idempotency-Key", "Niyanta-Position", "Authorization", "Content-Type", "Content-Length"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=20),
    max_size=2,
)
_segments = st.one_of(_odd_texts, st.just("00000000-0000-0000-0000-000000000000"))
_reads = st.builds(
    str.format,
    st.sampled_from(
        [
            "/v1/workloads",
            "/v1/workloads/{}",
            "/v1/workloads/{}/explain",
            "/v1/workloads/{}/events",
            "/v1/customer",
            "/v1/customer/stats",
            "/v1/pools/{}/figures",
            "/v1/pools/{}/decisions",
            "/v1/workers",
            "/v1/metrics/queue-depth",
            "/{}",
        ]
    ),
    _segments.map(lambda text: "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))),
)


def _check(answer: httpx.Response) -> None:
    if answer.status_code == 503:
        assert "urn:niyanta:problem:stale-figures" in answer.text or "timed out" in answer.text, answer.text
    else:
        assert answer.status_code < 500, answer.text[:2000]
    if answer.status_code >= 400 and answer.content:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"].startswith("urn:niyanta:problem:")
        assert len(answer.content) < 200_000


@pytest.fixture(scope="module")
def rest(_shared_dsn: str) -> Iterator[DoorThread]:
    found = DoorThread(_shared_dsn)
    yield found
    found.close()


def test_the_corpus_is_answered_below_500(rest: DoorThread) -> None:
    headers = {"Authorization": f"Bearer {rest.tokens[0]}"}
    corpus = list(documents("acme", prefix="p"))
    for name, text in corpus:
        answer = rest.send("POST", "/v1/workloads", content=text, headers=headers)
        assert answer.status_code in (202, 400, 409, 413, 422), (name, answer.text[:500])
        _check(answer)
    small = [text for _, text in corpus if b"\n" not in text]
    answer = rest.send("POST", "/v1/workloads:batch", content=b"\n".join(small), headers=headers | NDJSON)
    assert answer.status_code == 207
    assert [item["line"] for item in answer.json()["items"]] == list(range(len(small)))


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (nested(260), "at most 32 levels"),
        (nested(1100), ""),
        (str(2**63), "integers need 64 bits"),
        ("1e400", ""),
        ('"\\ud800"', ""),
    ],
)
def test_what_cannot_be_read_is_named(rest: DoorThread, field: str, words: str) -> None:
    headers = {"Authorization": f"Bearer {rest.tokens[0]}"}
    text = _with(_manifest(), ("spec", "template", "spec", "containers", 0, "env", 0, "value"), field).encode()
    answer = rest.send("POST", "/v1/workloads", content=text, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:niyanta:problem:bad-request")
    assert words in answer.json()["detail"]
    batch = rest.send("POST", "/v1/workloads:batch", content=b"\n" + text, headers=headers | NDJSON)
    assert [(item["line"], item["status"]) for item in batch.json()["items"]] == [(1, 400)]


def test_random_input_is_answered_below_500(rest: DoorThread) -> None:
    def send(method: str, path: str, *, content: bytes = b"", extra: dict[str, Any] | None = None) -> None:
        for token in rest.tokens:
            headers = {"Authorization": f"Bearer {token}", **(extra or {})}
            try:
                answer = rest.send(method, path, headers=headers, content=content)
            except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeError):
                return  # no client can send it
            _check(answer)

    @settings(
        max_examples=60,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(body=_bodies, lines=st.lists(_lines, max_size=6), path=_reads, query=_queries, headers=_headers)
    def some(body: bytes, lines: list[bytes], path: str, query: dict[str, str], headers: dict[str, str]) -> None:
        send("POST", "/v1/workloads", content=body)
        send("POST", "/v1/workloads:batch", content=b"\n".join(lines), extra=NDJSON)
        encoded = {name: text.encode("latin-1") for name, text in headers.items()}
        asked = urlencode({name: text.encode("utf-8", "surrogatepass") for name, text in query.items()})
        send("GET", f"/v1/workloads?{asked}")
        send("GET", f"{path}?{asked}")
        send("GET", path, extra=encoded)
        send("POST", "/v1/workloads", content=body, extra=encoded)

    started = time.monotonic()
    while True:
        some()
        if time.monotonic() - started > SECONDS:
            break
