"""Room for pending REST rows in the leader's memory, shared by customers: no backlog of one keeps the others out."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping


class Claim(enum.Enum):
    """The part of the backlog that a row was chosen from, which decides how much room it has."""

    ANY = enum.auto()
    CLASS = enum.auto()
    """Among the first of its requirement class."""
    FIRST = enum.auto()
    """Among the first of the queue, or the oldest."""


class RefillRoom:
    """Rows in memory by customer, and the bounds. Counted once a round, then kept up to date by `admit`."""

    def __init__(
        self, waiting: Mapping[str, int], *, window: int, reserve: int, per_customer: int, assured: int
    ) -> None:
        """`waiting`: customer -> rows in memory. `window`: bound of all rows; `reserve`: rows beyond it, for the first
        of the queue and for customers with fewer than `assured` rows. `per_customer`: bound of one customer's rows; for
        the first of the classes it is a quarter higher.
        """
        self._waiting = Counter(waiting)
        self._total = sum(waiting.values())
        self._window = window
        self._reserve = reserve
        self._per_customer = per_customer
        self._assured = assured

    def _has(self, customer: str, claim: Claim) -> bool:
        if self._total >= self._window + self._reserve:
            return False
        mine = self._waiting[customer]
        if claim is Claim.FIRST or mine < self._assured:
            return True
        bound = self._per_customer + self._per_customer // 4 if claim is Claim.CLASS else self._per_customer
        return self._total < self._window and mine < bound

    def admit(self, customer: str, claim: Claim) -> bool:
        """Count one more row of the customer; False if there is no room for it."""
        if not self._has(customer, claim):
            return False
        self._waiting[customer] += 1
        self._total += 1
        return True
