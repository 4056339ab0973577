"""Requests: retries, their limit, and the errors shown to the user."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from niyanta.client import api as api_module
from niyanta.client.api import Api
from niyanta.client.config import Config
from niyanta.client.errors import Exit, RefusedError, UnavailableError, UsageError
from niyanta.client.lookup import find_id

pytestmark = pytest.mark.unit

Answers = Iterator[httpx.Response | Exception]


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds slept so far; sleeping returns at once and advances the clock."""
    taken: list[float] = []
    monkeypatch.setattr(api_module.time, "sleep", taken.append)
    monkeypatch.setattr(api_module.time, "monotonic", lambda: sum(taken))
    return taken


def api(answers: list[httpx.Response | Exception], seen: list[httpx.Request], **config: Any) -> Api:
    """An Api whose server gives these responses in turn."""
    rest_of = iter(answers)

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        answer = next(rest_of)
        if isinstance(answer, Exception):
            raise answer
        return answer

    settings = Config(**{"url": "https://door.example", "key": "nyt_acme_1", **config})
    return Api(settings, notify=lambda _: None, transport=httpx.MockTransport(handle))


def problem(status: int, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    body = json.dumps({"type": "urn:niyanta:problem:x", "title": "Refused", "status": status, **fields})
    return httpx.Response(status, headers={"Content-Type": "application/problem+json", **(headers or {})}, text=body)


def test_a_submission_is_sent_again_under_the_same_key(sleeps: list[float]) -> None:
    seen: list[httpx.Request] = []
    answers = [httpx.ConnectError("refused"), problem(503, {"Retry-After": "2"}), httpx.ReadTimeout("slow")]
    door = api([*answers, httpx.Response(202, json={"id": "a"})], seen)
    assert door.post("/v1/workloads", {"kind": "Workload"}, key="k1") == {"id": "a"}
    assert [request.headers["Idempotency-Key"] for request in seen] == ["k1"] * 4
    assert len({request.content for request in seen}) == 1
    assert 2.0 in sleeps
    assert {request.headers["Authorization"] for request in seen} == {"Bearer nyt_acme_1"}


def test_a_name_takes_one_request_and_prefers_unfinished_workloads() -> None:
    def named(id_: str, phase: str, **more: str) -> dict[str, str]:
        return {"id": id_, "name": "nightly", "namespace": "a", "phase": phase, **more}

    def door(*items: dict[str, str]) -> Api:
        return api([httpx.Response(200, json={"items": list(items), "next": None})], seen)

    seen: list[httpx.Request] = []
    assert find_id(door(named("new", "Failed"), named("live", "Running"), named("old", "Failed")), "nightly") == "live"
    assert find_id(door(named("new", "Failed"), named("old", "Succeeded")), "a/nightly") == "new"
    by_object = named("rest", "Running", objectName="nightly-0b821f4a")
    assert find_id(door(by_object), "nightly-0b821f4a") == "rest"
    with pytest.raises(UsageError, match="several workloads"):
        find_id(door(named("one", "Held"), named("two", "Pending", namespace="b")), "nightly")
    assert find_id(door(named("one", "Held"), named("two", "Pending", namespace="b")), "b/nightly") == "two"
    with pytest.raises(RefusedError, match="no workload nightly"):
        find_id(door(), "nightly")
    assert [dict(request.url.params)["name"] for request in seen[:2]] == ["nightly", "nightly"]
    assert len(seen) == 6, "one each"


def test_retries_end_after_retry_seconds(sleeps: list[float]) -> None:
    door = api([httpx.ConnectError("refused")] * 100, [], retry_seconds=10)
    with pytest.raises(UnavailableError, match="refused") as gone:
        door.get("/v1/workloads")
    assert gone.value.code is Exit.UNAVAILABLE
    assert 5 < sum(sleeps) <= 10


def test_a_retry_after_beyond_the_remaining_time_ends_it_at_once(sleeps: list[float]) -> None:
    door = api([problem(503, {"Retry-After": "120"}, detail="full")], [])
    with pytest.raises(UnavailableError, match=r"503.*full") as gone:
        door.post("/v1/workloads", {}, key="k")
    assert sleeps == []
    assert "120 s" in gone.value.notes[0]


def test_429_is_a_refusal_when_the_time_is_up(sleeps: list[float]) -> None:
    seen: list[httpx.Request] = []
    door = api([problem(429, {"Retry-After": "1"}), httpx.Response(202, json={})], seen)
    door.post("/v1/workloads", {}, key="k")
    assert len(seen) == 2
    door = api([problem(429, {"Retry-After": "600"}, detail="the queue is full")], [])
    with pytest.raises(RefusedError, match="the queue is full"):
        door.post("/v1/workloads", {}, key="k")


def test_a_refusal_is_not_retried_and_names_the_fields(sleeps: list[float]) -> None:
    errors = [{"field": "spec.replicas", "message": "must be at most 512"}]
    door = api([problem(422, title="The manifest is refused", detail="twice the same", errors=errors)], [])
    with pytest.raises(RefusedError) as refusal:
        door.post("/v1/workloads", {}, key="k")
    assert (str(refusal.value), refusal.value.notes) == (
        "The manifest is refused",
        ("spec.replicas: must be at most 512",),
    )
    assert refusal.value.code is Exit.REFUSED
    assert sleeps == []


def test_a_missing_key_is_reported(sleeps: list[float]) -> None:
    with pytest.raises(RefusedError) as refusal:
        api([problem(401)], [], key="").get("/v1/workloads")
    assert "NIYANTA_API_KEY" in refusal.value.notes[-1]


def test_an_untrusted_certificate_ends_it_at_once(sleeps: list[float]) -> None:
    error = httpx.ConnectError("certificate verify failed")
    error.__cause__ = ssl.SSLCertVerificationError("self-signed certificate")
    with pytest.raises(UnavailableError, match="not trusted"):
        api([error], []).get("/v1/workloads")
    assert sleeps == []


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, headers={"Content-Type": "text/html"}, text="<h1>hello</h1>"),
        httpx.Response(302, headers={"Location": "https://login.example"}),
        httpx.Response(500, text="oops"),
    ],
    ids=["html", "redirect", "bug"],
)
def test_responses_of_other_servers_are_reported(answer: httpx.Response, sleeps: list[float]) -> None:
    with pytest.raises(UnavailableError):
        api([answer], []).get("/v1/workloads")


def test_pages_are_read_while_there_is_a_next_one() -> None:
    seen: list[httpx.Request] = []

    def page(items: list[int], cursor: str | None) -> httpx.Response:
        return httpx.Response(200, json={"items": items, "next": cursor})

    make: Callable[[], list[httpx.Response | Exception]] = lambda: [page([1, 2], "a"), page([], "b"), page([3], None)]  # noqa: E731
    assert list(api(make(), seen).pages("/v1/workloads", {"status": ["Pending", "Held"]})) == [1, 2, 3]
    assert [request.url.params.get("cursor") for request in seen] == [None, "a", "b"]
    assert seen[2].url.params.get_list("status") == ["Pending", "Held"]
    assert list(api(make(), []).pages("/v1/workloads", limit=2)) == [1, 2]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "Mon, 05 Jan 2026 10:00:09 GMT", "Date": "Mon, 05 Jan 2026 10:00:00 GMT"}, 9.0),
        ({"Retry-After": "Mon, 05 Jan 2026 09:00:00 GMT", "Date": "Mon, 05 Jan 2026 10:00:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-3"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_both_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert api_module.retry_after(httpx.Response(503, headers=headers)) == seconds
