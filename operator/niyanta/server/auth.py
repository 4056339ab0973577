"""Who asks: `Authorization: Bearer nyt_<customer>_<secret>`, looked up in Postgres and remembered for a second."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass

from starlette.requests import Request

from niyanta.server.problems import FORBIDDEN, UNAUTHORIZED, Problem
from niyanta.store.rest.api_keys import ApiKey, ApiKeys, Role

REMEMBERED_SECONDS = 1.0
"""A revoked key stops working within this time."""
_REMEMBERED_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, and for which customer."""

    customer: str
    admin: bool
    key_id: str
    observer: bool = False
    """An autoscaler's key: it may read the figures of pools and nothing else."""

    def sees(self, customer: str) -> bool:
        """Whether workloads of that customer exist for this principal."""
        return self.admin or customer == self.customer

    def require_figures(self) -> None:
        """Raises Problem for those who may not know how busy pools are."""
        if not (self.admin or self.observer):
            raise Problem(FORBIDDEN, "this needs a key of role admin or metrics")

    def require_admin(self) -> None:
        """Raises Problem for customers' keys."""
        if not self.admin:
            raise Problem(FORBIDDEN, "this needs a key of role admin")


class Authenticator:
    """Checks keys; what was found, and that nothing was found, is remembered for REMEMBERED_SECONDS."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys
        self._known: OrderedDict[bytes, tuple[float, ApiKey | None]] = OrderedDict()

    async def principal(self, request: Request) -> Principal:
        """Raises Problem (401)."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Problem(UNAUTHORIZED, "send the header Authorization: Bearer nyt_...")
        key = await self._find(token.strip())
        if key is None:
            raise Problem(UNAUTHORIZED, "the key is unknown, expired or revoked")
        return Principal(key.customer, key.role is Role.ADMIN, key.id, key.role is Role.METRICS)

    async def _find(self, token: str) -> ApiKey | None:
        # By digest, so that no secret stays in memory longer than its request.
        digest = hashlib.sha256(token.encode()).digest()
        now = time.monotonic()
        if (seen := self._known.get(digest)) is not None and seen[0] > now:
            return seen[1]
        found = await self._keys.check(token)
        self._known[digest] = (now + REMEMBERED_SECONDS, found)
        self._known.move_to_end(digest)
        while len(self._known) > _REMEMBERED_MOST:
            self._known.popitem(last=False)
        return found
