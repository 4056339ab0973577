"""Gates of writes, one for each namespace: they bound the requests in flight, and stop requests in a namespace where
they fail (a webhook that doesn't answer, an overloaded server), so that other namespaces don't wait for them.

Requests that are answered slowly, but answered, are bounded too: a namespace may have as many in flight as are left
free, and so may a customer with all its namespaces, twice as many. So some are always left for other customers, and
for other namespaces of the same customer. Customers take turns, and so do the namespaces of each.

`pod_creator`, `pod_remover` and the writers of statuses and Events have gates of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from dataclasses import dataclass

from niyanta.scheduler.pods.breaker import Breaker

FAILURES = 5
"""Failed requests in a row that open a namespace's breaker."""

FIRST_IN_FLIGHT = 4
"""Most requests in flight before the first answer, so that many failing namespaces together don't take all slots."""

FIRST_PROBE_SECONDS = 0.5
LONGEST_PROBE_SECONDS = 10.0
"""Range of the time between two probes of an open breaker, without jitter."""

PROBE_AGAIN_SECONDS = 0.01
"""Time until a probe that was due and had no turn asks for one again."""

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
    """The requests of one customer in one namespace, in the order of their arrival; made by `NamespaceGates.of`."""

    def __init__(self, gates: NamespaceGates, namespace: str, customer: str, limit: int) -> None:
        self._gates = gates
        self.namespace = namespace
        self.customer = customer
        self._limit = limit
        self._allowed = min(limit, FIRST_IN_FLIGHT)
        """Most requests in flight now: more after each answer, fewer after each failure."""
        self.in_flight = 0
        self._waiting: deque[_Waiting] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.breaker = Breaker(
            failures=FAILURES, first_seconds=FIRST_PROBE_SECONDS, longest_seconds=LONGEST_PROBE_SECONDS
        )

    @property
    def idle(self) -> bool:
        """True if it has nothing to remember."""
        return not self._waiting and not self.in_flight and not self.breaker.failures

    @property
    def ready(self) -> bool:
        """True if a request waits that may go as far as this namespace is concerned."""
        if not self._waiting:
            return False
        if self.breaker.open:
            return not self.in_flight and self.breaker.seconds_to_probe() <= 0
        return self.in_flight < self._allowed

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
        self.in_flight -= 1
        self._gates.turn_ended(self)
        if succeeded:
            self.breaker.succeeded()
            self._allowed = min(self._allowed + 1, self._limit)
        elif succeeded is not None:
            self.breaker.failed()
            self._allowed = max(self._allowed // 2, 1)
        self._advance()

    def give_turn(self) -> bool:
        """Let the request go that has waited longest; False if all were cancelled meanwhile."""
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.turn.done():
                self.in_flight += 1
                waiting.turn.set_result(True)
                return True
        return False

    def _advance(self) -> None:
        """Give turns to the requests that may go, and end the wait of those that have waited too long."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._gates.advance(self)
        if not self.breaker.open:
            return
        now = time.monotonic()
        while self._waiting and now - self._waiting[0].since >= GIVE_UP_SECONDS:
            waiting = self._waiting.popleft()
            if not waiting.turn.done():
                waiting.turn.set_result(False)
        if self._waiting:
            pause = self._waiting[0].since + GIVE_UP_SECONDS - now
            if not self.in_flight:
                # The time of the probe may have come since the gates were asked for a turn.
                pause = min(pause, max(self.breaker.seconds_to_probe(), PROBE_AGAIN_SECONDS))
            self._timer = asyncio.get_running_loop().call_later(max(pause, 0.0), self._advance)


class NamespaceGates:
    """The gates of one kind of requests. At most `total` are in flight together, and half of them in one namespace."""

    def __init__(self, total: int) -> None:
        """`total`: most requests in flight together."""
        self._total = total
        self._gates: dict[tuple[str, str], NamespaceGate] = {}
        self._in_flight = 0
        self._by_customer: Counter[str] = Counter()
        """Requests in flight."""
        self._ready: dict[str, dict[NamespaceGate, None]] = {}
        """Customer -> its gates that are ready; the ones that had a turn last come last in both."""

    def of(self, namespace: str, customer: str = "") -> NamespaceGate:
        """The gate of a customer's requests in a namespace, to be entered at once. Without a customer, the namespace
        counts as a customer of its own."""
        key = namespace, customer
        found = self._gates.get(key)
        if found is None:
            if len(self._gates) >= REMEMBERED_GATES:
                self._forget_idle()
            # No customer has a name with a slash.
            limit = (self._total + 1) // 2
            found = self._gates[key] = NamespaceGate(self, namespace, customer or f"/{namespace}", limit)
        return found

    def open_breakers(self) -> int:
        """Number of namespaces whose breaker is open."""
        self._forget_idle()
        return len({gate.namespace for gate in self._gates.values() if gate.breaker.open})

    def turn_ended(self, gate: NamespaceGate) -> None:
        """A request of this gate has ended."""
        self._in_flight -= 1
        self._by_customer[gate.customer] -= 1
        if not self._by_customer[gate.customer]:
            del self._by_customer[gate.customer]

    def advance(self, changed: NamespaceGate) -> None:
        """Give turns to all requests that may go; `changed` is a gate whose readiness may be another than before."""
        self._follow(changed)
        while self._in_flight < self._total:
            gate = self._next()
            if gate is None:
                return
            if gate.give_turn():
                self._in_flight += 1
                self._by_customer[gate.customer] += 1
            self._rotate(gate)

    def _next(self) -> NamespaceGate | None:
        """The gate whose turn it is. Only customers and gates with requests in flight are passed over, so this looks
        at no more than `total` of them."""
        free = self._total - self._in_flight
        for customer, gates in self._ready.items():
            if self._by_customer[customer] < 2 * free:
                for gate in gates:
                    if gate.in_flight < free:
                        return gate
        return None

    def _follow(self, gate: NamespaceGate) -> None:
        """Keep the gate among the ready ones if it is ready; its place there stays."""
        if gate.ready:
            self._ready.setdefault(gate.customer, {})[gate] = None
            return
        gates = self._ready.get(gate.customer, {})
        gates.pop(gate, None)
        if not gates:
            self._ready.pop(gate.customer, None)

    def _rotate(self, gate: NamespaceGate) -> None:
        """The gate has had a turn: put it behind the customer's others, and the customer behind the others."""
        gates = self._ready.pop(gate.customer)
        del gates[gate]
        if gate.ready:
            gates[gate] = None
        if gates:
            self._ready[gate.customer] = gates

    def _forget_idle(self) -> None:
        self._gates = {key: gate for key, gate in self._gates.items() if not gate.idle}
