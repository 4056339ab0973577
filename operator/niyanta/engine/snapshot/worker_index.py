"""Inverted index over the properties of workers: value of a property -> set of workers that have it.

`Snapshot` updates it incrementally. `feasibility` and `scoring` evaluate matchers on it by a few ands and ors, so a new
requirement costs no pass over the workers.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import TypeVar

from niyanta.engine.snapshot.bitset import Bits, minus
from niyanta.engine.types import (
    HOSTNAME_TOPOLOGY,
    ChargedNode,
    Expression,
    Labels,
    Op,
    Taint,
    Toleration,
    WorkerInfo,
)

K = TypeVar("K", bound=Hashable)

_INTEGER = re.compile(r"[+-]?[0-9]{1,63}", re.ASCII)
"""As long as a label's value can be: Python refuses to read numbers of more than 4,300 digits."""
_MAX_CUSTOMERS_CACHED = 4096


def integer(text: str) -> int | None:
    """The integer value of a label (as Kubernetes parses it for Gt and Lt), or None."""
    return int(text) if _INTEGER.fullmatch(text) else None


def compares(op: Op, have: str, bound: str) -> bool:
    """True when label value `have` is greater (Gt) or less (Lt) than `bound`; False unless both are integers."""
    left, right = integer(have), integer(bound)
    if left is None or right is None:
        return False
    return left > right if op is Op.GT else left < right


def _set(table: dict[K, Bits], key: K, bit: Bits) -> None:
    table[key] = table.get(key, 0) | bit


def _clear(table: dict[K, Bits], key: K, bit: Bits) -> None:
    left = minus(table.get(key, 0), bit)
    if left:
        table[key] = left
    else:
        table.pop(key, None)


