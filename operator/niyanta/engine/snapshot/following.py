"""Applies changes of the cluster to a snapshot one by one, so that one that raises loses no others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from niyanta.engine.snapshot.deltas import (
    ChargedNodeRemoved,
    ChargedNodeUpserted,
    Delta,
    PodCharged,
    PodReleased,
    StateReplaced,
    WorkerRemoved,
    WorkerUpserted,
)
from niyanta.engine.snapshot.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class DeltaFault:
    """A change that raised an unexpected error; all others were applied."""

    subject: str
    """The worker, the node or the charge key that it is about."""
    error: Exception


def follow(snapshot: Snapshot, deltas: Iterable[Delta]) -> tuple[Snapshot, list[DeltaFault]]:
    """Apply changes; returns the snapshot to use from now on, and the changes that raised.

    A change that raised may have been applied in part. The consumer then has to ask for the whole state
    (`DeltaCursor.restart`): a `StateReplaced` begins a new snapshot, so nothing is left of such changes.
    """
    faults: list[DeltaFault] = []
    for delta in deltas:
        if isinstance(delta, StateReplaced):
            freed, snapshot = snapshot.freed, Snapshot()
            for part in _parts(delta):
                _apply(snapshot, part, faults)
            snapshot.freed = freed or snapshot.freed  # it only grows; the expedited lane counts from what it has seen
        else:
            _apply(snapshot, delta, faults)
    return snapshot, faults


def _parts(state: StateReplaced) -> Iterator[Delta]:
    yield from map(WorkerUpserted, state.workers)
    yield from map(ChargedNodeUpserted, state.charged_nodes)
    yield from map(PodCharged, state.charges)


def _apply(snapshot: Snapshot, delta: Delta, faults: list[DeltaFault]) -> None:
    try:
        snapshot.apply(delta)
    except Exception as error:
        faults.append(DeltaFault(_subject(delta), error))
        if isinstance(delta, WorkerUpserted):  # nothing may be placed on a worker that is known in part
            with suppress(Exception):
                snapshot.remove_worker(delta.worker.name)


def _subject(delta: Delta) -> str:
    match delta:
        case WorkerUpserted(worker):
            return worker.name
        case ChargedNodeUpserted(node):
            return node.name
        case WorkerRemoved(name) | ChargedNodeRemoved(name):
            return name
        case PodCharged(charge):
            return charge.key
        case PodReleased(key):
            return key
        case StateReplaced():
            return "the whole state"
