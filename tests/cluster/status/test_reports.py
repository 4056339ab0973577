"""Rows whose status or Event can't be written, or is written slowly, leave the others alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import pytest

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.kinds import ResourceKind
from niyanta.cluster.api.pod_lane import PodLane
from niyanta.cluster.status import event_recorder, workload_status
from niyanta.cluster.status.event_recorder import EventRecorder
from niyanta.cluster.status.shown_statuses import ShownStatuses
from niyanta.cluster.status.status_fields import status_of
from niyanta.cluster.status.workload_status import WorkloadStatusWriter
from niyanta.containment import CONTAINED_ERRORS, Boundary
from niyanta.engine.queue.order import QueueSettings
from niyanta.lifecycle import Door, Phase
from niyanta.store.postgres.clock import Clock
from niyanta.store.rows import WorkloadRow
from tests.fakes.scripted_api_server import until

pytestmark = pytest.mark.unit


class RecordingClient:
    """Records writes; those about the object `bad` raise what no client should raise, and those in the namespace `slow`
    end when `released` is set."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.waiting = 0
        self.released = asyncio.Event()
        self.pod_lane = PodLane()

    async def apply_status(
        self, kind: ResourceKind, name: str, uid: str, status: dict[str, Any], *, namespace: str, **_: Any
    ) -> str:
        await self._write(namespace, name)
        return "7"

    async def create_event(self, namespace: str, *, regarding: dict[str, str], **_: Any) -> None:
        await self._write(namespace, regarding["name"])

    async def _write(self, namespace: str, name: str) -> None:
        if namespace == "slow":
            self.waiting += 1
            await self.released.wait()
        if name == "bad":
            raise RecursionError("an object that can't be encoded")
        self.written.append(name)


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


def status_writer(client: RecordingClient, *, debounce: float = 0.01) -> WorkloadStatusWriter:
    return WorkloadStatusWriter(
        cast(ApiClient, client),
        cast(Clock, FixedClock()),
        debounce=debounce,
        queue=QueueSettings(),
        shown=ShownStatuses(),
    )


def contained() -> float:
    return float(CONTAINED_ERRORS.labels(Boundary.STATUS.value)._value.get())


async def test_a_status_that_raises_leaves_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    client, before = RecordingClient(), contained()
    real = status_of

    def fails(found: WorkloadRow, *arguments: Any, **options: Any) -> dict[str, Any]:
        if found.name == "odd":
            raise ValueError("a row that has no status")
        return real(found, *arguments, **options)

    monkeypatch.setattr(workload_status, "status_of", fails)
    writer = status_writer(client)
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


@pytest.fixture
async def client() -> RecordingClient:
    return RecordingClient()


@pytest.fixture
async def statuses(client: RecordingClient) -> AsyncIterator[WorkloadStatusWriter]:
    writer = status_writer(client)
    task = asyncio.create_task(writer.run())
    yield writer
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def events(client: RecordingClient) -> AsyncIterator[EventRecorder]:
    recorder = EventRecorder(cast(ApiClient, client), cast(Clock, FixedClock()), per_second=1_000.0)
    task = asyncio.create_task(recorder.run())
    yield recorder
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def of_tenant(name: str, namespace: str) -> WorkloadRow:
    """A row of a customer that is named like its namespace."""
    return replace(row(name), namespace=namespace, customer=namespace)


async def test_slow_statuses_of_one_namespace_do_not_delay_others(
    client: RecordingClient, statuses: WorkloadStatusWriter
) -> None:
    for number in range(100):
        statuses.write(of_tenant(f"slow-{number}", "slow"))
    await until(lambda: client.waiting > 0)
    statuses.write(of_tenant("quick", "other"))
    await until(lambda: client.written == ["quick"])
    assert client.waiting <= workload_status.MOST_AT_ONCE // 2
    client.released.set()
    await until(lambda: len(client.written) == 101)


async def test_a_status_that_changes_while_it_waits_is_written_once(
    client: RecordingClient, statuses: WorkloadStatusWriter
) -> None:
    for number in range(100):
        statuses.write(of_tenant(f"slow-{number}", "slow"))
    await until(lambda: client.waiting > 0)
    statuses.write(replace(of_tenant("slow-99", "slow"), name="newest"))
    client.released.set()
    await until(lambda: len(client.written) == 100)
    assert "newest" in client.written
    assert "slow-99" not in client.written


async def test_the_namespace_with_most_final_statuses_loses_its_oldest(
    client: RecordingClient, statuses: WorkloadStatusWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workload_status, "MOST_FINAL_STATUSES", 3)
    statuses.write(of_tenant("other", "other"))
    for number in range(5):
        statuses.write(of_tenant(f"w-{number}", "many"))
    await until(lambda: len(client.written) == 3)
    assert sorted(client.written) == ["other", "w-3", "w-4"]


async def test_slow_events_of_one_namespace_do_not_delay_others(client: RecordingClient, events: EventRecorder) -> None:
    for number in range(100):
        events.record(of_tenant(f"slow-{number}", "slow"), reason="Test", message="", warning=False)
    await until(lambda: client.waiting > 0)
    events.record(of_tenant("quick", "other"), reason="Test", message="", warning=False)
    await until(lambda: client.written == ["quick"])
    assert client.waiting <= event_recorder.CONCURRENCY // 2


async def test_a_flood_of_events_drops_only_its_own(client: RecordingClient, events: EventRecorder) -> None:
    before = event_recorder.DROPPED._value.get()
    for number in range(2 * event_recorder.MOST_QUEUED_EVENTS):
        events.record(of_tenant(f"slow-{number}", "slow"), reason="Test", message="", warning=False)
    for number in range(3):
        events.record(of_tenant(f"quick-{number}", "other"), reason="Test", message="", warning=False)
    await until(lambda: client.written == ["quick-0", "quick-1", "quick-2"])
    assert event_recorder.DROPPED._value.get() - before >= event_recorder.MOST_QUEUED_EVENTS
