"""Steps that single submissions and batches share: whose submission it is, its manifest, its idempotency key."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from niyanta.server import metrics
from niyanta.server.auth import Principal
from niyanta.server.dependencies import Dependencies, raw
from niyanta.server.problems import BAD_REQUEST, KEY_REUSED, NAME_TAKEN, NOT_ALLOWED, Problem
from niyanta.store.rest.submissions import SubmissionOutcome
from niyanta.store.rows import CustomerRow, WorkloadIntake

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_CUSTOMER = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def require_rate(parts: Dependencies, caller: Principal) -> None:
    """Raises Problem (429) if the caller's customer was just refused by its submitRatePerSecond: before the body is
    read, and without Postgres. The customer of an admin's submission isn't known yet."""
    if not caller.admin:
        parts.rate.require(caller.customer)


def read_manifest(parts: Dependencies, manifest: dict[str, Any], customer: CustomerRow) -> WorkloadIntake:
    """The row to insert; raises Problem with the invalid fields."""
    return parts.reader.read(manifest, customer, tier_weight=parts.settings.tier_weight(customer.tier))


def name_taken(intake: WorkloadIntake) -> Problem:
    """The response to a submission whose name is in use."""
    text = f"customer {intake.customer} has an unfinished workload named {intake.name}"
    return Problem(NAME_TAKEN, text, [{"field": "metadata.name", "message": "is already in use"}])


async def require_customer(parts: Dependencies, name: str) -> CustomerRow:
    """The Customer to submit for; Problem (422) when there is none."""
    found = await parts.pressure.customer(name)
    if found is None:
        raise Problem(NOT_ALLOWED, f"there is no Customer {name}")
    return found


def target(manifest: dict[str, Any], caller: Principal) -> str:
    """Name of the customer to submit for: the caller's own, or the one an admin names in spec.customer."""
    spec = manifest.get("spec")
    named = spec.get("customer") if isinstance(spec, dict) else None
    if caller.admin and isinstance(named, str) and _CUSTOMER.fullmatch(named):
        return named
    return caller.customer


def idempotency_key(request: Request) -> str | None:
    """The Idempotency-Key; Problem (400) for an invalid one."""
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise Problem(BAD_REQUEST, "Idempotency-Key: must be 1 to 255 printable ASCII characters without spaces")
    return key


async def position(parts: Dependencies, caller: Principal, customer: str) -> dict[str, str]:
    """Position headers for a stored answer, whose write may be recent and made by another process."""
    return parts.read_your_writes.written(await parts.router.position(), caller.customer, customer)


def key_reused() -> Problem:
    """The response to an Idempotency-Key of another request."""
    return Problem(KEY_REUSED, "this Idempotency-Key was used for another request within 24 hours")


def replayed(outcome: SubmissionOutcome, written: dict[str, str]) -> Response:
    """The stored response to a single submission."""
    if outcome.mismatch or outcome.answer is None:
        raise key_reused()
    metrics.REPLAYED.inc()
    headers = {"Idempotency-Replayed": "true", **written}
    if isinstance(outcome.answer.body, dict) and "href" in outcome.answer.body:
        headers["Location"] = outcome.answer.body["href"]
    return raw(outcome.answer.body, outcome.answer.status, headers)
