"""Reasons of waiting workloads that have none of their own: those of their queue class, which the leader writes.

The leader keeps only the first workloads of a class in memory, and writes reasons of their own for those. All others
wait for the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from niyanta.lifecycle import Phase
from niyanta.server.estimates import UNREFUSED
from niyanta.store.reads.reads import Reads
from niyanta.store.row_mapping import to_us
from niyanta.store.rows import ClassState, WorkloadRow


async def with_class_reasons(
    reads: Reads, rows: Sequence[WorkloadRow], now_us: int
) -> tuple[list[WorkloadRow], dict[str, ClassState]]:
    """The rows, with reason and message of their class where they have none, and the state of the class by row id."""
    without = {row.id: (row.customer, row.queue_class) for row in rows if _lacks_reasons(row, now_us)}
    found = await reads.get_class_states(set(without.values()))
    states = {id_: found[name] for id_, name in without.items() if name in found}
    joined = [
        replace(row, reason=states[row.id].reason, message=states[row.id].message) if row.id in states else row
        for row in rows
    ]
    return joined, states


def _lacks_reasons(row: WorkloadRow, now_us: int) -> bool:
    """True if the row waits in the queue and was not refused itself; in a backoff it waits for that."""
    if row.phase is not Phase.PENDING or not row.queue_class or row.reason not in UNREFUSED:
        return False
    return row.not_before is None or to_us(row.not_before) <= now_us
