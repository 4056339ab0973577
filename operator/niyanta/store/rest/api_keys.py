"""API keys: `nyt_<customer>_<64 hex>`. Postgres stores the SHA-256 of the whole key and a prefix of its secret.

A slow hash (bcrypt, argon2) protects secrets that people choose. 256 random bits can't be guessed however fast the hash
is, and with a fast one many requests with wrong keys cost little CPU.
"""

from __future__ import annotations

import enum
import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime

from niyanta.store import columns
from niyanta.store.postgres.pool import Pool
from niyanta.store.row_mapping import row_mapper

_TOKEN = re.compile(r"nyt_([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)_([0-9a-f]{64})")
_PREFIX_DIGITS = 12
"""Hex digits of the secret used to look up its row. Postgres compares the hash, whose bytes tell nothing of the key."""


class Role(enum.Enum):
    """Permissions of a key."""

    CUSTOMER = "customer"
    """Only its customer's workloads."""
    ADMIN = "admin"
    """Every customer's workloads, workers and pools."""
    METRICS = "metrics"
    """Only the demand statistics of pools: for autoscalers."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A stored key, without its secret."""

    id: str
    customer: str
    role: Role
    name: str
    prefix: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


_api_key = row_mapper(ApiKey, columns.API_KEY, role=Role)


class ApiKeys:
    """Makes, lists, revokes and checks keys."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(
        self, customer: str, role: Role, *, name: str = "", expires_in_days: float | None = None
    ) -> tuple[ApiKey, str]:
        """A new key and its token, which isn't stored. Raises ValueError for an invalid customer name."""
        token = f"nyt_{customer}_{secrets.token_hex(32)}"
        if (match := _TOKEN.fullmatch(token)) is None:
            raise ValueError(f"{customer!r} is not a valid name of a Customer")
        params = {"customer": customer, "role": role.value, "name": name, "days": expires_in_days}
        params |= {"prefix": match[2][:_PREFIX_DIGITS], "hash": _hash(token)}
        return _api_key((await self._pool.fetch("add_key", params))[0]), token

    async def all(self, customer: str | None = None) -> list[ApiKey]:
        """Keys of one customer or all, revoked and expired ones too."""
        return [_api_key(row) for row in await self._pool.fetch("keys", {"customer": customer})]

    async def expiring(self, days: float) -> int:
        """Number of keys that expire within this time, without those that have expired."""
        ((count,),) = await self._pool.fetch("expiring_keys", {"days": days})
        return int(count)

    async def revoke(self, id_or_prefix: str) -> list[ApiKey]:
        """Revoke by id or prefix; returns the keys revoked now."""
        return [_api_key(row) for row in await self._pool.fetch("revoke_key", {"id": id_or_prefix})]

    async def check(self, token: str) -> ApiKey | None:
        """The valid key of `token`; None for an unknown, expired or revoked one."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            return None
        params = {"prefix": match[2][:_PREFIX_DIGITS], "hash": _hash(token)}
        for row in await self._pool.fetch("live_key", params):
            key = _api_key(row)
            if key.customer == match[1]:
                return key
        return None


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
