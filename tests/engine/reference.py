"""A slow, obvious scheduler over plain objects, with which the vectorised engine has to agree.

It shares only the value types (`engine.types`) with the engine, and evaluates every check on every worker, one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from niyanta.engine.types import (
    Charge,
    ChargedNode,
    HostPort,
    PeerTerm,
    PendingWorkload,
    Placement,
    Plan,
    Reason,
    Rejection,
    Strategy,
    Subject,
    Taint,
    WorkerInfo,
)
from tests.engine.reference_matching import collide, described, matcher, matches, means, node_term, tolerated

Refusal = tuple[Reason, str]
REASONS = list(Reason)
SHARE = 1 << 20


@dataclass
class Pod:
    worker: str
    requests: dict[str, int]
    gpu_count: int
    ports: tuple[HostPort, ...]
    subject: Subject | None
    anti: tuple[PeerTerm, ...]
    workload: str | None = None  # placed in this cycle


@dataclass
class Cluster:
    workers: list[WorkerInfo]
    charges: list[Charge]
    keep_gpu_workers_free: bool = True
    charged_nodes: tuple[ChargedNode, ...] = ()
    pods: list[Pod] = field(default_factory=list)
    tied: int = 0
    """Groups that were placed whole in one domain."""

    def __post_init__(self) -> None:
        self.by_name = {w.name: w for w in self.workers}
        self.places: dict[str, WorkerInfo | ChargedNode] = {node.name: node for node in self.charged_nodes}
        self.places |= self.by_name
        self.pods = [
            Pod(c.worker, dict(c.requests), c.gpu_count, c.host_ports, c.subject, c.anti)
            for c in self.charges
            if c.worker in self.places
        ]

    # --- usage ---

    def on(self, worker: WorkerInfo) -> list[Pod]:
        return [p for p in self.pods if p.worker == worker.name]

    def used(self, worker: WorkerInfo, resource: str) -> int:
        own = worker.gpu.resource if worker.gpu else None
        return sum(p.requests.get(resource, 0) + (p.gpu_count if resource == own else 0) for p in self.on(worker))

    def free(self, worker: WorkerInfo, resource: str) -> int:
        return dict(worker.allocatable).get(resource, 0) - self.used(worker, resource)

    def devices(self, worker: WorkerInfo) -> int:
        assert worker.gpu
        return worker.gpu.count or dict(worker.allocatable).get(worker.gpu.resource, 0)

    def idle(self, worker: WorkerInfo) -> int:
        """Whole idle devices: each pod on the worker has as many devices as it requests, as long as there are any."""
        if worker.gpu is None:
            return 0
        return max(self.devices(worker) - self.used(worker, worker.gpu.resource), 0)

    def domain(self, worker: WorkerInfo | ChargedNode, topology: str) -> str | None:
        if topology == "kubernetes.io/hostname":
            return "worker " + worker.name
        return dict(worker.labels).get(topology)

    def gpu_names(self) -> set[str]:
        return {w.gpu.resource for w in self.workers if w.gpu}

    def needs_gpu(self, w: PendingWorkload) -> bool:
        r = w.requirements
        named = any(n in self.gpu_names() or n.endswith("/gpu") for n, _ in r.requests)
        return bool(r.wants_gpu or r.gpu_count or r.hard.gpu_models or r.hard.gpu_min_memory or named)

    # --- hard ---

    def may_use(self, w: PendingWorkload, node: WorkerInfo) -> bool:
        return node.customers is None or w.subject.customer in node.customers

    def refusals(self, w: PendingWorkload, node: WorkerInfo) -> Iterator[Refusal]:
        """All checks that refuse the worker, in order; lazily, because most callers want to know the first."""
        r, tags, labels = w.requirements, dict(node.tags), dict(node.labels)
        if not self.may_use(w, node):
            yield Reason.POOL_NOT_FOR_CUSTOMER, ""
        if not node.ready:
            yield Reason.NOT_READY, ""
        unschedulable = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")
        if node.cordoned and not tolerated(unschedulable, r.tolerations):
            yield Reason.CORDONED, ""
        if node.name in w.excluded:
            yield Reason.EXCLUDED, ""
        for key in sorted({t.key for t in node.taints if not tolerated(t, r.tolerations)}):
            yield Reason.TAINT, key
        h = r.hard
        if h.node_names and node.name not in h.node_names:
            yield Reason.NODE_NAME, ""
        if h.pools and node.pool not in h.pools:
            yield Reason.POOL, ""
        if h.regions and node.region not in h.regions:
            yield Reason.REGION, ""
        if h.zones and node.zone not in h.zones:
            yield Reason.ZONE, ""
        if not (set(h.compliance) <= node.compliance):
            yield Reason.COMPLIANCE, ""
        if not (set(h.capabilities) <= node.capabilities):
            yield Reason.CAPABILITY, ""
        model = node.gpu is not None and (
            not h.gpu_models or node.gpu.model.lower() in [m.lower() for m in h.gpu_models]
        )
        if self.needs_gpu(w) and not model:
            yield Reason.GPU_MODEL, ""
        if h.gpu_min_memory and not (node.gpu and node.gpu.memory >= h.gpu_min_memory):
            yield Reason.GPU_MEMORY, ""
        if not all(matches(tags, e) for e in h.tags):
            yield Reason.TAG, ""
        terms = not r.node_terms or any(node_term(t, node) for t in r.node_terms)
        if not (all(labels.get(k) == v for k, v in r.node_selector) and terms):
            yield Reason.NODE_AFFINITY, ""
        if r.topology and r.topology.required and self.domain(node, r.topology.key) is None:
            yield Reason.TOPOLOGY, r.topology.key
        has = dict(node.allocatable)
        for name, amount in r.requests:
            if has.get(name, 0) < amount:
                yield Reason.TOO_SMALL, name
        own = node.gpu.resource if node.gpu else ""
        want = r.gpu_count + dict(r.requests).get(own, 0)
        if node.gpu and want > min(self.devices(node), has.get(own, 0)):
            yield Reason.TOO_SMALL, own
        for name, amount in r.requests:
            small = has.get(name, 0) < amount or (name == own and want > min(self.devices(node), has.get(own, 0)))
            if self.free(node, name) < amount and not small:
                yield Reason.RESOURCE, name
        whole = min(self.devices(node), has.get(own, 0)) if node.gpu else 0
        if want and min(self.idle(node), self.free(node, own)) < want <= whole:
            yield Reason.RESOURCE, own
        slots_used = sum(1 for p in self.on(node) if p.subject is not None)
        if node.slots is not None and slots_used >= node.slots:
            yield Reason.SLOTS, ""
        if any(collide(a, b) for p in self.on(node) for a in p.ports for b in r.host_ports):
            yield Reason.HOST_PORT, ""
        for topology in self.conflicts(w, node):
            yield Reason.ANTI, topology

    def conflicts(self, w: PendingWorkload, node: WorkerInfo) -> list[str]:
        own = [t.topology for t in w.requirements.anti if self.peers(t, w.subject, node, self.domain(node, t.topology))]
        theirs = []
        for p in self.pods:
            for t in p.anti:
                there, here = self.domain(self.places[p.worker], t.topology), self.domain(node, t.topology)
                if here is not None and here == there and means(t, p.subject, w.subject):
                    theirs.append(t.topology)
        # topologies of the workload's own terms come in the order of these terms
        named = list(dict.fromkeys(t.topology for t in w.requirements.anti))
        both = set(own) | set(theirs)
        return [t for t in named if t in both] + sorted(t for t in both if t not in named)

    def peers(self, t: PeerTerm, carrier: Subject, node: WorkerInfo | None, domain: str | None) -> list[Pod]:
        found = []
        for p in self.pods:
            there = self.domain(self.places[p.worker], t.topology)
            if p.subject is None or there is None or not means(t, carrier, p.subject):
                continue
            if node is None or there == domain:
                found.append(p)
        return found

    def near_ok(self, t: PeerTerm, w: PendingWorkload, node: WorkerInfo, starts: bool) -> bool:
        domain = self.domain(node, t.topology)
        if domain is None:
            return False
        if not starts:  # others only
            return any(p.workload != w.id for p in self.peers(t, w.subject, node, domain))
        return bool(self.peers(t, w.subject, node, domain)) or not self.peers(t, w.subject, None, None)

    # --- scores ---

    def soft(self, w: PendingWorkload, node: WorkerInfo) -> tuple[int, float]:
        total = sum(s.weight for s in w.requirements.soft)
        got = 0
        for s in w.requirements.soft:
            hit = matcher(s.matcher, node) if s.matcher is not None else s.node is not None and node_term(s.node, node)
            got += s.weight if hit else 0
        return got, 100 * got / total if total else 50.0

    def strategy(self, w: PendingWorkload, node: WorkerInfo) -> int:
        has, want = dict(node.allocatable), dict(w.requirements.requests)
        shares = [
            (1, self.free(node, "cpu"), want.get("cpu", 0), has.get("cpu", 0)),
            (1, self.free(node, "memory") >> 10, want.get("memory", 0) >> 10, has.get("memory", 0) >> 10),
        ]
        if node.gpu:
            own = node.gpu.resource
            free = min(self.idle(node), self.free(node, own))
            shares.append((2, free, w.requirements.gpu_count + want.get(own, 0), -self.devices(node)))
        weights, left = sum(s[0] for s in shares), 0
        for weight, free, request, capacity in shares:
            unit, capacity = SHARE * weight // weights, six_bits(capacity) if capacity >= 0 else -capacity
            left += unit * max(free, 0) // max(capacity, 1) - unit * request // max(capacity, 1)
        return left if node.strategy is Strategy.SPREAD else SHARE - left

    # --- the cycle ---

    def decide(self, pending: list[PendingWorkload]) -> Plan:
        placements, rejections = [], []
        memory: dict[object, list[tuple[int, tuple[tuple[Reason, str, int], ...]]]] = {}
        for w in pending:
            # A rejection is remembered for the class until the end of the cycle.
            lasting = not w.requirements.near and not w.excluded
            known = (memory.get(self.kind(w)) or memory.get(self.memo(w))) if lasting else None
            if known and w.replicas >= known[-1][0]:
                rejections.append(Rejection(w.id, w.version, len(self.workers), known[-1][1]))
                continue
            placed = self.place(w)
            if isinstance(placed, Placement):
                placements.append(placed)
            else:
                if lasting:
                    reasons = {c[0] for c in placed.counts}
                    memo = self.memo(w) if reasons & {Reason.GROUP, Reason.ANTI} else self.kind(w)
                    group = Reason.GROUP in reasons
                    memory.setdefault(memo, []).append((w.replicas if group else 1, placed.counts))
                rejections.append(placed)
        return Plan(tuple(placements), tuple(rejections))

    def kind(self, w: PendingWorkload) -> object:
        return w.requirements, frozenset(n.name for n in self.workers if not self.may_use(w, n))

    def memo(self, w: PendingWorkload) -> object:
        touched = bool(w.requirements.anti) or any(
            means(t, p.subject, w.subject) and self.domain(self.places[p.worker], t.topology) is not None
            for p in self.pods
            for t in p.anti
        )
        return (self.kind(w), w.subject) if touched else (self.kind(w), "no peers")

    def place(self, w: PendingWorkload) -> Placement | Rejection:
        chosen: list[tuple[WorkerInfo, float]] = []
        starts = self.starting(w)
        tried = ""
        for topologies in self.choices(w, starts):
            if topologies:
                chosen, tried = self.fill_a_domain(w, starts, topologies)
            else:
                tried = ""
                self.fill(w, starts, self.workers, chosen)
            if len(chosen) == w.replicas:
                break
        if len(chosen) < w.replicas:
            del self.pods[len(self.pods) - len(chosen) :]
            return Rejection(w.id, w.version, len(self.workers), self.census(w, starts, tried))
        names = tuple(n.name for n, _ in chosen)
        score = sum(s for _, s in chosen) / len(chosen)
        pools = tuple(n.pool for n, _ in chosen)
        return Placement(w.id, w.version, w.attempt, names, score, pools, self.depends_on(w, chosen))

    def fill(
        self,
        w: PendingWorkload,
        starts: dict[int, bool],
        among: list[WorkerInfo],
        chosen: list[tuple[WorkerInfo, float]],
    ) -> None:
        for _ in range(w.replicas):
            able = [n for n in among if self.fits(w, n, starts)]
            if not able:
                break
            best = min(able, key=lambda n: self.preference(w, n))
            chosen.append((best, self.soft(w, best)[1]))
            self.put(w, best.name)

    def choices(self, w: PendingWorkload, starts: dict[int, bool]) -> list[list[str]]:
        """Topologies that tie all replicas to one domain of each; a wish comes first, and then what is required."""
        wanted = w.requirements.topology
        if w.replicas == 1:
            return [[]]
        tied = list(dict.fromkeys(t.topology for i, t in enumerate(w.requirements.near) if starts[i]))
        both = [*tied, *([wanted.key] if wanted and wanted.key not in tied else [])]
        if wanted is None or wanted.required:
            return [both]
        return [both, tied]

    def fill_a_domain(
        self, w: PendingWorkload, starts: dict[int, bool], topologies: list[str]
    ) -> tuple[list[tuple[WorkerInfo, float]], str]:
        """The whole group in one domain: by preference, then the domain with the least room, strategy and name."""
        domains: dict[tuple[str, ...], list[WorkerInfo]] = {}
        for n in self.workers:
            where = [self.domain(n, t) for t in topologies]
            if None not in where and self.fits(w, n, starts):
                domains.setdefault(tuple(str(d).removeprefix("worker ") for d in where), []).append(n)
        room = {names: self.bound(w, nodes) for names, nodes in domains.items()}

        def order(names: tuple[str, ...]) -> tuple[tuple[bool, int], int, tuple[bool, int, int, str]]:
            ranks = {n.name: self.preference(w, n) for n in domains[names]}
            for level in sorted({rank[:2] for rank in ranks.values()}):
                if self.bound(w, [n for n in domains[names] if ranks[n.name][:2] <= level]) >= w.replicas:
                    return level, room[names], min(ranks.values())
            raise AssertionError("the domain holds the group")

        for names in sorted((d for d in domains if room[d] >= w.replicas), key=order):
            chosen: list[tuple[WorkerInfo, float]] = []
            self.fill(w, starts, domains[names], chosen)
            if len(chosen) == w.replicas:
                self.tied += 1
                return chosen, ""
            del self.pods[len(self.pods) - len(chosen) :]
            room[names] = len(chosen)
        return [], described(topologies, room)

    def bound(self, w: PendingWorkload, nodes: list[WorkerInfo]) -> int:
        """Most pods of the group on these workers: its own anti terms that it matches allow one in each domain."""
        own = [t.topology for t in w.requirements.anti if means(t, w.subject, w.subject)]
        rooms = {n.name: self.room(w, n) for n in nodes}
        for n in nodes:
            if any(self.domain(n, t) is not None for t in own):
                rooms[n.name] = min(rooms[n.name], 1)
        most = sum(rooms.values())
        for t in own:
            apart = {self.domain(n, t) for n in nodes} - {None}
            most = min(most, len(apart) + sum(rooms[n.name] for n in nodes if self.domain(n, t) is None))
        return most

    def room(self, w: PendingWorkload, n: WorkerInfo) -> int:
        """Most pods that fit by free capacity alone."""
        r, room = w.requirements, [1 << 60]
        room += [self.free(n, name) // amount for name, amount in r.requests if amount]
        if n.gpu:
            want = r.gpu_count + dict(r.requests).get(n.gpu.resource, 0)
            room += [min(self.idle(n), self.free(n, n.gpu.resource)) // want] if want else []
        if n.slots is not None:
            room.append(n.slots - sum(1 for p in self.on(n) if p.subject is not None))
        return max(min(room + ([1] if r.host_ports else [])), 0)

    def put(self, w: PendingWorkload, worker: str) -> None:
        r = w.requirements
        self.pods.append(Pod(worker, dict(r.requests), r.gpu_count, r.host_ports, w.subject, r.anti, w.id))

    def starting(self, w: PendingWorkload) -> dict[int, bool]:
        return {
            i: means(t, w.subject, w.subject) and not self.peers(t, w.subject, None, None)
            for i, t in enumerate(w.requirements.near)
        }

    def all_refusals(self, w: PendingWorkload, n: WorkerInfo, starts: dict[int, bool]) -> Iterator[Refusal]:
        yield from self.refusals(w, n)
        if not all(self.near_ok(t, w, n, starts[i]) for i, t in enumerate(w.requirements.near)):
            yield Reason.NEAR, ""

    def fits(self, w: PendingWorkload, n: WorkerInfo, starts: dict[int, bool]) -> bool:
        return next(self.all_refusals(w, n, starts), None) is None

    def preference(self, w: PendingWorkload, n: WorkerInfo) -> tuple[bool, int, int, str]:
        avoid = self.keep_gpu_workers_free and not self.needs_gpu(w) and n.gpu is not None
        return avoid, -self.soft(w, n)[0], -self.strategy(w, n), n.name

    def census(self, w: PendingWorkload, starts: dict[int, bool], tried: str) -> tuple[tuple[Reason, str, int], ...]:
        counts: dict[tuple[Reason, str], int] = {}
        for n in self.workers:
            first = next(self.all_refusals(w, n, starts), (Reason.GROUP, tried))
            counts[first] = counts.get(first, 0) + 1
        ordered = sorted(counts.items(), key=lambda c: (-c[1], REASONS.index(c[0][0]), c[0][1]))
        return tuple((reason, detail, count) for (reason, detail), count in ordered)

    def depends_on(self, w: PendingWorkload, chosen: list[tuple[WorkerInfo, float]]) -> tuple[str, ...]:
        found: list[str] = []
        for t in w.requirements.near:
            for n, _ in chosen:
                near = self.peers(t, w.subject, n, self.domain(n, t.topology))
                first = near[0].workload
                if all(p.workload is not None for p in near) and first not in (None, w.id) and first not in found:
                    found.append(str(first))
        return tuple(found)


def six_bits(capacity: int) -> int:
    step = 1
    while -(-capacity // step) >= 64:
        step *= 2
    return -(-capacity // step) * step
