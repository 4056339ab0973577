"""Queue classes in Postgres: exact counts, the first rows of each class, reasons, and compiled requirements.

A queue class holds the rows of one customer that placement can't tell apart. `StateManager` inherits these methods.
Triggers append what each statement changed in the counts; the leader folds that once a second (`write_figures`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from niyanta.store.leader.projections import FOLD_AT_ONCE
from niyanta.store.leader.scaling import ScalingStore
from niyanta.store.leadership import begin
from niyanta.store.postgres.pool import fetch
from niyanta.store.postgres.queries import sql
from niyanta.store.row_mapping import dumps, workload_rows
from niyanta.store.rows import ClassState, WorkloadRow

EMPTY_CLASS_SECONDS = 3600
"""Time for which a class without pending rows is kept, so that work that comes again and again isn't compiled anew."""


@dataclass(frozen=True, slots=True)
class WaitingClass:
    """A class with pending rows, also those in backoff. `pending_rest`: those of the REST door. `oldest_us`: the
    smallest `queued_at` of its rows, in µs. `key`: the highest queue key of those of the REST door; None without any.
    """

    customer: str
    queue_class: str
    namespace: str
    replicas: int
    pending: int
    pending_rest: int
    oldest_us: int
    key: int | None = None


@dataclass(frozen=True, slots=True)
class ClassRequest:
    """A request for the first `most` rows of a class."""

    customer: str
    queue_class: str
    most: int


@dataclass(frozen=True, slots=True)
class ClassHeads:
    """Ids of a class's pending REST rows that aren't in backoff: the first in queue order, the one that waits longest,
    and the one with the highest base priority. `is_complete`: there are no others than `ids`."""

    customer: str
    queue_class: str
    ids: tuple[str, ...]
    oldest: str | None
    highest_priority: str | None
    is_complete: bool


@dataclass(frozen=True, slots=True)
class ClassAssignment:
    """The base of a row's queue class, computed from its spec of this generation and for this customer."""

    id: str
    generation: int
    customer: str
    base: str
    visible_keys: tuple[tuple[str, str], ...] = ()


