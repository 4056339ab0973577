"""POST /v1/workloads and /v1/workloads:batch: 202 means committed.

Checks run in the order of their cost: key, size, idempotency, manifest, rate, capacity, and last, in the transaction,
names and the customer's limit.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from niyanta.server import metrics
from niyanta.server.auth import Principal
from niyanta.server.dependencies import Caller, Dependencies, Parts, bounded, raw
from niyanta.server.problems import (
    BAD_REQUEST,
    KEY_REUSED,
    NAME_TAKEN,
    NOT_ALLOWED,
    QUEUE_FULL,
    RATE_LIMITED,
    TOO_LARGE,
    Problem,
)
from niyanta.server.schema import serializers
from niyanta.server.schema.models import Accepted, BatchItem, BatchView, ProblemView
from niyanta.server.schema.openapi_document import BATCH_BODY, IDEMPOTENCY, MANIFEST_BODY, problems
from niyanta.server.submit.backpressure import Backpressure, limit_headers, limit_of
from niyanta.server.submit.body import (
    MAX_BATCH_BYTES,
    MAX_ITEMS,
    MAX_MANIFEST_BYTES,
    parse_object,
    read_body,
    require_media,
)
from niyanta.store.rest.submissions import ItemResult, RefusalReason, StoredResponse, SubmissionOutcome
from niyanta.store.rest.submissions import SubmissionRequest as Submission
from niyanta.store.rows import CustomerRow, WorkloadIntake

router = APIRouter(prefix="/v1", tags=["Workloads"])

YIELD_EVERY_MANIFESTS = 25
"""Manifests parsed before the event loop may serve other requests."""
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_CUSTOMER = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@router.post(
    "/workloads",
    status_code=202,
    response_model=Accepted,
    summary="Submit a workload",
    responses=problems(400, 401, 409, 413, 415, 422, 429, 503),
    openapi_extra={"requestBody": MANIFEST_BODY, "parameters": [IDEMPOTENCY]},
)
async def submit(request: Request, parts: Parts, caller: Caller) -> Response:
    """The body is a Workload manifest as for kubectl, in JSON. 202 means that it is committed and will not be lost."""
    with metrics.submission():
        require_media(request, "json")
        text = await read_body(request, MAX_MANIFEST_BYTES)
        return await bounded(_submit(request, text, parts, caller))


async def _submit(request: Request, text: bytes, parts: Dependencies, caller: Principal) -> Response:
    key = _idempotency_key(request)
    digest = hashlib.sha256(b"one\n" + text).hexdigest()
    manifest = parse_object(text)
    name = _target(manifest, caller)
    if key is not None and (found := await parts.store.find_answer(name, key, digest)) is not None:
        return _replayed(found, await _position(parts, caller, name))
    customer = await _customer(parts, name)
    intake = _read(parts, manifest, customer)
    per_second = limit_of(customer, "submitRatePerSecond")
    if per_second is not None and not await parts.rate.take(name, per_second, 1):
        raise Backpressure.rate_limited(per_second)
    await parts.pressure.require_capacity(1)
    limit = limit_of(customer, "maxQueueDepth")
    outcome = await parts.batcher.submit(
        Submission(name, [intake], limit, _one_answer, key=key, body_hash=digest if key is not None else "")
    )
    written = parts.read_your_writes.written(outcome.position, caller.customer, name)
    if outcome.replayed or outcome.mismatch:
        return _replayed(outcome, written)
    (result,) = outcome.verdicts
    if result.row is None:
        raise await _refused(parts, result, customer, limit, intake)
    metrics.ACCEPTED.labels(customer.tier).inc()
    headers = {"Location": f"/v1/workloads/{result.row.id}", **written}
    return raw(outcome.answer.body if outcome.answer else None, 202, headers)


def _one_answer(results: Sequence[ItemResult]) -> StoredResponse:
    """The response to a single submission. A refusal isn't stored, so the same key may be used again."""
    row = results[0].row
    return (
        StoredResponse(0, None, keep=False)
        if row is None
        else StoredResponse(202, serializers.body(serializers.accepted(row)))
    )


