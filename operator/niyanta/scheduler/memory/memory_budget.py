"""The budget of bytes that workloads share in the leader's memory."""

from __future__ import annotations

from collections import Counter

SMALL_CUSTOMER_PART = 32
"""A customer that uses at most this part of the memory for workloads may use the last quarter of it."""

Account = tuple[str, str]
"""Customer and namespace."""


class MemoryBudget:
    """Bytes of the workloads in memory: of a customer in a namespace, of a customer, and in total.

    The last quarter of the total is left to customers that use little, so that a few large ones don't shut out others.
    """

    def __init__(self, account_bytes: int) -> None:
        """`account_bytes`: most bytes of a customer in one namespace; half of the total."""
        self._account_bytes = account_bytes
        self._customer_bytes = account_bytes * 3 // 2
        self._total_bytes = account_bytes * 2
        self._sizes: dict[str, tuple[Account, int]] = {}
        self._accounts: Counter[Account] = Counter()
        self._customers: Counter[str] = Counter()
        self.total = 0
        """Bytes of all workloads."""

    def has_room(self, account: Account, size: int) -> bool:
        """True if a workload of this size may be kept."""
        of_customer = self._customers[account[0]] + size
        is_small = of_customer <= self._total_bytes // SMALL_CUSTOMER_PART
        return (
            self._accounts[account] + size <= self._account_bytes
            and of_customer <= self._customer_bytes
            and self.total + size <= (self._total_bytes if is_small else self._total_bytes * 3 // 4)
        )

    def account(self, workload_id: str) -> Account | None:
        """The account that a workload is counted for; None if it isn't counted."""
        return self._sizes.get(workload_id, (None, 0))[0]

    def count(self, workload_id: str, account: Account, size: int) -> None:
        """Count a workload, instead of what was counted for it before."""
        self.forget(workload_id)
        self._sizes[workload_id] = account, size
        self._add(account, size)

    def forget(self, workload_id: str) -> None:
        """A workload is no longer in memory."""
        account, size = self._sizes.pop(workload_id, (None, 0))
        if account is not None:
            self._add(account, -size)

    def _add(self, account: Account, size: int) -> None:
        self.total += size
        self._accounts[account] += size
        self._customers[account[0]] += size
        if self._accounts[account] <= 0:
            del self._accounts[account]
        if self._customers[account[0]] <= 0:
            del self._customers[account[0]]

    def used(self, customer: str, namespace: str) -> int:
        """Bytes of the customer's workloads in the namespace."""
        return self._accounts[customer, namespace]
