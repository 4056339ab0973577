"""Candidates of a refill: ids of pending rows, chosen by Postgres, from which the leader takes what it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class RefillRequest:
    """Numbers of rows: the `top` of the queue, the `oldest`, the first `per_class` of each of `classes` requirement
    classes after `after_class`, and the first `per_customer` of each of `customers` customers after `after_customer`.
    """

    top: int
    oldest: int = 0
    per_class: int = 0
    classes: int = 0
    after_class: str = ""
    per_customer: int = 0
    customers: int = 0
    after_customer: str = ""


@dataclass(frozen=True, slots=True)
class RefillCandidates:
    """Candidates: `customers` maps every id to its customer, in the order top, oldest, classes, customers."""

    customers: dict[str, str] = field(default_factory=dict)
    top: list[str] = field(default_factory=list)
    """The top rows, first in the queue first."""
    oldest: frozenset[str] = frozenset()
    of_classes: frozenset[str] = frozenset()
    next_class: str = ""
    """`after_class` of the next step; "": all classes were reached, start again."""
    next_customer: str = ""
    is_complete: bool = True
    """All pending rows (of the door) that are not in backoff are among the candidates."""


def refill_candidates(records: Sequence[Sequence[Any]], wanted: RefillRequest) -> RefillCandidates:
    """From the records of the statement `refill`: (part, id, customer)."""
    parts: dict[str, dict[str, str]] = {part: {} for part in ("top", "oldest", "class", "customer")}
    steps = {"classes": "", "customers": ""}
    for part, value, customer in records:
        if part in steps:
            steps[part] = value or ""
        else:
            parts[part][value] = customer
    customers: dict[str, str] = {}
    for found in parts.values():
        customers.update(found)
    return RefillCandidates(
        customers=customers,
        top=list(parts["top"]),
        oldest=frozenset(parts["oldest"]),
        of_classes=frozenset(parts["class"]),
        next_class=steps["classes"],
        next_customer=steps["customers"],
        is_complete=len(parts["top"]) < wanted.top,
    )
