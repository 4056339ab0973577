"""There is one leader at a time, and a former leader cannot write."""

from __future__ import annotations

import asyncio

import pytest

from niyanta.lifecycle import Event, Phase
from niyanta.settings import Settings
from niyanta.store.errors import StaleEpochError
from niyanta.store.leadership import Leadership, check_epoch
from niyanta.store.postgres.pool import Pool
from niyanta.store.rows import PendingNote
from niyanta.store.state import StateManager
from tests.store.make import arrive, change, intake

pytestmark = pytest.mark.store


async def _expire(pool: Pool) -> None:
    async with pool.connection() as connection:
        await connection.execute("UPDATE leadership SET expires_at = now() - interval '1 second'")


async def test_of_many_candidates_one_leads(pool: Pool) -> None:
    candidates = [Leadership(pool, f"p{number}", 60.0) for number in range(16)]
    epochs = await asyncio.gather(*(candidate.try_acquire() for candidate in candidates))
    assert sorted(epoch for epoch in epochs if epoch is not None) == [1]
    leader = await candidates[0].current()
    assert leader.holder == candidates[epochs.index(1)].holder
    assert 50 < leader.expires_in <= 60


async def test_a_lease_ends_by_the_database_clock_and_cannot_be_renewed_then(pool: Pool) -> None:
    first, second = Leadership(pool, "a", 0.4), Leadership(pool, "b", 60.0)
    assert await first.try_acquire() == 1
    assert await first.renew(1)
    assert await second.try_acquire() is None
    await asyncio.sleep(0.5)
    assert not await first.renew(1)
    assert await second.try_acquire() == 2
    assert not await first.renew(2)
    assert (await second.current()).holder == "b"


async def test_released_leadership_is_free_at_once(pool: Pool) -> None:
    first, second = Leadership(pool, "a", 60.0), Leadership(pool, "b", 60.0)
    assert await first.try_acquire() == 1
    await second.release(1)
    assert await second.try_acquire() is None
    await first.release(1)
    assert (await first.current()).expires_in <= 0
    assert await second.try_acquire() == 2


async def test_a_stale_leader_cannot_write_anything(
    pool: Pool, settings: Settings, state: StateManager, epoch: int
) -> None:
    row = await arrive(state, epoch=epoch)
    await _expire(pool)
    for successor in (None, "other", "leader"):
        # The lease expired without a successor; another process leads; this process has a newer epoch.
        if successor is not None:
            await Leadership(pool, successor, 60.0).try_acquire()
        with pytest.raises(StaleEpochError):
            await state.update_workload_status_batch([change(row, Event.PLACE)], epoch=epoch)
        with pytest.raises(StaleEpochError):
            await state.take_in([intake()], epoch=epoch)
        with pytest.raises(StaleEpochError):
            await state.note_pending([PendingNote(row.id, row.version, "a", "b")], epoch=epoch)
        with pytest.raises(StaleEpochError):
            await state.set_wake([row.id], 5.0, epoch=epoch)
        with pytest.raises(StaleEpochError):
            await state.retier("acme", 50, epoch=epoch)
        with pytest.raises(StaleEpochError):
            await state.reassign(row.id, customer="x", tier_weight=1, epoch=epoch)
        await _expire(pool)
    assert await state.get_workloads([row.id]) == [row]
    assert (await state.get_queue_depth()).total.pending == 1


async def test_an_epoch_is_valid_for_its_holder_only(pool: Pool, settings: Settings, epoch: int) -> None:
    thief = StateManager(pool, settings.model_copy(update={"identity": "thief"}))
    with pytest.raises(StaleEpochError):
        await thief.take_in([intake()], epoch=epoch)


async def test_a_take_over_waits_for_the_commit_under_way_and_the_next_commit_fails(
    pool: Pool, state: StateManager, epoch: int
) -> None:
    row = await arrive(state, epoch=epoch)
    async with pool.transaction() as connection:
        await check_epoch(connection, epoch, "leader")
        await _expire_elsewhere(pool)
        taking = asyncio.create_task(Leadership(pool, "other", 60.0).try_acquire())
        done, _ = await asyncio.wait([taking], timeout=0.3)
        assert not done
        await connection.execute("UPDATE workload_state SET message = 'in time' WHERE id = %s", [row.id])
    assert await taking == epoch + 1
    assert (await state.get_workloads([row.id]))[0].message == "in time"
    with pytest.raises(StaleEpochError):
        await state.update_workload_status_batch([change(row, Event.PLACE)], epoch=epoch)


