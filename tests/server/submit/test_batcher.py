"""Commits of submissions: customers take turns, and no small request waits for another customer's batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from niyanta.server.submit.batcher import CONCURRENT_COMMITS, SubmissionBatcher
from niyanta.store.rest.submissions import StoredResponse, SubmissionOutcome, SubmissionRequest
from niyanta.store.rows import WorkloadIntake
from tests.store.make import intake

pytestmark = pytest.mark.unit


class SlowStore:
    """Commits that contain a batch end when `open` is set; the others at once. Keeps the customers of each commit."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.begun: list[list[str]] = []

    async def submit(self, requests: Sequence[SubmissionRequest]) -> list[SubmissionOutcome]:
        self.begun.append([request.customer for request in requests])
        if any(len(request.items) > 1 for request in requests):
            await self.open.wait()
        return [SubmissionOutcome(StoredResponse(202, None)) for _ in requests]


async def _no_position() -> None:
    return None


@pytest.fixture
def store() -> SlowStore:
    return SlowStore()


@pytest.fixture
async def batcher(store: SlowStore) -> AsyncIterator[SubmissionBatcher]:
    found = SubmissionBatcher(store, _no_position)  # type: ignore[arg-type]
    found.start()
    yield found
    await found.stop()


ITEM = intake()


def request(customer: str, items: int = 1, *, limit: int | None = None) -> SubmissionRequest:
    many: Sequence[WorkloadIntake] = [ITEM] * items
    return SubmissionRequest(customer, many, limit, lambda _: StoredResponse(202, None))


async def _begun(store: SlowStore, count: int) -> None:
    async with asyncio.timeout(10):
        while len(store.begun) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_a_small_request_does_not_wait_for_batches(store: SlowStore, batcher: SubmissionBatcher) -> None:
    batches = [asyncio.create_task(batcher.submit(request("a", 600))) for _ in range(8)]
    await _begun(store, CONCURRENT_COMMITS)
    async with asyncio.timeout(10):
        await batcher.submit(request("b"))
        await batcher.submit(request("a"))
    assert not any(task.done() for task in batches)
    store.open.set()
    await asyncio.gather(*batches)


async def test_a_batch_waits_behind_those_of_its_own_customer_only(
    store: SlowStore, batcher: SubmissionBatcher
) -> None:
    waiting = [asyncio.create_task(batcher.submit(request("a", 600))) for _ in range(8)]
    await _begun(store, CONCURRENT_COMMITS)
    waiting.append(asyncio.create_task(batcher.submit(request("b", 600))))
    await asyncio.sleep(0)
    store.open.set()
    await asyncio.gather(*waiting)
    place = [customer for commit in store.begun for customer in commit].index("b")
    assert place <= CONCURRENT_COMMITS + 1


async def test_a_customer_whose_lock_is_taken_is_not_waited_for(store: SlowStore, batcher: SubmissionBatcher) -> None:
    batch = asyncio.create_task(batcher.submit(request("a", 600, limit=9)))
    await _begun(store, 1)
    single = asyncio.create_task(batcher.submit(request("a", limit=9)))
    async with asyncio.timeout(10):
        await batcher.submit(request("b", limit=9))
    assert store.begun[1] == ["b"]
    assert not single.done()
    store.open.set()
    await asyncio.gather(batch, single)
