"""Faults that a test scripts for the operations of a fake: errors, lost answers, and calls that hang until released."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass
class Fault:
    """One scripted behaviour of an operation."""

    error: Exception | None = None
    times: int | None = 1
    """Number of calls that it still affects; None: all calls until `clear`."""
    carried_out: bool = False
    """The operation is carried out, and only its answer is lost."""
    released: asyncio.Event | None = None
    """The call waits until this event is set."""
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a call was affected."""

    def release(self) -> None:
        """Let hanging calls continue."""
        assert self.released is not None, "this fault does not hang"
        self.released.set()


class Faults:
    """Faults of one fake by operation, in the order in which they were added."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        """Number of calls by operation, including failed ones."""
        self.under_way: Counter[str] = Counter()
        """Number of calls by operation that hang now."""
        self.most_under_way: Counter[str] = Counter()
        self._script: dict[str, list[Fault]] = defaultdict(list)

    def fail(self, operation: str, error: Exception, *, times: int | None = 1, carried_out: bool = False) -> Fault:
        """Let the next calls of an operation raise `error`; `times` None: all calls until `clear`."""
        fault = Fault(error, times, carried_out)
        self._script[operation].append(fault)
        return fault

    def hang(self, operation: str, *, times: int | None = 1) -> Fault:
        """Let the next calls of an operation wait until the fault is released, and then continue as usual."""
        fault = Fault(times=times, released=asyncio.Event())
        self._script[operation].append(fault)
        return fault

    def clear(self, operation: str) -> None:
        """Drop the faults of an operation; hanging calls continue."""
        for fault in self._script.pop(operation, []):
            if fault.released is not None:
                fault.released.set()

    async def before(self, operation: str) -> Fault | None:
        """Count a call and apply its fault. Raises the fault's error; returns the fault if its error must be raised
        after the operation."""
        self.calls[operation] += 1
        fault = self._next(operation)
        if fault is None:
            return None
        fault.reached.set()
        if fault.released is not None:
            self.under_way[operation] += 1
            self.most_under_way[operation] = max(self.most_under_way[operation], self.under_way[operation])
            try:
                await fault.released.wait()
            finally:
                self.under_way[operation] -= 1
        if fault.error is not None and not fault.carried_out:
            raise fault.error
        return fault

    @staticmethod
    def after(fault: Fault | None) -> None:
        """Raise the error of an operation that was carried out without an answer."""
        if fault is not None and fault.error is not None:
            raise fault.error

    def _next(self, operation: str) -> Fault | None:
        for fault in self._script[operation]:
            if fault.times is None:
                return fault
            if fault.times > 0:
                fault.times -= 1
                return fault
        return None
