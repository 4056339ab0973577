"""Host ports in use per worker. `snapshot` keeps it; `placement.overlay` adds a cycle's placements."""

from __future__ import annotations

from niyanta.engine.snapshot.bitset import Bits, minus
from niyanta.engine.types import HostPort

ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - the value Kubernetes uses for "any address"

PortBits = dict[tuple[str, int], dict[str, Bits]]
"""(protocol, port) -> host IP -> workers where the port is taken."""


def port_key(port: HostPort) -> tuple[str, int]:
    """Protocol and port number: only ports with the same key can collide."""
    return port.protocol, port.port


def address(port: HostPort) -> str:
    """The host IP, or ANY_ADDRESS when the port has none."""
    return port.host_ip or ANY_ADDRESS


def taken_workers(taken: PortBits, port: HostPort) -> Bits:
    """Workers where the port collides: the same protocol, port and address, or either address is 0.0.0.0."""
    by_address = taken.get(port_key(port))
    if not by_address:
        return 0
    ip = address(port)
    if ip == ANY_ADDRESS:
        found = 0
        for workers in by_address.values():
            found |= workers
        return found
    return by_address.get(ip, 0) | by_address.get(ANY_ADDRESS, 0)


class HostPortTable:
    """Host ports taken per worker. Counted, because pods that bypassed the checks may use the same port twice."""

    def __init__(self) -> None:
        self.taken: PortBits = {}
        self._counts: dict[tuple[str, int, str, int], int] = {}

    def take(self, port: HostPort, worker: int) -> None:
        """Count a pod on the worker that uses the port."""
        counted = (*port_key(port), address(port), worker)
        self._counts[counted] = self._counts.get(counted, 0) + 1
        by_address = self.taken.setdefault(port_key(port), {})
        by_address[address(port)] = by_address.get(address(port), 0) | 1 << worker

    def free(self, port: HostPort, worker: int) -> None:
        """The inverse of `take`."""
        counted = (*port_key(port), address(port), worker)
        left = self._counts[counted] - 1
        if left:
            self._counts[counted] = left
            return
        del self._counts[counted]
        by_address = self.taken[port_key(port)]
        workers = minus(by_address[address(port)], 1 << worker)
        if workers:
            by_address[address(port)] = workers
        else:
            del by_address[address(port)]
            if not by_address:
                del self.taken[port_key(port)]
