"""The composition root: changes of the cluster reach the parts that need them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

import pytest

from niyanta.lifecycle import Door, Phase
from niyanta.manager import live_objects
from niyanta.scheduler.periodic.finished_objects import FinishedObjects
from niyanta.scheduler.state import SchedulerState
from niyanta.settings import Settings
from tests.cluster.status.test_reports import row

pytestmark = pytest.mark.unit


def test_deletions_are_looked_for_among_the_objects_of_both_doors() -> None:
    running = replace(row("a"), phase=Phase.RUNNING)
    rest = replace(running, id="row", door=Door.REST)
    rows = [
        running,
        replace(rest, object_name="rest", object_uid="uid of its object"),
        replace(rest, id="without an object yet"),
        row("finished"),
    ]
    tracked = [SimpleNamespace(row=found) for found in rows]
    finished = FinishedObjects(Settings())
    finished.note_row(replace(row("kept"), finished_at=datetime(2026, 1, 1, tzinfo=UTC)), None)
    state = cast(SchedulerState, SimpleNamespace(workloads=tracked, finished_objects=finished))
    assert live_objects(state) == {running.id, "uid of its object", "uid of kept"}