async def _refused(
    parts: Dependencies, result: ItemResult, customer: CustomerRow, limit: int | None, intake: WorkloadIntake
) -> Problem:
    if result.refusal is RefusalReason.NAME_TAKEN:
        return _name_taken(intake)
    return await parts.pressure.queue_full(customer, limit or 0, result.depth, 1)


# --- Batches ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Line:
    """A line of a batch: the workload to insert, or the problem with it."""

    number: int
    intake: WorkloadIntake | None = None
    problem: Problem | None = None


@router.post(
    "/workloads:batch",
    status_code=202,
    response_model=BatchView,
    summary="Submit up to 1,000 workloads",
    responses=problems(400, 401, 409, 413, 415, 422, 429, 503)
    | {207: {"model": BatchView, "description": "Some or all items were refused; each item has its own status."}},
    openapi_extra={"requestBody": BATCH_BODY, "parameters": [IDEMPOTENCY]},
)
async def submit_batch(request: Request, parts: Parts, caller: Caller) -> Response:
    """The body is NDJSON: one manifest per line, all for one customer. Accepted items are committed in one transaction.

    202: all items were accepted; 207: see the status of each. With an Idempotency-Key, the whole answer is stored if
    any item was accepted, so send refused items again under another key.
    """
    with metrics.submission():
        require_media(request, "ndjson", "jsonl", "json")
        text = await read_body(request, MAX_BATCH_BYTES)
        return await bounded(_submit_batch(request, text, parts, caller))


async def _submit_batch(request: Request, text: bytes, parts: Dependencies, caller: Principal) -> Response:
    key = _idempotency_key(request)
    digest = hashlib.sha256(b"batch\n" + text).hexdigest()
    raw_lines = [(number, line) for number, line in enumerate(text.split(b"\n")) if line.strip()]
    if not raw_lines:
        raise Problem(BAD_REQUEST, "the batch is empty: send one manifest per line")
    if len(raw_lines) > MAX_ITEMS:
        raise Problem(TOO_LARGE, f"a batch may have at most {MAX_ITEMS} items, this one has {len(raw_lines)}")
    name = _batch_target(raw_lines, caller)
    if key is not None and (found := await parts.store.find_answer(name, key, digest)) is not None:
        return _replayed(found, await _position(parts, caller, name))
    customer = await _customer(parts, name)
    lines = await _read_lines(parts, raw_lines, customer)
    await _apply_rate_limit(parts, customer, lines)
    good = [line for line in lines if line.intake is not None]
    limit = limit_of(customer, "maxQueueDepth")
    if good:
        await parts.pressure.require_capacity(len(good))
    answers = _BatchAnswer(lines, limit)
    if not good:
        return await _batch_response(parts, customer, limit, answers.answer([]), answers)
    outcome = await parts.batcher.submit(
        Submission(
            name,
            [line.intake for line in good if line.intake is not None],
            limit,
            answers.answer,
            key=key,
            body_hash=digest if key is not None else "",
        )
    )
    written = parts.read_your_writes.written(outcome.position, caller.customer, name)
    if outcome.replayed or outcome.mismatch or outcome.answer is None:
        return _replayed(outcome, written)
    response = await _batch_response(parts, customer, limit, outcome.answer, answers)
    response.headers.update(written)
    return response


async def _read_lines(
    parts: Dependencies, raw_lines: Sequence[tuple[int, bytes]], customer: CustomerRow
) -> list[_Line]:
    lines = []
    for count, (number, text) in enumerate(raw_lines):
        if count % YIELD_EVERY_MANIFESTS == 0:
            await asyncio.sleep(0)
        try:
            lines.append(_Line(number, intake=_read(parts, parse_object(text), customer)))
        except Problem as problem:
            lines.append(_Line(number, problem=problem))
    return lines


async def _apply_rate_limit(parts: Dependencies, customer: CustomerRow, lines: Sequence[_Line]) -> None:
    """Refuse the lines beyond submitRatePerSecond; earlier lines are accepted first."""
    per_second = limit_of(customer, "submitRatePerSecond")
    good = [line for line in lines if line.intake is not None]
    if per_second is None or not good:
        return
    granted = await parts.rate.take(customer.name, per_second, len(good))
    for line in good[granted:]:
        line.intake, line.problem = None, Backpressure.rate_limited(per_second)


