"""The composition root: changes of the cluster reach the parts that need them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

import pytest

from niyanta import manager
from niyanta.cluster.api.connection import Connection
from niyanta.cluster.old_objects import OldFormError
from niyanta.lifecycle import Door, Phase
from niyanta.manager import Operator, live_objects
from niyanta.scheduler.periodic.finished_objects import FinishedObjects
from niyanta.scheduler.state import SchedulerState
from niyanta.settings import Settings
from tests.cluster.status.test_reports import row
from tests.fakes.scripted_api_server import fake_api, refuse

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


@pytest.mark.parametrize("missing", [["0010_api_names.sql"], []])
async def test_an_operator_takes_no_part_on_a_schema_that_was_not_migrated(
    missing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def missing_migrations(_: object) -> list[str]:
        return missing

    async def names_migrated_at(_: object) -> None:
        return None

    async with fake_api(refuse(404, "NotFound")) as api:

        def connect(_: Settings) -> Connection:
            return api.connection

        monkeypatch.setattr(manager, "missing_migrations", missing_migrations)
        monkeypatch.setattr(manager, "names_migrated_at", names_migrated_at)
        monkeypatch.setattr(manager, "connect", connect)
        operator = cast(Operator, SimpleNamespace(pool=None, settings=Settings()))
        if missing:
            with pytest.raises(OldFormError, match=r"run `niyanta migrate` \(0010_api_names.sql\)"):
                await Operator._refuse_old_form(operator)
        else:
            await Operator._refuse_old_form(operator)
