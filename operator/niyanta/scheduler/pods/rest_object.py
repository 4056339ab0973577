"""Workload objects of REST submissions. They are created only when the workload is placed, so that a backlog takes no
space in etcd.

The object is named `<name>-<8 hex digits of the row's id>` and carries the row's id as a label. The pod creator creates
it before the pods, which it owns; deleting it cancels the workload. Edits of it have no effect: the row is
authoritative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from niyanta.aio import Backoff, retry
from niyanta.lifecycle import Door
from niyanta.observability import log
from niyanta.resources.labels import API_VERSION, REST_ID
from niyanta.scheduler.cluster_api import ClusterWrites, LeaseLostError
from niyanta.scheduler.memory.tracked_workload import TrackedWorkload
from niyanta.scheduler.memory.workload_cache import WorkloadCache
from niyanta.store.errors import StaleEpochError, StoreUnavailableError
from niyanta.store.rows import WorkloadRow
from niyanta.store.state import StateManager

logger = log.get(__name__)

REPEAT_SECONDS = 0.5
"""Longest time between two attempts to store the name of an object while Postgres doesn't answer."""


def object_name(row: WorkloadRow) -> str:
    """Name of the object of a REST submission."""
    return f"{row.name}-{row.id.replace('-', '')[:8]}"


def manifest(row: WorkloadRow) -> dict[str, Any]:
    """The Workload object of a REST submission."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Workload",
        "metadata": {
            "name": object_name(row),
            "namespace": row.namespace,
            "labels": {**row.labels, REST_ID: row.id},
        },
        "spec": {**row.spec, "customer": row.customer, "suspend": False},
    }


def rest_id(obj: Mapping[str, Any]) -> str:
    """Id of the row that an object's label names; "" without the label."""
    labels = obj["metadata"].get("labels") or {}
    return str(labels.get(REST_ID, ""))


def is_object_of(obj: Mapping[str, Any], row: WorkloadRow) -> bool:
    """True if the object was created for this row. An object on which a user has set the label is a workload of its
    own."""
    meta = obj["metadata"]
    if row.door is not Door.REST or (meta["namespace"], meta["name"]) != (row.namespace, object_name(row)):
        return False
    return row.object_uid is None or row.object_uid == meta["uid"]


class RestObjects:
    """Creates the objects and stores their names. It is the only writer of a row's object fields, outside the leader's
    loop."""

    def __init__(self, *, cluster: ClusterWrites, store: StateManager, workloads: WorkloadCache, epoch: int) -> None:
        self._cluster = cluster
        self._store = store
        self._workloads = workloads
        self._epoch = epoch

    async def ensure(self, tracked: TrackedWorkload) -> None:
        """Create the row's object if it needs one and has none. Raises PodWriteError, LeaseLostError."""
        row = tracked.row
        if row.door is not Door.REST or row.object_uid is not None:
            return
        uid = await self._cluster.create_workload(row.namespace, manifest(tracked.full_row()))
        await self._remember(tracked, uid)

    async def _remember(self, tracked: TrackedWorkload, uid: str) -> None:
        name = object_name(tracked.row)
        try:
            await retry(
                lambda: self._store.set_object(tracked.id, uid=uid, name=name, epoch=self._epoch),
                on=StoreUnavailableError,
                backoff=Backoff(first_seconds=REPEAT_SECONDS, longest_seconds=REPEAT_SECONDS),
                report=lambda error, _: logger.debug("storing an object's name failed; repeating", error=str(error)),
            )
        except StaleEpochError as error:
            raise LeaseLostError(str(error)) from error
        tracked.row = replace(tracked.row, object_uid=uid, object_name=name)
        self._workloads.index_object(tracked)
