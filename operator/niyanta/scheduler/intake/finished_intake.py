"""Finished Workload objects on their way in: they are noted for their deletion, and not compiled again.

An object whose status says that it is finished, and which has no row, isn't taken in: its row was deleted at the end of
its retention (or is missing from a restored backup), and its work must not run twice. `admission` and `recovery` ask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from niyanta.lifecycle import Phase
from niyanta.scheduler.cluster_api import ClusterReports
from niyanta.scheduler.intake import object_to_row
from niyanta.scheduler.periodic.finished_objects import ttl_of
from niyanta.scheduler.pods.rest_object import is_object_of, rest_id
from niyanta.scheduler.state import SchedulerState
from niyanta.store.rows import WorkloadRow
from niyanta.store.state import StateManager

Manifest = Mapping[str, Any]

_TERMINAL = frozenset(phase.value for phase in Phase if phase.terminal)


class FinishedIntake:
    """Tells finished objects from the others."""

    def __init__(self, state: SchedulerState, *, store: StateManager, cluster: ClusterReports) -> None:
        self._state = state
        self._store = store
        self._cluster = cluster

    async def leave_out(self, objects: Sequence[Manifest]) -> Sequence[Manifest]:
        """Note the objects that are finished, and return the others. One that was edited since it finished is among
        these. Raises SharedFaultError."""
        shown = [obj for obj in objects if _shown_phase(obj) in _TERMINAL]
        if not shown:
            return objects
        rows = await self._rows({id_ for obj in shown for id_ in (obj["metadata"]["uid"], rest_id(obj)) if id_})
        noted: set[str] = set()
        for obj in shown:
            uid = obj["metadata"]["uid"]
            of_submission = rows.get(rest_id(obj))
            is_rest = of_submission is not None and is_object_of(obj, of_submission)
            row = of_submission if is_rest else rows.get(uid)
            if row is None:
                self._state.finished_objects.note_without_row(obj, is_rest=bool(rest_id(obj)))
            elif not row.phase.terminal or not (is_rest or _same_version(obj, row)):
                continue
            else:
                self.note(obj, row)
                if object_to_row.status_behind(row, obj.get("status")):
                    self._cluster.write_status(row)
            noted.add(uid)
        return [obj for obj in objects if obj["metadata"]["uid"] not in noted]

    def note(self, obj: Manifest, row: WorkloadRow) -> None:
        """Note an object whose row may be finished."""
        spec = obj.get("spec")
        self._state.finished_objects.note_row(row, ttl_of(spec) if isinstance(spec, Mapping) else None)

    async def _rows(self, ids: set[str]) -> dict[str, WorkloadRow]:
        workloads = self._state.workloads
        known = {id_: tracked.row for id_ in ids if (tracked := workloads.get(id_)) is not None}
        return known | {row.id: row for row in await self._store.get_workloads(ids - known.keys(), with_spec=False)}


def _shown_phase(obj: Manifest) -> object:
    status = obj.get("status")
    phase = status.get("phase") if isinstance(status, Mapping) else None
    return phase if isinstance(phase, str) else None


def _same_version(obj: Manifest, row: WorkloadRow) -> bool:
    """True if the row has the object's present spec and labels."""
    meta = obj["metadata"]
    labels = {str(key): str(value) for key, value in (meta.get("labels") or {}).items()}
    return (int(meta.get("generation", 1)), labels) == (row.generation, row.labels)