class QueueClassStore(ScalingStore):
    """Reads and writes of queue classes. Writers raise StaleEpochError; all raise StoreUnavailableError."""

    async def get_waiting_classes(self, after: tuple[str, str] = ("", ""), limit: int = 1000) -> list[WaitingClass]:
        """At most `limit` classes with pending rows after (customer, class), in that order; the counts are exact."""
        params = {"after_customer": after[0], "after_class": after[1], "limit": limit}
        return [WaitingClass(*record) for record in await self._pool.fetch("waiting_classes", params)]

    async def get_waiting_classes_of(self, names: Sequence[tuple[str, str]]) -> list[WaitingClass]:
        """The same for these classes, (customer, class); those without pending rows are left out."""
        records = [{"customer": customer, "queue_class": name} for customer, name in names]
        return [
            WaitingClass(*record)
            for record in await self._pool.fetch("waiting_classes_of", {"records": dumps(records)})
        ]

    async def get_class_heads(self, wanted: Sequence[ClassRequest]) -> list[ClassHeads]:
        """The first rows of each of these classes; the cost doesn't depend on the number of waiting rows."""
        if not wanted:
            return []
        most = {(request.customer, request.queue_class): request.most for request in wanted}
        records = await self._pool.fetch("class_heads", {"records": dumps([asdict(request) for request in wanted])})
        return [
            ClassHeads(customer, name, tuple(ids), oldest, highest, len(ids) < most[customer, name])
            for customer, name, ids, oldest, highest in records
        ]

    async def get_unclassed(self, limit: int) -> list[WorkloadRow]:
        """At most `limit` pending rows without a queue class, with their specs, by id."""
        return workload_rows(await self._pool.fetch("unclassed", {"limit": limit}))

    async def set_queue_classes(self, records: Sequence[ClassAssignment], epoch: int | None) -> dict[str, str]:
        """Assign queue classes to rows that have none; returns the class of each id written.

        Rows that were edited or reassigned meanwhile are left out. The changes stream repeats the rows.
        """
        if not records:
            return {}
        keys = {key for record in records for key in record.visible_keys}
        async with self._pool.transaction() as connection:
            await begin(connection, epoch, self._settings.identity)
            # Writers lock the state first; the same order here avoids deadlocks.
            await fetch(connection, "lock_rows", {"ids": [record.id for record in records]})
            if keys:
                named = dumps([{"reach": reach, "key": key} for reach, key in keys])
                await connection.execute(sql("add_visible_keys"), {"records": named})
            bases = dumps([asdict(record) for record in records])
            ids = [id_ for (id_,) in await fetch(connection, "set_queue_bases", {"records": bases})]
            classes = dict(await fetch(connection, "update_classes", {"ids": ids}))
            await connection.execute(sql("tell_changed"), {"ids": ids})
        return classes

    async def add_visible_keys(self, keys: Sequence[tuple[str, str]], epoch: int | None) -> None:
        """Make label keys visible, (reach, key); those that are stay as they are."""
        named = dumps([{"reach": reach, "key": key} for reach, key in keys])
        async with self._pool.transaction() as connection:
            await begin(connection, epoch, self._settings.identity)
            await connection.execute(sql("add_visible_keys"), {"records": named})

    async def rekey_slice(self, epoch: int | None, *, limit: int = 2_000) -> bool:
        """Give up to `limit` rows classes with a label key that became visible after them; True: keys are left.

        A key is begun when every transaction that may have missed it has ended, so that True may also mean a wait. The
        changes stream repeats the rows.
        """
        async with self._pool.transaction() as connection:
            await begin(connection, epoch, self._settings.identity)
            await connection.execute(sql("rekey_begin"))
            for reach, key, after in await fetch(connection, "rekey_next"):
                named = {"reach": reach, "key": key}
                ids = [id_ for (id_,) in await fetch(connection, "rekey_slice", {"after": after, "limit": limit})]
                locked = await fetch(connection, "rekey_lock", named | {"ids": ids})
                await connection.execute(sql("rekey_rows"), {"ids": [id_ for (id_,) in locked]})
                last = ids[-1] if len(ids) == limit else None
                await connection.execute(sql("rekey_progress"), named | {"last": last})
            return bool((await fetch(connection, "rekey_open"))[0][0])

    async def fold_counts(self, epoch: int | None, *, limit: int = FOLD_AT_ONCE) -> int:
        """Fold up to `limit` deltas of the counts; returns their number. When it is `limit`, call again."""
        async with self._pool.transaction() as connection:
            await begin(connection, epoch, self._settings.identity)
            return int((await fetch(connection, "fold_counts", {"limit": limit}))[0][0])

    async def wrong_class_counts(self) -> list[str]:
        """Counts of classes that differ from the rows, as text; reads every row (for tests and repairs)."""
        return [str(row) for row in await self._pool.fetch("class_counts_wrong")]

    async def write_class_states(self, states: Sequence[ClassState], epoch: int | None) -> None:
        """Store the reasons of these classes in place of their last ones."""
        if not states:
            return
        async with self._pool.transaction() as connection:
            await begin(connection, epoch, self._settings.identity)
            records = dumps([asdict(state) for state in states])
            await connection.execute(sql("write_class_states"), {"records": records})

    async def delete_class_states(self, classes: Sequence[tuple[str, str]], epoch: int | None) -> None:
        """Forget the reasons of these (customer, class): they wait no longer."""
        if not classes:
            return
        async with self._pool.transaction() as connection:
            await begin(connection, epoch, self._settings.identity)
            await connection.execute(sql("delete_class_states"), _pairs(classes))

    async def prune_classes(self, epoch: int | None, *, limit: int = 1_000) -> int:
        """Delete counts, reasons and compiled requirements of up to `limit` classes without pending rows for an hour;
        returns their number. When it is `limit`, call again."""
        async with self._pool.transaction() as connection:
            await begin(connection, epoch, self._settings.identity)
            params = {"seconds": EMPTY_CLASS_SECONDS, "limit": limit}
            return int((await fetch(connection, "prune_classes", params))[0][0])

    async def get_compiled(self, queue_classes: Sequence[str]) -> dict[str, bytes]:
        """Compiled requirements by class, of those that are stored."""
        rows = await self._pool.fetch("get_compiled", {"classes": list(queue_classes)})
        return {name: bytes(compiled) for name, compiled in rows}

    async def put_compiled(self, records: Mapping[str, bytes], epoch: int | None) -> None:
        """Store compiled requirements by class."""
        if not records:
            return
        async with self._pool.transaction() as connection:
            await begin(connection, epoch, self._settings.identity)
            params = {"classes": list(records), "compiled": list(records.values())}
            await connection.execute(sql("put_compiled"), params)


def _pairs(classes: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    return {"customers": [customer for customer, _ in classes], "classes": [name for _, name in classes]}