async def _expire_elsewhere(pool: Pool) -> None:
    """Expire the lease without changing the key, so that a commit in progress isn't blocked."""
    await asyncio.wait_for(_expire(pool), 1.0)


async def test_a_commit_that_waited_for_a_take_over_is_stale(pool: Pool, state: StateManager, epoch: int) -> None:
    row = await arrive(state, epoch=epoch)
    async with pool.transaction() as connection:
        await connection.execute("UPDATE leadership SET epoch = epoch + 1, holder = 'other'")
        committing = asyncio.create_task(state.update_workload_status_batch([change(row, Event.PLACE)], epoch=epoch))
        done, _ = await asyncio.wait([committing], timeout=0.3)
        assert not done
    with pytest.raises(StaleEpochError):
        await committing
    assert await state.get_workloads([row.id]) == [row]


async def test_renewals_pass_a_commit_that_is_under_way(pool: Pool, leadership: Leadership, epoch: int) -> None:
    async with pool.transaction() as connection:
        await check_epoch(connection, epoch, "leader")
        assert await asyncio.wait_for(leadership.renew(epoch), 1.0)
        # The lock survives the renewal: a take-over still has to wait.
        await _expire_elsewhere(pool)
        taking = asyncio.create_task(Leadership(pool, "other", 60.0).try_acquire())
        done, _ = await asyncio.wait([taking], timeout=0.3)
        assert not done
    assert await taking == epoch + 1


async def test_a_holder_that_is_gone_in_mid_transaction_does_not_block_for_long(
    pool: Pool, state: StateManager, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool.connection() as connection:
        # Like the settings of every session, with shorter timeouts.
        await connection.execute("SET idle_in_transaction_session_timeout = 600")
        await connection.execute("BEGIN")
        await check_epoch(connection, epoch, "leader")
        await _expire_elsewhere(pool)
        started = asyncio.get_running_loop().time()
        other = Leadership(pool, "other", 60.0)
        assert await other.try_acquire() == epoch + 1
        assert asyncio.get_running_loop().time() - started < 2.0
        with pytest.raises(Exception, match=r"idle-in-transaction|closed|terminat"):
            await connection.execute("COMMIT")


async def test_sessions_forget_clients_that_are_gone(pool: Pool) -> None:
    async with pool.connection() as connection:
        for name, limit in (
            ("statement_timeout", 5000),
            ("idle_in_transaction_session_timeout", 3000),
            ("transaction_timeout", 7000),
            ("tcp_user_timeout", 5000),
            ("tcp_keepalives_idle", 5),
        ):
            row = await (
                await connection.execute("SELECT setting::int FROM pg_settings WHERE name = %s", [name])
            ).fetchone()
            assert row == (limit,), name
        row = await (await connection.execute("SHOW application_name")).fetchone()
        assert row == ("niyanta",)


async def test_an_epoch_behind_a_fence_is_raised_above_it(pool: Pool, state: StateManager, epoch: int) -> None:
    leadership = Leadership(pool, "leader", 60.0)
    assert await leadership.adopt_epoch(41) == 42
    with pytest.raises(StaleEpochError):
        await state.take_in([intake()], epoch=epoch)
    (row,) = await state.take_in([intake()], epoch=42)
    assert row.phase is Phase.PENDING
    assert await leadership.adopt_epoch(7) == 42
    with pytest.raises(StaleEpochError):
        await Leadership(pool, "other", 60.0).adopt_epoch(100)


async def test_a_database_has_one_identity(pool: Pool, leadership: Leadership) -> None:
    identity = await leadership.database_identity()
    assert len(identity) == 36
    assert await Leadership(pool, "other", 1.5).database_identity() == identity
