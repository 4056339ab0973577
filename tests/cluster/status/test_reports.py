"""One row whose status or Event can't be written leaves the others alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.status import workload_status
from niyanta.cluster.status.event_recorder import EventRecorder
from niyanta.cluster.status.workload_status import WorkloadStatusWriter
from niyanta.containment import CONTAINED_ERRORS, Boundary
from niyanta.engine.queue import QueueSettings
from niyanta.lifecycle import Door, Phase
from niyanta.store.postgres.clock import Clock
from niyanta.store.rows import WorkloadRow
from tests.fakes.scripted_api_server import until

pytestmark = pytest.mark.unit


class RecordingClient:
    """Records writes; those about the object `bad` raise what no client should raise."""

    def __init__(self) -> None:
        self.written: list[str] = []

    async def patch_workload_status(self, namespace: str, name: str, uid: str, body: dict[str, Any]) -> bool:
        return self._write(name)

    async def create_event(self, namespace: str, *, regarding: dict[str, str], **_: Any) -> None:
        self._write(regarding["name"])

    def _write(self, name: str) -> bool:
        if name == "bad":
            raise RecursionError("an object that can't be encoded")
        self.written.append(name)
        return True


class FixedClock:
    """The clock of the database."""

    def now(self) -> int:
        return 1_000_000


def row(name: str) -> WorkloadRow:
    return WorkloadRow(
        id=f"uid of {name}",
        door=Door.KUBERNETES,
        namespace="ns",
        name=name,
        customer="acme",
        type="batch",
        labels={},
        generation=1,
        spec={},
        class_id="c",
        replicas=1,
        phase=Phase.SUCCEEDED,
        version=1,
        priority=0,
        tier_weight=1,
        queued_at_us=0,
    )


def contained() -> float:
    return CONTAINED_ERRORS.labels(Boundary.STATUS.value)._value.get()


async def test_a_status_that_raises_leaves_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    client, before = RecordingClient(), contained()
    real = workload_status.status_of

    def fails(found: WorkloadRow, *arguments: Any, **options: Any) -> dict[str, Any]:
        if found.name == "odd":
            raise ValueError("a row that has no status")
        return real(found, *arguments, **options)

    monkeypatch.setattr(workload_status, "status_of", fails)
    writer = WorkloadStatusWriter(
        cast(ApiClient, client), cast(Clock, FixedClock()), debounce=0.01, queue=QueueSettings()
    )
    task = asyncio.create_task(writer.run())
    for name in ("bad", "odd", "good"):
        writer.write(row(name))
    await until(lambda: client.written == ["good"] and contained() == before + 2)
    writer.write(replace(row("odd"), name="mended"))
    await until(lambda: client.written == ["good", "mended"])
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_event_that_raises_leaves_others_alone() -> None:
    client, before = RecordingClient(), contained()
    recorder = EventRecorder(cast(ApiClient, client), cast(Clock, FixedClock()), per_second=1_000.0)
    task = asyncio.create_task(recorder.run())
    for name in ("bad", "good"):
        recorder.record(row(name), reason="Test", message="", warning=False)
    await until(lambda: client.written == ["good"])
    assert contained() == before + 1
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
