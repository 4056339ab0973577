"""POST /v1/workloads:batch: NDJSON that is read, parsed and committed in groups of lines, in order.

While one group is committed, the next one is read, so a request holds two groups at most. Each group is one transaction
and has an idempotency key of its own, made of the request's: a batch that broke off is repeated with the same key, and
goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from niyanta.server import metrics
from niyanta.server.auth import Principal
from niyanta.server.dependencies import Caller, Dependencies, Parts, bounded, raw
from niyanta.server.limits.budgets import RequestBudget, budget_of
from niyanta.server.problems import BAD_REQUEST, QUEUE_FULL, RATE_LIMITED, UNAVAILABLE, Problem
from niyanta.server.schema import serializers
from niyanta.server.schema.models import BatchItem, BatchView, ProblemView
from niyanta.server.schema.openapi_document import BATCH_BODY, IDEMPOTENCY, problems
from niyanta.server.submit.backpressure import Backpressure, limit_headers, limit_of
from niyanta.server.submit.body import announced_size, body_parts, parse_object, require_media
from niyanta.server.submit.checks import (
    idempotency_key,
    key_reused,
    name_taken,
    position,
    read_manifest,
    require_customer,
    require_rate,
    target,
)
from niyanta.server.submit.ndjson import GROUP_BYTES, MAX_BATCH_BYTES, LineGroup, line_groups
from niyanta.store.errors import ConflictError, StoreError, StoreUnavailableError
from niyanta.store.rest.submissions import ItemResult, RefusalReason, StoredResponse
from niyanta.store.rest.submissions import SubmissionRequest as Submission
from niyanta.store.rows import CustomerRow, WorkloadIntake

router = APIRouter(prefix="/v1", tags=["Workloads"])

MANIFESTS_AT_ONCE = 10
"""Manifests parsed before the event loop may serve other requests."""


@dataclass(slots=True)
class _Line:
    """A line of a batch: the workload to insert, or the problem with it."""

    number: int
    intake: WorkloadIntake | None = None
    problem: Problem | None = None


@dataclass(slots=True)
class _GroupKey:
    """The idempotency key of a group, and the hash of the group."""

    key: str | None
    digest: str


@router.post(
    "/workloads:batch",
    status_code=202,
    response_model=BatchView,
    summary="Submit up to 1,000 workloads",
    responses=problems(400, 401, 408, 409, 413, 415, 422, 429, 503)
    | {207: {"model": BatchView, "description": "Some or all items were refused; each item has its own status."}},
    openapi_extra={"requestBody": BATCH_BODY, "parameters": [IDEMPOTENCY]},
)
async def submit_batch(request: Request, parts: Parts, caller: Caller) -> Response:
    """The body is NDJSON: one manifest per line, all for one customer. Lines are committed in order, in groups of up to
    500 lines, 1 MiB, or 8 MiB of estimated memory: the accepted items of a group in one transaction.

    202: all items were accepted; 207: see the status of each. Any other status ends the batch; if groups before were
    committed, its detail says how many of their items were accepted. Repeat such a batch with the same Idempotency-Key:
    groups that were committed give their stored answers, and the others are committed now. The answer of a group is
    stored if any of its items was accepted, so send refused items again under another key.
    """
    with metrics.submission():
        require_media(request, "ndjson", "jsonl", "json")
        require_rate(parts, caller)
        budget = budget_of(request)
        await budget.hold(announced_size(request, most=GROUP_BYTES))
        batch = _Batch(parts, caller, idempotency_key(request), budget)
        try:
            async for group in line_groups(body_parts(request, parts.settings, most=MAX_BATCH_BYTES)):
                await batch.take(group)
            await batch.settle()
        except (Problem, StoreError) as error:
            raise await batch.broken_off(error) from error
        return await batch.response()


class _Batch:
    """One request's progress: the results of committed groups, and the group that is being committed."""

    def __init__(self, parts: Dependencies, caller: Principal, key: str | None, budget: RequestBudget) -> None:
        self._parts = parts
        self._caller = caller
        self._key = key
        self._budget = budget
        self._name: str | None = None
        self._customer: CustomerRow | None = None
        self._committing: tuple[asyncio.Task[list[Any]], int] | None = None
        self._items: list[dict[str, Any]] = []
        self._headers: dict[str, str] = {}
        self._depth = 0
        self._fresh = False

    async def take(self, group: LineGroup) -> None:
        """Read a group, and start to commit it when the one before is committed. Raises Problem, StoreError."""
        memory = group.memory
        if not self._budget.fits(memory):
            await self.settle()  # the group before may hold what is missing
        await self._budget.hold(memory)
        if self._name is None:
            self._name = self._target(group)
        work = await bounded(self._prepare(group, self._name))
        await self.settle()
        self._committing = (asyncio.create_task(bounded(work()), name="batch-group"), memory)

    async def settle(self) -> None:
        """Wait until the group in progress is committed. Raises Problem, StoreError."""
        if self._committing is None:
            return
        (task, memory), self._committing = self._committing, None
        try:
            self._items += await task
        finally:
            self._budget.give_back(memory)

    async def broken_off(self, error: Exception) -> Exception:
        """The error that ended the batch; if items were accepted before, it says how many."""
        with contextlib.suppress(Problem, StoreError):
            await self.settle()
        accepted = self._accepted()
        if not accepted:
            return error
        if isinstance(error, StoreUnavailableError | ConflictError):
            error = Problem(UNAVAILABLE, "Postgres doesn't answer", retry_after=2)
        if not isinstance(error, Problem):
            return error
        text = (
            f"{error.detail}; {accepted} of the items before were accepted and are committed: repeat the batch with "
            "the same Idempotency-Key to go on"
        )
        return Problem(error.kind, text, error.errors, error.retry_after, error.headers)

    def _accepted(self) -> int:
        return sum(item["status"] == 202 for item in self._items)

    def _target(self, group: LineGroup) -> str:
        """Name of the customer to submit the batch for; an admin's batch goes by its first line."""
        if not self._caller.admin:
            return self._caller.customer
        try:
            return target(parse_object(group.lines[0][1]), self._caller)
        except Problem:
            return self._caller.customer

    # --- A group -----------------------------------------------------------------------------------------------------

    async def _prepare(self, group: LineGroup, name: str) -> Callable[[], Coroutine[Any, Any, list[Any]]]:
        """The work that gives the group's items: reading its stored answer, or its commit."""
        # A key has no spaces, so the keys of further groups are none that a caller could send.
        key = self._key if self._key is None or group.number == 0 else f"{self._key} {group.number}"
        of_group = _GroupKey(key, group.digest)
        if key is not None and (found := await self._parts.store.find_answer(name, key, group.digest)) is not None:
            return partial(self._stored, found.answer, name)
        customer = self._customer = await require_customer(self._parts, name)
        lines = await self._read(group, customer)
        await self._apply_rate_limit(customer, lines)
        return partial(self._commit, of_group, lines, customer)

    async def _stored(self, answer: StoredResponse | None, name: str) -> list[Any]:
        if answer is None:
            raise key_reused()
        self._headers |= await position(self._parts, self._caller, name)
        found: list[Any] = answer.body["items"]
        return found

    async def _read(self, group: LineGroup, customer: CustomerRow) -> list[_Line]:
        lines: list[_Line] = []
        while len(lines) < len(group.lines):
            async with self._parts.turns.of(self._caller.customer):
                for number, text in group.lines[len(lines) : len(lines) + MANIFESTS_AT_ONCE]:
                    try:
                        lines.append(_Line(number, intake=read_manifest(self._parts, parse_object(text), customer)))
                    except Problem as problem:
                        lines.append(_Line(number, problem=problem))
        group.lines.clear()  # the texts are not needed any more
        return lines

    async def _apply_rate_limit(self, customer: CustomerRow, lines: Sequence[_Line]) -> None:
        """Refuse the lines beyond submitRatePerSecond; earlier lines are accepted first."""
        per_second = limit_of(customer, "submitRatePerSecond")
        good = [line for line in lines if line.intake is not None]
        if per_second is None or not good:
            return
        granted = await self._parts.rate.take(customer.name, per_second, len(good))
        for line in good[granted:]:
            line.intake, line.problem = None, Backpressure.rate_limited(per_second)

    async def _commit(self, of_group: _GroupKey, lines: Sequence[_Line], customer: CustomerRow) -> list[Any]:
        good = [line.intake for line in lines if line.intake is not None]
        limit = limit_of(customer, "maxQueueDepth")
        answers = _GroupAnswer(lines, limit)
        if good:
            await self._parts.pressure.require_capacity(customer.name, len(good))
            hash_ = of_group.digest if of_group.key is not None else ""
            outcome = await self._parts.batcher.submit(
                Submission(customer.name, good, limit, answers.answer, key=of_group.key, body_hash=hash_)
            )
            if outcome.replayed or outcome.mismatch or outcome.answer is None:
                return await self._stored(outcome.answer, customer.name)
            self._headers |= self._parts.read_your_writes.written(
                outcome.position, self._caller.customer, customer.name
            )
            found = outcome.answer
        else:
            found = answers.answer([])
        self._fresh = True
        self._depth = max(self._depth, answers.depth)
        metrics.batch(found.body["items"], customer.tier)
        items: list[Any] = found.body["items"]
        return items

    # --- The response ------------------------------------------------------------------------------------------------

    async def response(self) -> Response:
        """The response to the whole batch, with the headers of the limit that refused items."""
        if not self._items:
            raise Problem(BAD_REQUEST, "the batch is empty: send one manifest per line")
        accepted = self._accepted()
        if not self._fresh:
            metrics.REPLAYED.inc()
            self._headers["Idempotency-Replayed"] = "true"
        else:
            self._headers |= await self._limit_headers()
        body = {"accepted": accepted, "refused": len(self._items) - accepted, "items": self._items}
        return raw(body, 202 if accepted == len(self._items) else 207, self._headers)

    async def _limit_headers(self) -> dict[str, str]:
        kinds = {item["problem"]["type"] for item in self._items if item["problem"]}
        customer = self._customer
        if customer is None:
            return {}
        limit = limit_of(customer, "maxQueueDepth")
        if QUEUE_FULL.uri in kinds and limit is not None:
            refused = sum(item["status"] == QUEUE_FULL.status for item in self._items)
            wait = (await self._parts.pressure.placement_rate()).seconds_for(refused, customer.name)
            return {
                "Retry-After": str(max(1, round(wait))),
                **limit_headers("queue", limit, max(0, limit - self._depth), wait),
            }
        if RATE_LIMITED.uri in kinds:
            per_second = limit_of(customer, "submitRatePerSecond") or 0
            return {"Retry-After": "1", **limit_headers("rate", per_second, 0, 1.0)}
        return {}


