"""Lookups of keys: bounded for unknown ones, shared by requests with one key, and free for keys that were valid."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from starlette.requests import Request

from niyanta.server import auth
from niyanta.server.auth import Authenticator
from niyanta.server.problems import Problem
from niyanta.store.rest.api_keys import ApiKey, Role

pytestmark = pytest.mark.unit

GOOD = "nyt_acme_" + "a" * 64


class KeyTable:
    """Stands in for ApiKeys: one good key, and lookups that can be held up."""

    def __init__(self) -> None:
        self.lookups = 0
        self.open = asyncio.Event()
        self.open.set()

    async def check(self, token: str) -> ApiKey | None:
        self.lookups += 1
        await self.open.wait()
        return ApiKey("id", "acme", Role.CUSTOMER, "", "", datetime.now(UTC)) if token == GOOD else None


def request(token: str, peer: str = "10.0.0.1") -> Request:
    headers = [(b"authorization", f"Bearer {token}".encode())]
    return Request({"type": "http", "headers": headers, "client": (peer, 1)})


def wrong(number: int) -> str:
    return f"nyt_acme_{number:064x}"


async def status(checker: Authenticator, token: str, peer: str = "10.0.0.1") -> int:
    try:
        await checker.principal(request(token, peer))
    except Problem as problem:
        return problem.kind.status
    return 200


@pytest.fixture
def keys() -> KeyTable:
    return KeyTable()


@pytest.fixture
def checker(keys: KeyTable) -> Authenticator:
    return Authenticator(keys)  # type: ignore[arg-type]


async def test_requests_with_one_key_share_a_lookup(keys: KeyTable, checker: Authenticator) -> None:
    keys.open.clear()
    waiting = [asyncio.create_task(status(checker, GOOD)) for _ in range(100)]
    await asyncio.sleep(0)
    keys.open.set()
    assert await asyncio.gather(*waiting) == [200] * 100
    assert keys.lookups == 1


async def test_lookups_at_once_are_limited(keys: KeyTable, checker: Authenticator) -> None:
    keys.open.clear()
    waiting = [asyncio.create_task(status(checker, wrong(n))) for n in range(auth.MOST_LOOKUPS)]
    await asyncio.sleep(0)
    assert await status(checker, wrong(1000)) == 429
    keys.open.set()
    assert await asyncio.gather(*waiting) == [401] * auth.MOST_LOOKUPS
    assert await status(checker, wrong(1000)) == 401


async def test_a_flood_of_unknown_keys_is_refused_without_lookups(
    keys: KeyTable, checker: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await status(checker, GOOD) == 200
    statuses = [await status(checker, wrong(n)) for n in range(5000)]
    assert statuses[: int(auth.PEER_FAILURES_BURST)] == [401] * int(auth.PEER_FAILURES_BURST)
    assert statuses.count(429) > 4000
    assert keys.lookups < 1000
    assert await status(checker, wrong(-1 % 2**200), peer="10.0.0.2") == 401, "another address is not refused"
    monkeypatch.setattr(auth, "CACHE_SECONDS", -1.0)
    assert await status(checker, GOOD) == 200, "a key that was valid lately is looked up all the same"


async def test_unknown_keys_displace_no_valid_one(
    keys: KeyTable, checker: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_CACHED_KEYS", 10)
    assert await status(checker, GOOD) == 200
    for number in range(50):
        assert await status(checker, wrong(number)) == 401
    before = keys.lookups
    assert await status(checker, GOOD) == 200
    assert keys.lookups == before
    assert len(checker._unknown) == 10


@pytest.mark.parametrize("token", ["x", "nyt_", "nyt_" + "x" * 300, "Bearer nyt_a"])
async def test_tokens_of_another_form_are_never_looked_up(keys: KeyTable, checker: Authenticator, token: str) -> None:
    keys.open.clear() if token != "nyt_" else None
    assert await status(checker, token) == 401
