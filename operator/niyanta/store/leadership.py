"""Leadership: one row (holder, epoch, expires_at), changed by compare-and-swap on the database's clock.

The scheduler keeps the epoch; `StateManager` checks it inside every commit.
"""

from __future__ import annotations

from dataclasses import dataclass

from psycopg.errors import LockNotAvailable

from niyanta.store.errors import StaleEpochError
from niyanta.store.postgres.pool import LOCK_TIMEOUT_MS, Connection, Pool, fetch


@dataclass(frozen=True, slots=True)
class LeaderRecord:
    """The leadership row. `expires_in` is seconds, 0 or less when there is no leader."""

    holder: str
    epoch: int
    expires_in: float


class Leadership:
    """A candidate's access to the leadership row. `holder` must be unique among processes; `lease` is seconds."""

    def __init__(self, pool: Pool, holder: str, lease: float) -> None:
        self._pool = pool
        self.holder = holder
        self.lease = lease

    async def try_acquire(self) -> int | None:
        """Take leadership if it is free: returns the new epoch, else None.

        Waits for commits of the last leader that are in progress, at most LOCK_TIMEOUT_MS, so that they precede the new
        epoch. The server's timeouts end the transaction of a dead client.
        """
        try:
            async with self._pool.transaction() as connection:
                await connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS:d}".encode())
                try:
                    rows = await fetch(connection, "leadership_acquire", self._params())
                except LockNotAvailable as error:
                    raise _StillHeldError from error
        except _StillHeldError:
            return None
        return int(rows[0][0]) if rows else None

    async def renew(self, epoch: int) -> bool:
        """Renew the lease; False: it ran out or has another holder, and this process must stop leading."""
        return await self._pool.execute("leadership_renew", self._params(epoch=epoch)) == 1

    async def release(self, epoch: int) -> None:
        """End leadership at once; no effect when another process leads."""
        await self._pool.execute("leadership_release", self._params(epoch=epoch))

    async def current(self) -> LeaderRecord:
        """The current leader."""
        ((holder, epoch, expires_in),) = await self._pool.fetch("leadership_current")
        return LeaderRecord(holder, epoch, expires_in)

    async def adopt_epoch(self, minimum: int) -> int:
        """Raise this process's epoch above `minimum` (that of a fence, after a restore); returns the epoch.

        Raises StaleEpochError when this process doesn't lead.
        """
        rows = await self._pool.fetch("leadership_adopt", self._params(minimum=minimum))
        if not rows:
            raise StaleEpochError(f"{self.holder} doesn't lead")
        return int(rows[0][0])

    async def database_identity(self) -> str:
        """UUID of this database, created by the first migration."""
        return str((await self._pool.fetch("database_identity"))[0][0])

    def _params(self, **more: object) -> dict[str, object]:
        return {"holder": self.holder, "lease": self.lease, **more}


class _StillHeldError(Exception):
    """The old leader's commits did not end in time."""


async def check_epoch(connection: Connection, epoch: int, holder: str) -> int:
    """Inside a transaction: lock the leadership row until it ends. Returns µs of the database clock.

    Raises StaleEpochError when `holder` doesn't lead with `epoch` any more.
    """
    rows = await fetch(connection, "leadership_check", {"epoch": epoch, "holder": holder})
    if not rows:
        raise StaleEpochError(f"{holder} doesn't lead with epoch {epoch}")
    return int(rows[0][0])


async def begin(connection: Connection, epoch: int | None, holder: str) -> int:
    """First statement of a writing transaction: the epoch check, if any. Returns µs of the database clock."""
    if epoch is None:
        return int((await fetch(connection, "clock"))[0][0])
    return await check_epoch(connection, epoch, holder)
