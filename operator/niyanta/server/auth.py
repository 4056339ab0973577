"""Authentication by API key (`Authorization: Bearer nyt_<customer>_<secret>`), looked up in Postgres and cached."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass

from starlette.requests import Request

from niyanta.server.problems import FORBIDDEN, UNAUTHORIZED, Problem
from niyanta.store.rest.api_keys import ApiKey, ApiKeys, Role

CACHE_SECONDS = 1.0
"""A revoked key stops working within this time."""
_CACHED_KEYS = 10_000


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
        self._cache: OrderedDict[bytes, tuple[float, ApiKey | None]] = OrderedDict()

    async def principal(self, request: Request) -> Principal:
        """The caller of a request; raises Problem (401)."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Problem(UNAUTHORIZED, "send the header Authorization: Bearer nyt_...")
        key = await self._find(token.strip())
        if key is None:
            raise Problem(UNAUTHORIZED, "the key is unknown, expired or revoked")
        return Principal(key.customer, key.role is Role.ADMIN, key.id, key.role is Role.METRICS)

    async def _find(self, token: str) -> ApiKey | None:
        # Keyed by digest, so that no secret stays in memory longer than its request.
        digest = hashlib.sha256(token.encode()).digest()
        now = time.monotonic()
        if (cached := self._cache.get(digest)) is not None and cached[0] > now:
            return cached[1]
        found = await self._keys.check(token)
        self._cache[digest] = (now + CACHE_SECONDS, found)
        self._cache.move_to_end(digest)
        while len(self._cache) > _CACHED_KEYS:
            self._cache.popitem(last=False)
        return found