class _BatchAnswer:
    """Makes the response to a batch from the store's results, so that their transaction can store it."""

    def __init__(self, lines: Sequence[_Line], limit: int | None) -> None:
        self._lines = lines
        self._limit = limit
        self.depth = 0

    def answer(self, results: Sequence[ItemResult]) -> StoredResponse:
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
                items.append(_item(line.number, _name_taken(line.intake)))
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


async def _batch_response(
    parts: Dependencies, customer: CustomerRow, limit: int | None, answer: StoredResponse, answers: _BatchAnswer
) -> Response:
    """The response to a batch, with the headers of the limit that refused items."""
    metrics.batch(answer.body["items"], customer.tier)
    kinds = {item["problem"]["type"] for item in answer.body["items"] if item["problem"]}
    headers: dict[str, str] = {}
    if QUEUE_FULL.uri in kinds and limit is not None:
        refused = sum(item["status"] == QUEUE_FULL.status for item in answer.body["items"])
        wait = (await parts.pressure.placement_rate()).seconds_for(refused, customer.name)
        headers = {
            "Retry-After": str(max(1, round(wait))),
            **limit_headers("queue", limit, max(0, limit - answers.depth), wait),
        }
    elif RATE_LIMITED.uri in kinds:
        headers = {"Retry-After": "1", **limit_headers("rate", limit_of(customer, "submitRatePerSecond") or 0, 0, 1.0)}
    return raw(answer.body, answer.status, headers)


# --- Shared by single and batch submissions --------------------------------------------------------------------------


def _read(parts: Dependencies, manifest: dict[str, Any], customer: CustomerRow) -> WorkloadIntake:
    return parts.reader.read(manifest, customer, tier_weight=parts.settings.tier_weight(customer.tier))


def _name_taken(intake: WorkloadIntake) -> Problem:
    text = f"customer {intake.customer} has an unfinished workload named {intake.name}"
    return Problem(NAME_TAKEN, text, [{"field": "metadata.name", "message": "is already in use"}])


async def _customer(parts: Dependencies, name: str) -> CustomerRow:
    found = await parts.pressure.customer(name)
    if found is None:
        raise Problem(NOT_ALLOWED, f"there is no Customer {name}")
    return found


def _target(manifest: dict[str, Any], caller: Principal) -> str:
    """Name of the customer to submit for: the caller's own, or the one an admin names in spec.customer."""
    spec = manifest.get("spec")
    named = spec.get("customer") if isinstance(spec, dict) else None
    if caller.admin and isinstance(named, str) and _CUSTOMER.fullmatch(named):
        return named
    return caller.customer


def _batch_target(raw_lines: Sequence[tuple[int, bytes]], caller: Principal) -> str:
    """Name of the customer to submit a batch for; an admin's batch goes by its first line."""
    if not caller.admin:
        return caller.customer
    try:
        return _target(parse_object(raw_lines[0][1]), caller)
    except Problem:
        return caller.customer


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise Problem(BAD_REQUEST, "Idempotency-Key: must be 1 to 255 printable ASCII characters without spaces")
    return key


async def _position(parts: Dependencies, caller: Principal, customer: str) -> dict[str, str]:
    """Position headers for a stored answer, whose write may be recent and made by another process."""
    return parts.read_your_writes.written(await parts.router.position(), caller.customer, customer)


def _replayed(outcome: SubmissionOutcome, written: dict[str, str]) -> Response:
    if outcome.mismatch or outcome.answer is None:
        raise Problem(KEY_REUSED, "this Idempotency-Key was used for another request within 24 hours")
    metrics.REPLAYED.inc()
    headers = {"Idempotency-Replayed": "true", **written}
    if isinstance(outcome.answer.body, dict) and "href" in outcome.answer.body:
        headers["Location"] = outcome.answer.body["href"]
    return raw(outcome.answer.body, outcome.answer.status, headers)