class LabelIndex:
    """Workers by key and value of one kind of labels."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, Bits]] = {}
        self.present: dict[str, Bits] = {}
        self._compared: dict[tuple[str, bool, str], Bits] = {}

    def add(self, labels: Labels, bit: Bits) -> None:
        """Add one worker."""
        self._compared.clear()
        for key, value in labels:
            _set(self.values.setdefault(key, {}), value, bit)
            _set(self.present, key, bit)

    def remove(self, labels: Labels, bit: Bits) -> None:
        """Remove one worker; `labels` are those it was added with."""
        self._compared.clear()
        for key, value in labels:
            table = self.values[key]
            _clear(table, value, bit)
            if not table:
                del self.values[key]
            _clear(self.present, key, bit)

    def matching(self, expression: Expression, alive: Bits) -> Bits:
        """Workers that satisfy the expression. As in Kubernetes NotIn also matches workers without the key."""
        op, key = expression.op, expression.key
        if op is Op.IN or op is Op.NOT_IN:
            found = 0
            table = self.values.get(key)
            if table is not None:
                for value in expression.values:
                    found |= table.get(value, 0)
            return found if op is Op.IN else minus(alive, found)
        if op is Op.EXISTS:
            return self.present.get(key, 0)
        if op is Op.DOES_NOT_EXIST:
            return minus(alive, self.present.get(key, 0))
        return self._comparing(expression)

    def _comparing(self, expression: Expression) -> Bits:
        if len(expression.values) != 1:
            return 0
        bound = expression.values[0]
        memo = (expression.key, expression.op is Op.GT, bound)
        found = self._compared.get(memo)
        if found is None:
            found = 0
            for value, workers in self.values.get(expression.key, {}).items():
                if compares(expression.op, value, bound):
                    found |= workers
            self._compared[memo] = found
        return found


class WorkerIndex:
    """All static properties of the workers. `version` grows with every change."""

    def __init__(self) -> None:
        self.version = 0
        self.infos: dict[int, WorkerInfo] = {}
        self.by_name: dict[str, int] = {}
        self.alive: Bits = 0
        self.not_ready: Bits = 0
        self.cordoned: Bits = 0
        self.gpu: Bits = 0
        self.pools: dict[str, Bits] = {}
        self.regions: dict[str, Bits] = {}
        self.zones: dict[str, Bits] = {}
        self.capabilities: dict[str, Bits] = {}
        self.compliance: dict[str, Bits] = {}
        self.gpu_models: dict[str, Bits] = {}
        """By model in lower case."""
        self.gpu_memory: dict[int, Bits] = {}
        """By bytes of one device."""
        self.gpu_resources: dict[str, Bits] = {}
        self.taints: dict[Taint, Bits] = {}
        self.usable: dict[tuple[Toleration, ...], Bits] = {}
        """Cache of `feasibility`: workers that are ready, not cordoned and without other taints. Cleared on change."""
        self.labels = LabelIndex()
        """Of workers and charged nodes: what it answers is always intersected with a set of workers."""
        self.tags = LabelIndex()
        self.charged_nodes: dict[int, ChargedNode] = {}
        """Nodes that are no workers; they share the numbers of workers, but not `alive`, `infos` and `by_name`."""
        self.charged_by_name: dict[str, int] = {}
        self._restricted: dict[frozenset[str], Bits] = {}
        """Set of customers -> workers that only these customers may use."""
        self._rejected: dict[str, Bits] = {}
        """Customer -> workers that get none of its work for a while."""
        self.rejecting: Bits = 0
        """All workers that get no work of some customer for a while."""
        self._closed: dict[str, Bits] = {}
        """Cache of `closed_to`."""
        self._domains: dict[str, dict[int, str]] = {}

    def add(self, worker: int, info: WorkerInfo) -> None:
        """Add a worker under a number that is not in use."""
        bit = 1 << worker
        self._changed()
        self.infos[worker] = info
        self.by_name[info.name] = worker
        self.alive |= bit
        self.not_ready |= 0 if info.ready else bit
        self.cordoned |= bit if info.cordoned else 0
        self.gpu |= bit if info.gpu is not None else 0
        for table, key in self._entries(info):
            _set(table, key, bit)
        self.labels.add(info.labels, bit)
        self.tags.add(info.tags, bit)
        if info.customers is not None:
            _set(self._restricted, info.customers, bit)
        for customer in info.rejected_customers:
            _set(self._rejected, customer, bit)
            self.rejecting |= bit
        self._add_domains(worker, info.labels)

    def remove(self, worker: int) -> None:
        """Remove the worker with this number."""
        bit = 1 << worker
        self._changed()
        info = self.infos.pop(worker)
        del self.by_name[info.name]
        self.alive = minus(self.alive, bit)
        self.not_ready = minus(self.not_ready, bit)
        self.cordoned = minus(self.cordoned, bit)
        self.gpu = minus(self.gpu, bit)
        for table, key in self._entries(info):
            _clear(table, key, bit)
        self.labels.remove(info.labels, bit)
        self.tags.remove(info.tags, bit)
        if info.customers is not None:
            _clear(self._restricted, info.customers, bit)
        for customer in info.rejected_customers:
            _clear(self._rejected, customer, bit)
        self.rejecting = minus(self.rejecting, bit)
        self._remove_domains(worker)

    def add_charged_node(self, number: int, node: ChargedNode) -> None:
        """Add a node that is no worker, under a number that is not in use."""
        self._changed()
        self.charged_nodes[number] = node
        self.charged_by_name[node.name] = number
        self.labels.add(node.labels, 1 << number)
        self._add_domains(number, node.labels)

    def remove_charged_node(self, number: int) -> None:
        """Remove the charged node with this number."""
        self._changed()
        node = self.charged_nodes.pop(number)
        del self.charged_by_name[node.name]
        self.labels.remove(node.labels, 1 << number)
        self._remove_domains(number)

    def number_of(self, name: str) -> int | None:
        """Number of the worker or charged node with this name."""
        worker = self.by_name.get(name)
        return self.charged_by_name.get(name) if worker is None else worker

    def _changed(self) -> None:
        self.version += 1
        self.usable.clear()
        self._closed.clear()

    def _add_domains(self, number: int, node_labels: Labels) -> None:
        labels = dict(node_labels)
        for topology, domains in self._domains.items():
            if topology in labels:
                domains[number] = labels[topology]

    def _remove_domains(self, number: int) -> None:
        for domains in self._domains.values():
            domains.pop(number, None)

    # --- customers ---

    @property
    def is_restricted(self) -> bool:
        """True when some worker is closed to some customers."""
        return bool(self._restricted or self._rejected)

    def closed_to(self, customer: str) -> Bits:
        """Workers of pools that list customers without this one, and workers that rejected its pods lately."""
        if not self.is_restricted:
            return 0
        closed = self._closed.get(customer)
        if closed is None:
            closed = self._rejected.get(customer, 0)
            for customers, workers in self._restricted.items():
                if customer not in customers:
                    closed |= workers
            if len(self._closed) >= _MAX_CUSTOMERS_CACHED:
                self._closed.clear()
            self._closed[customer] = closed
        return closed

    def _entries(self, info: WorkerInfo) -> list[tuple[dict[Hashable, Bits], Hashable]]:
        entries: list[tuple[Mapping[str, Bits] | Mapping[int, Bits] | Mapping[Taint, Bits], Hashable]] = [
            (self.pools, info.pool),
            (self.regions, info.region),
            (self.zones, info.zone),
        ]
        entries += [(self.capabilities, capability) for capability in info.capabilities]
        entries += [(self.compliance, regime) for regime in info.compliance]
        entries += [(self.taints, taint) for taint in set(info.taints)]
        if info.gpu is not None:
            entries.append((self.gpu_models, info.gpu.model.lower()))
            entries.append((self.gpu_memory, info.gpu.memory))
            entries.append((self.gpu_resources, info.gpu.resource))
        return entries  # type: ignore[return-value]  # one loop over tables of several key types

    # --- topology ---

    def domain(self, topology: str, worker: int) -> int | str | None:
        """The worker's domain: its number for the hostname topology, else the label's value; None: no domain."""
        if topology == HOSTNAME_TOPOLOGY:
            return worker
        domains = self._domains.get(topology)
        if domains is None:
            domains = self._domains[topology] = {
                number: labels[topology]
                for nodes in (self.infos, self.charged_nodes)
                for number, node in nodes.items()
                if topology in (labels := dict(node.labels))
            }
        return domains.get(worker)

    def members(self, topology: str, domain: int | str) -> Bits:
        """Workers of a domain that `domain` returned."""
        if isinstance(domain, int):
            return 1 << domain
        return self.labels.values.get(topology, {}).get(domain, 0)

    def neighbours(self, topology: str, worker: int) -> Bits:
        """Workers that share the worker's domain, including itself; 0 without a domain."""
        if topology == HOSTNAME_TOPOLOGY:
            return 1 << worker
        domain = self.domain(topology, worker)
        return 0 if domain is None else self.members(topology, domain)

    def with_domain(self, topology: str) -> Bits:
        """Workers that belong to any domain of the topology."""
        return self.alive if topology == HOSTNAME_TOPOLOGY else self.labels.present.get(topology, 0)
