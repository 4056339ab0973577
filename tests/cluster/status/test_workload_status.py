"""Statuses of Workloads: only a row's last state is written, after creates of pods, and soon enough."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, cast

import pytest

from niyanta.cluster.api.client import ApiClient
from niyanta.cluster.api.errors import ApiError
from niyanta.cluster.api.kinds import ResourceKind
from niyanta.cluster.api.pod_lane import BUSY_CREATES, PodLane
from niyanta.cluster.status import workload_status
from niyanta.cluster.status.conditions import conditions_of
from niyanta.cluster.status.shown_statuses import ShownStatuses
from niyanta.cluster.status.workload_status import WorkloadStatusWriter
from niyanta.engine.queue.order import QueueSettings
from niyanta.lifecycle import Door, Event, Phase
from niyanta.store.postgres.clock import Clock
from niyanta.store.rows import WorkloadRow
from tests.cluster.status.test_conditions import CREATED, new_row, story
from tests.fakes.scripted_api_server import until

pytestmark = pytest.mark.unit

DEBOUNCE = 0.05
MOST_WAIT = 0.4


class Server:
    """Keeps the statuses that are applied; each answer takes `answer` seconds, and the next ones may be errors."""

    def __init__(self) -> None:
        self.pod_lane = PodLane()
        self.answer = 0.0
        self.errors: list[ApiError] = []
        self.refusing = ""
        """Namespace whose statuses a webhook refuses."""
        self.asked: list[str] = []
        """Namespaces of all requests."""
        self.applied: list[tuple[str, str, str]] = []
        """(name, phase, version that was known)."""
        self.statuses: list[dict[str, Any]] = []
        self.under_way = 0
        self.most_under_way = 0
        self.versions = 100

    async def apply_status(
        self,
        kind: ResourceKind,
        name: str,
        uid: str,
        status: dict[str, Any],
        *,
        namespace: str,
        version: str,
        on_answer: Callable[[float], None],
    ) -> str:
        self.asked.append(namespace)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(self.answer)
        self.under_way -= 1
        if namespace == self.refusing:
            raise ApiError(403, "Forbidden", "a webhook refuses")
        if self.errors:
            raise self.errors.pop(0)
        on_answer(self.answer)
        self.applied.append((name, status["phase"], version))
        self.statuses.append(status)
        self.versions += 1
        return str(self.versions)

    def phases(self, name: str = "train") -> list[str]:
        return [phase for found, phase, _ in self.applied if found == name]


class Now:
    """The clock of the database."""

    seconds = CREATED.timestamp()

    def now(self) -> int:
        return round(self.seconds * 1e6)


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
async def writer(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WorkloadStatusWriter]:
    """A writer whose waits are a fraction of the real ones."""
    monkeypatch.setattr(workload_status, "MOST_WAIT_SECONDS", MOST_WAIT)
    monkeypatch.setattr(workload_status, "MOST_SCHEDULED_WAIT_SECONDS", 5 * MOST_WAIT)
    monkeypatch.setattr(workload_status, "YIELD_SECONDS", 0.02)
    monkeypatch.setattr(workload_status, "RETRY_SECONDS", 0.02)
    made = WorkloadStatusWriter(
        cast(ApiClient, server),
        cast(Clock, Now()),
        debounce=DEBOUNCE,
        queue=QueueSettings(),
        shown=ShownStatuses(),
    )
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def creating(lane: PodLane) -> ExitStack:
    """As many creates of pods as make other writes wait, until the stack is closed."""
    stack = ExitStack()
    for _ in range(BUSY_CREATES):
        stack.enter_context(lane)
    return stack


def row_in(phase: Phase, name: str = "train", **fields: Any) -> WorkloadRow:
    values: dict[str, Any] = {"name": name, "id": name}
    if phase.bound or phase is Phase.SUCCEEDED:
        values |= {"attempt": 1, "scheduled_at": CREATED, "workers": ("n1", "n2")}
    if phase in (Phase.RUNNING, Phase.SUCCEEDED):
        values["started_at"] = CREATED
    if phase is Phase.SUCCEEDED:
        values["finished_at"] = CREATED
    return new_row(phase, **(values | fields))


async def later(server: Server, writer: WorkloadStatusWriter, phase: Phase) -> None:
    """Wait until the status of another workload is written, that moves to a phase now."""
    writer.write(row_in(phase, "other"))
    await until(lambda: server.phases("other"))


async def test_a_quick_start_takes_one_write(server: Server, writer: WorkloadStatusWriter) -> None:
    for phase in (Phase.PENDING, Phase.SCHEDULED, Phase.RUNNING):
        writer.write(row_in(phase))
    await until(lambda: server.applied)
    await later(server, writer, Phase.PENDING)
    assert server.phases() == ["Running"]


async def test_scheduled_is_written_when_running_does_not_follow(server: Server, writer: WorkloadStatusWriter) -> None:
    began = time.monotonic()
    writer.write(row_in(Phase.SCHEDULED))
    await until(lambda: server.applied)
    assert server.phases() == ["Scheduled"]
    assert time.monotonic() - began >= 4 * DEBOUNCE


async def test_scheduled_is_skipped_while_pods_are_created(server: Server, writer: WorkloadStatusWriter) -> None:
    with creating(server.pod_lane):
        writer.write(row_in(Phase.SCHEDULED))
        await later(server, writer, Phase.RUNNING)
        assert server.phases() == []
    writer.write(row_in(Phase.RUNNING))
    await until(server.phases)
    assert server.phases() == ["Running"]


async def test_scheduled_is_skipped_while_answers_are_slow(server: Server, writer: WorkloadStatusWriter) -> None:
    server.answer = 0.3
    for number in range(3):
        writer.write(row_in(Phase.SUCCEEDED, f"done-{number}"))
    await until(lambda: len(server.applied) == 3)
    writer.write(row_in(Phase.SCHEDULED))
    await later(server, writer, Phase.RUNNING)
    assert server.phases() == []


async def test_scheduled_is_skipped_while_many_pods_start(server: Server, writer: WorkloadStatusWriter) -> None:
    names = [f"w-{number}" for number in range(workload_status.MANY_STARTING + 8)]
    for name in names:
        writer.write(row_in(Phase.SCHEDULED, name))
    for name in names[:8]:
        writer.write(row_in(Phase.RUNNING, name))
        await until(lambda name=name: server.phases(name))  # type: ignore[misc]
    assert {phase for _, phase, _ in server.applied} == {"Running"}
    await until(lambda: server.phases(names[-1]) == ["Scheduled"])


async def test_scheduled_does_not_wait_for_ever(server: Server, writer: WorkloadStatusWriter) -> None:
    with creating(server.pod_lane):
        writer.write(row_in(Phase.SCHEDULED))
        await until(lambda: server.phases() == ["Scheduled"], 10 * MOST_WAIT)


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.HELD, Phase.RUNNING, Phase.SUSPENDED, Phase.SUCCEEDED])
async def test_a_write_waits_for_creates_of_pods_but_not_too_long(
    server: Server, writer: WorkloadStatusWriter, phase: Phase
) -> None:
    began = time.monotonic()
    with creating(server.pod_lane):
        writer.write(row_in(phase))
        await until(lambda: server.applied)
        assert time.monotonic() - began >= MOST_WAIT
    assert server.phases() == [phase.value]


async def test_running_after_a_scheduled_that_was_put_off_has_its_own_time(
    server: Server, writer: WorkloadStatusWriter
) -> None:
    with creating(server.pod_lane):
        writer.write(row_in(Phase.SCHEDULED))
        await later(server, writer, Phase.RUNNING)
        changed = time.monotonic()
        writer.write(row_in(Phase.RUNNING))
        await until(server.phases)
        assert time.monotonic() - changed >= MOST_WAIT
    assert server.phases() == ["Running"]


async def test_a_status_that_keeps_changing_is_written_in_time(server: Server, writer: WorkloadStatusWriter) -> None:
    async def change() -> None:
        for number in range(1_000):
            writer.write(row_in(Phase.PENDING, message=str(number)))
            await asyncio.sleep(DEBOUNCE / 4)

    changing = asyncio.create_task(change())
    await until(lambda: server.applied, 5 * MOST_WAIT)
    changing.cancel()


async def test_a_final_status_is_written_at_once(server: Server, writer: WorkloadStatusWriter) -> None:
    writer.write(row_in(Phase.PENDING))
    writer.write(row_in(Phase.SUCCEEDED))
    await until(lambda: server.applied)
    assert server.phases() == ["Succeeded"]


async def test_writes_that_are_due_are_few_at_once(server: Server, writer: WorkloadStatusWriter) -> None:
    server.answer = 0.02
    with creating(server.pod_lane):
        for number in range(50):
            writer.write(row_in(Phase.RUNNING, f"w-{number}"))
        await until(lambda: len(server.applied) == 50)
    assert server.most_under_way <= workload_status.MOST_AT_ONCE


async def test_states_of_a_workload_are_written_in_their_order(server: Server, writer: WorkloadStatusWriter) -> None:
    server.answer = 0.2
    writer.write(row_in(Phase.SUCCEEDED, message="first"))
    await until(lambda: server.under_way)
    writer.write(row_in(Phase.SUCCEEDED, message="second"))
    await until(lambda: len(server.applied) == 2)
    assert [status["message"] for status in server.statuses] == ["first", "second"]
    assert server.most_under_way == 1


async def test_a_failed_write_is_repeated_with_the_newest_state(server: Server, writer: WorkloadStatusWriter) -> None:
    server.errors = [ApiError(503, "ServiceUnavailable", "no"), ApiError(429, "TooManyRequests", "later")]
    writer.write(row_in(Phase.RUNNING))
    await until(lambda: not server.errors)
    writer.write(row_in(Phase.SUCCEEDED))
    await until(lambda: "Succeeded" in server.phases())
    assert server.phases()[-1] == "Succeeded"


async def test_a_refused_write_is_not_repeated(server: Server, writer: WorkloadStatusWriter) -> None:
    server.errors = [ApiError(422, "Invalid", "no")]
    writer.write(row_in(Phase.SUCCEEDED))
    await until(lambda: not server.errors)
    await later(server, writer, Phase.PENDING)
    assert server.phases() == []


async def test_the_version_of_the_last_write_is_used_for_the_next(server: Server, writer: WorkloadStatusWriter) -> None:
    for phase in (Phase.PENDING, Phase.RUNNING, Phase.SUCCEEDED):
        writer.write(row_in(phase))
        await until(lambda phase=phase: phase.value in server.phases())  # type: ignore[misc]
    assert [version for *_, version in server.applied] == ["", "101", "102"]


async def test_conditions_have_the_time_of_the_change_and_not_of_the_write(
    server: Server, writer: WorkloadStatusWriter
) -> None:
    clock = cast(Now, writer._clock)
    writer.write(row_in(Phase.HELD))
    await until(lambda: server.applied)
    clock.seconds += 60
    writer.write(row_in(Phase.PENDING))
    clock.seconds += 60
    writer.write(row_in(Phase.PENDING, message="12 workers lack GPUs"))
    await until(lambda: len(server.applied) == 2)
    times = {c["type"]: c["lastTransitionTime"] for c in server.statuses[-1]["conditions"]}
    assert times["Accepted"] == "2026-03-01T12:01:00Z"


async def test_a_new_leader_goes_on_from_the_conditions_of_listed_objects(
    server: Server, writer: WorkloadStatusWriter
) -> None:
    *_, (row, since) = story(Phase.HELD, Event.RELEASE, Event.PLACE, Event.START, Event.RETRY)
    status = {"phase": "Pending", "conditions": conditions_of(row, since)}
    writer.listed([{"metadata": {"uid": row.id, "resourceVersion": "55"}, "status": status}])
    cast(Now, writer._clock).seconds += 3_600
    writer.write(replace(row, message="12 workers lack GPUs"))
    await until(lambda: server.applied)
    times = {c["type"]: c["lastTransitionTime"] for c in server.statuses[-1]["conditions"]}
    assert (times["Accepted"], times["Running"]) == ("2026-03-01T12:01:00Z", "2026-03-01T12:04:00Z")
    assert server.applied[-1][2] == "55"


async def test_a_workload_without_an_object_has_no_status(server: Server, writer: WorkloadStatusWriter) -> None:
    writer.write(replace(row_in(Phase.SUCCEEDED), door=Door.REST))
    await later(server, writer, Phase.SUCCEEDED)
    assert server.phases() == []


async def test_what_waits_behind_failures_does_not_outlive_its_leadership(
    server: Server, writer: WorkloadStatusWriter
) -> None:
    server.errors = [ApiError(503, "ServiceUnavailable", "no") for _ in range(1_000)]
    for number in range(20):
        writer.write(row_in(Phase.RUNNING, f"w-{number}"))
    await until(lambda: len(server.asked) >= workload_status.MOST_AT_ONCE)
    writer.clear()
    server.errors.clear()
    await later(server, writer, Phase.SUCCEEDED)
    writer.write(row_in(Phase.SUCCEEDED, "w-19"))
    await until(lambda: server.phases("w-19"))
    assert [(name, phase) for name, phase, _ in server.applied] == [("other", "Succeeded"), ("w-19", "Succeeded")]


async def test_a_write_under_way_is_cancelled_at_the_end_of_leadership(
    server: Server, writer: WorkloadStatusWriter
) -> None:
    server.answer = 0.3
    for number in range(3):
        writer.write(row_in(Phase.SUCCEEDED, f"w-{number}"))
    await until(lambda: server.under_way)
    writer.clear()
    server.answer = 0.0
    writer.write(row_in(Phase.SUCCEEDED, "w-0", message="of the next leadership"))
    await until(lambda: server.applied)
    await later(server, writer, Phase.PENDING)
    assert [name for name, *_ in server.applied] == ["w-0", "other"]
    assert server.statuses[0]["message"] == "of the next leadership"
    assert not writer._busy
