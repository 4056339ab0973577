"""POST /v1/workloads: 202 means committed. `batches` has POST /v1/workloads:batch.

Checks run in the order of their cost: key, requests in flight, a fresh refusal by the rate, size, idempotency,
manifest, rate, capacity, and last, in the transaction, names and the customer's limit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from niyanta.server import metrics
from niyanta.server.auth import Principal
from niyanta.server.dependencies import Caller, Dependencies, Parts, bounded, raw
from niyanta.server.limits.budgets import budget_of
from niyanta.server.problems import Problem
from niyanta.server.schema import serializers
from niyanta.server.schema.models import Accepted
from niyanta.server.schema.openapi_document import IDEMPOTENCY, MANIFEST_BODY, problems
from niyanta.server.submit.backpressure import Backpressure, limit_of
from niyanta.server.submit.body import (
    MAX_MANIFEST_BYTES,
    announced_size,
    memory_of,
    parse_object,
    read_body,
    require_media,
)
from niyanta.server.submit.checks import (
    idempotency_key,
    name_taken,
    position,
    read_manifest,
    replayed,
    require_customer,
    require_rate,
    target,
)
from niyanta.store.rest.submissions import ItemResult, RefusalReason, StoredResponse
from niyanta.store.rest.submissions import SubmissionRequest as Submission
from niyanta.store.rows import CustomerRow, WorkloadIntake

router = APIRouter(prefix="/v1", tags=["Workloads"])


@router.post(
    "/workloads",
    status_code=202,
    response_model=Accepted,
    summary="Submit a workload",
    responses=problems(400, 401, 408, 409, 413, 415, 422, 429, 503),
    openapi_extra={"requestBody": MANIFEST_BODY, "parameters": [IDEMPOTENCY]},
)
async def submit(request: Request, parts: Parts, caller: Caller) -> Response:
    """The body is a Workload manifest as for kubectl, in JSON. 202 means that it is committed and will not be lost."""
    with metrics.submission():
        require_media(request, "json")
        require_rate(parts, caller)
        budget = budget_of(request)
        await budget.hold(announced_size(request, most=MAX_MANIFEST_BYTES))
        text = await read_body(request, parts.settings, most=MAX_MANIFEST_BYTES)
        await budget.hold(memory_of(text))
        return await bounded(_submit(request, text, parts, caller))


async def _submit(request: Request, text: bytes, parts: Dependencies, caller: Principal) -> Response:
    key = idempotency_key(request)
    digest = hashlib.sha256(b"one\n" + text).hexdigest()
    async with parts.turns.of(caller.customer):
        manifest = parse_object(text)
    name = target(manifest, caller)
    if key is not None and (found := await parts.store.find_answer(name, key, digest)) is not None:
        return replayed(found, await position(parts, caller, name))
    customer = await require_customer(parts, name)
    async with parts.turns.of(caller.customer):
        intake = read_manifest(parts, manifest, customer)
    per_second = limit_of(customer, "submitRatePerSecond")
    if per_second is not None and not await parts.rate.take(name, per_second, 1):
        raise Backpressure.rate_limited(per_second)
    await parts.pressure.require_capacity(name, 1)
    limit = limit_of(customer, "maxQueueDepth")
    outcome = await parts.batcher.submit(
        Submission(name, [intake], limit, _one_answer, key=key, body_hash=digest if key is not None else "")
    )
    written = parts.read_your_writes.written(outcome.position, caller.customer, name)
    if outcome.replayed or outcome.mismatch:
        return replayed(outcome, written)
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
        return name_taken(intake)
    return await parts.pressure.queue_full(customer, limit or 0, result.depth, 1)
