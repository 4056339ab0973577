"""Gates of writes of pods, one for each namespace: they bound the requests in flight, and stop requests in a namespace
where they fail (a webhook that doesn't answer, an overloaded server), so that other namespaces don't wait for them.

`pod_creator` and `pod_remover` have gates of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass

from niyanta.scheduler.pods.breaker import Breaker

FAILURES = 5
"""Failed requests in a row that open a namespace's breaker."""

FIRST_IN_FLIGHT = 4
"""Most requests in flight before the first answer, so that many failing namespaces together don't take all slots."""

FIRST_PROBE_SECONDS = 0.5
LONGEST_PROBE_SECONDS = 10.0
"""Range of the time between two probes of an open breaker, without jitter."""

GIVE_UP_SECONDS = 60.0
"""Longest wait of a request for a breaker that is open."""


REMEMBERED_GATES = 1000
"""Gates beyond which idle ones are forgotten."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request that waits for its turn. `since`: monotonic seconds."""

    turn: asyncio.Future[bool]
    since: float


class NamespaceGate:
    """The requests of one namespace, in the order of their arrival."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._allowed = min(limit, FIRST_IN_FLIGHT)
        """Most requests in flight now: more after each answer, fewer after each failure."""
        self._in_flight = 0
        self._waiting: deque[_Waiting] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.breaker = Breaker(
            failures=FAILURES, first_seconds=FIRST_PROBE_SECONDS, longest_seconds=LONGEST_PROBE_SECONDS
        )

    @property
    def idle(self) -> bool:
        """True if it has nothing to remember."""
        return not self._waiting and not self._in_flight and not self.breaker.failures

    async def enter(self) -> bool:
        """Wait for a turn; `leave` must follow. False, without a turn, if the breaker stays open too long."""
        waiting = _Waiting(asyncio.get_running_loop().create_future(), time.monotonic())
        self._waiting.append(waiting)
        self._advance()
        try:
            return await waiting.turn
        except asyncio.CancelledError:
            if waiting.turn.done() and not waiting.turn.cancelled() and waiting.turn.result():
                self.leave(None)
            raise

    def leave(self, succeeded: bool | None) -> None:
        """End a turn. `succeeded`: the API server gave a definite answer; None: the request wasn't sent."""
        self._in_flight -= 1
        if succeeded:
            self.breaker.succeeded()
            self._allowed = min(self._allowed + 1, self._limit)
        elif succeeded is not None:
            self.breaker.failed()
            self._allowed = max(self._allowed // 2, 1)
        self._advance()

    def _advance(self) -> None:
        """Give turns to the requests that may go, and end the wait of those that have waited too long."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and self._has_room():
            waiting = self._waiting.popleft()
            if not waiting.turn.done():
                self._in_flight += 1
                waiting.turn.set_result(True)
        if not self.breaker.open:
            return
        now = time.monotonic()
        while self._waiting and now - self._waiting[0].since >= GIVE_UP_SECONDS:
            waiting = self._waiting.popleft()
            if not waiting.turn.done():
                waiting.turn.set_result(False)
        if self._waiting:
            pause = self._waiting[0].since + GIVE_UP_SECONDS - now
            if not self._in_flight:
                pause = min(pause, self.breaker.seconds_to_probe())
            self._timer = asyncio.get_running_loop().call_later(max(pause, 0.0), self._advance)

    def _has_room(self) -> bool:
        if self.breaker.open:
            return not self._in_flight and self.breaker.seconds_to_probe() <= 0
        return self._in_flight < self._allowed


class NamespaceGates:
    """The gates of one leadership."""

    def __init__(self, limit: int) -> None:
        """`limit`: most requests in flight in one namespace."""
        self._limit = limit
        self._gates: dict[str, NamespaceGate] = {}

    def of(self, namespace: str) -> NamespaceGate:
        """The gate of a namespace, to be entered at once."""
        found = self._gates.get(namespace)
        if found is None:
            if len(self._gates) >= REMEMBERED_GATES:
                self._forget_idle()
            found = self._gates[namespace] = NamespaceGate(self._limit)
        return found

    def open_breakers(self) -> int:
        """Number of namespaces whose breaker is open."""
        self._forget_idle()
        return sum(gate.breaker.open for gate in self._gates.values())

    def _forget_idle(self) -> None:
        self._gates = {namespace: gate for namespace, gate in self._gates.items() if not gate.idle}