class _GroupAnswer:
    """Makes the answer of a group from the store's results, so that their transaction can store it."""

    def __init__(self, lines: Sequence[_Line], limit: int | None) -> None:
        self._lines = lines
        self._limit = limit
        self.depth = 0

    def answer(self, results: Sequence[ItemResult]) -> StoredResponse:
        """The items' results, in order."""
        rest = iter(results)
        items = []
        for line in self._lines:
            if line.intake is None:
                items.append(_item(line.number, line.problem))
                continue
            result = next(rest)
            if result.row is not None:
                items.append(BatchItem(line=line.number, status=202, workload=serializers.accepted(result.row)))
            elif result.refusal is RefusalReason.NAME_TAKEN:
                items.append(_item(line.number, name_taken(line.intake)))
            else:
                self.depth = max(self.depth, result.depth)
                text = f"the customer has {result.depth} workloads waiting, its maxQueueDepth is {self._limit}"
                items.append(_item(line.number, Problem(QUEUE_FULL, text)))
        accepted = sum(item.status == 202 for item in items)
        view = BatchView(accepted=accepted, refused=len(items) - accepted, items=items)
        return StoredResponse(202 if accepted == len(items) else 207, serializers.body(view), keep=accepted > 0)


def _item(number: int, problem: Problem | None) -> BatchItem:
    assert problem is not None
    return BatchItem(line=number, status=problem.kind.status, problem=ProblemView.model_validate(problem.body()))
