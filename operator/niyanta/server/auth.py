"""Authentication by API key (`Authorization: Bearer nyt_<customer>_<secret>`), looked up in Postgres and cached.

Keys that were valid lately are looked up without limits and are never displaced by unknown ones, so a flood of wrong
keys keeps no customer out.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request

from niyanta.server.limits.budgets import LIMITED
from niyanta.server.limits.token_bucket import TokenBucket, TokenBuckets
from niyanta.server.problems import FORBIDDEN, TOO_MANY, UNAUTHORIZED, Problem
from niyanta.store.rest.api_keys import ApiKey, ApiKeys, Role

CACHE_SECONDS = 1.0
"""A revoked key stops working within this time."""
VALID_LATELY_SECONDS = 600.0
"""Time after its last valid lookup in which a key is looked up again without limits."""
MOST_LOOKUPS = 32
"""Lookups of other keys at once."""
FAILURES_PER_SECOND, FAILURES_BURST = 200.0, 1000.0
"""Lookups without a result, before other keys than those that were valid lately are refused with 429."""
PEER_FAILURES_PER_SECOND, PEER_FAILURES_BURST = 20.0, 100.0
"""The same for one address."""
_CACHED_KEYS = 10_000
_LONGEST_TOKEN = 200
_PEERS = 10_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated caller: its customer and role."""

    customer: str
    admin: bool
    key_id: str
    observer: bool = False
    """A key of role metrics: it may read pool statistics and nothing else."""

    def sees(self, customer: str) -> bool:
        """True when this principal may see workloads of that customer."""
        return self.admin or customer == self.customer

    def require_pool_stats(self) -> None:
        """Raises Problem (403) unless the key has role admin or metrics."""
        if not (self.admin or self.observer):
            raise Problem(FORBIDDEN, "this needs a key of role admin or metrics")

    def require_admin(self) -> None:
        """Raises Problem (403) unless the key has role admin."""
        if not self.admin:
            raise Problem(FORBIDDEN, "this needs a key of role admin")


class Authenticator:
    """Checks keys. Results, negative ones too, are cached for CACHE_SECONDS."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys
        self._valid: OrderedDict[bytes, tuple[float, ApiKey]] = OrderedDict()
        """Keys that were valid lately, with the time of the lookup."""
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._running: dict[bytes, asyncio.Task[ApiKey | None]] = {}
        self._limited: set[bytes] = set()
        """Those of the running lookups that MOST_LOOKUPS limits."""
        self._failures = TokenBucket(FAILURES_PER_SECOND, FAILURES_BURST)
        self._failures_by_peer = TokenBuckets(PEER_FAILURES_PER_SECOND, PEER_FAILURES_BURST, most=_PEERS)

    async def principal(self, request: Request) -> Principal:
        """The caller of a request; raises Problem (401, or 429 for too many unknown keys)."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise Problem(UNAUTHORIZED, "send the header Authorization: Bearer nyt_...")
        key = None
        if token.startswith("nyt_") and len(token) <= _LONGEST_TOKEN:
            key = await self._find(token, request.client.host if request.client else "")
        if key is None:
            raise Problem(UNAUTHORIZED, "the key is unknown, expired or revoked")
        return Principal(key.customer, key.role is Role.ADMIN, key.id, key.role is Role.METRICS)

    async def _find(self, token: str, peer: str) -> ApiKey | None:
        # Keyed by digest, so that no secret stays in memory longer than its request.
        digest = hashlib.sha256(token.encode()).digest()
        now = time.monotonic()
        at, key = self._valid.get(digest, (float("-inf"), None))
        if now - at <= CACHE_SECONDS:
            return key
        if now - self._unknown.get(digest, float("-inf")) <= CACHE_SECONDS:
            return None
        running = self._running.get(digest)
        if running is None:
            if now - at > VALID_LATELY_SECONDS:
                self._require_lookup(peer)
                self._limited.add(digest)
            running = self._running[digest] = asyncio.create_task(self._look_up(token, digest, peer))
            running.add_done_callback(_retrieve)
        # Shielded, because several requests with the key wait for one lookup.
        return await asyncio.shield(running)

    def _require_lookup(self, peer: str) -> None:
        """Raises Problem (429) when there were too many unknown keys lately, or too many lookups are running."""
        if self._failures.empty() or self._failures_by_peer.empty(peer):
            LIMITED.labels("unknown_keys").inc()
            raise Problem(TOO_MANY, "too many requests with unknown keys came in; the limit is on those", retry_after=1)
        if len(self._limited) >= MOST_LOOKUPS:
            LIMITED.labels("key_lookups").inc()
            raise Problem(TOO_MANY, f"{MOST_LOOKUPS} lookups of keys are in progress, the limit", retry_after=1)

    async def _look_up(self, token: str, digest: bytes, peer: str) -> ApiKey | None:
        try:
            found = await self._keys.check(token)
        finally:
            del self._running[digest]
            self._limited.discard(digest)
        now = time.monotonic()
        if found is not None:
            _keep(self._valid, digest, (now, found))
            return found
        self._valid.pop(digest, None)
        _keep(self._unknown, digest, now)
        self._failures.take()
        self._failures_by_peer.take(peer)
        return None


def _keep(cache: OrderedDict[bytes, T], digest: bytes, value: T) -> None:
    cache[digest] = value
    cache.move_to_end(digest)
    if len(cache) > _CACHED_KEYS:
        cache.popitem(last=False)


def _retrieve(task: asyncio.Task[ApiKey | None]) -> None:
    """Mark the error as seen: those who waited for the task may all be gone."""
    if not task.cancelled():
        task.exception()
