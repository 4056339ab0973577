"""Random clusters and workloads from small vocabularies, so that most workloads fit on some workers and not on others.

`World` is made from a `random.Random`: seeded by the reference tests, drawn by hypothesis in the property tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.types import (
    HOSTNAME_TOPOLOGY,
    ZONE_TOPOLOGY,
    Charge,
    ChargedNode,
    Expression,
    Gpu,
    HostPort,
    Labels,
    Matcher,
    NodeTerm,
    Op,
    PeerTerm,
    PendingWorkload,
    Quantities,
    Requirements,
    Scope,
    Selector,
    SoftTerm,
    Strategy,
    Subject,
    Taint,
    Toleration,
    Topology,
    WorkerInfo,
)

GIB = 1 << 30
RACK = "example.com/rack"
ZONES = ("eu-west-1a", "eu-west-1b", "us-east-1a")
CAPABILITIES = ("video", "training", "etl")
REGIMES = ("hipaa", "soc2")
POOLS = ("general", "gpu-a", "gpu-b")
TAINTS = (Taint("gpu", "only", "NoSchedule"), Taint("spot", "", "NoExecute"), Taint("team", "red", "NoSchedule"))
CUSTOMER_LISTS = (frozenset({"acme"}), frozenset({"bolt"}), frozenset({"acme", "bolt"}), frozenset({"other"}))
NVIDIA, AMD = "nvidia.com/gpu", "amd.com/gpu"


@dataclass(frozen=True)
class World:
    workers: tuple[WorkerInfo, ...]
    charges: tuple[Charge, ...]
    pending: tuple[PendingWorkload, ...]
    charged_nodes: tuple[ChargedNode, ...] = ()

    def snapshot(self) -> Snapshot:
        return snapshot_of(self.workers, self.charges, self.charged_nodes)


def snapshot_of(
    workers: tuple[WorkerInfo, ...], charges: tuple[Charge, ...], charged_nodes: tuple[ChargedNode, ...] = ()
) -> Snapshot:
    snapshot = Snapshot()
    for node in charged_nodes:
        snapshot.upsert_charged_node(node)
    for worker in workers:
        snapshot.upsert_worker(worker)
    for charge in charges:
        snapshot.charge(charge)
    return snapshot


def chance(rng: Random, percent: int) -> bool:
    return rng.randrange(100) < percent


def some(rng: Random, values: tuple[str, ...], percent: int) -> tuple[str, ...]:
    return tuple(v for v in values if chance(rng, percent))


def quantities(**amounts: int) -> Quantities:
    names = {"nvidia": NVIDIA, "amd": AMD, "disk": "example.com/disk"}
    return tuple(sorted((names.get(k, k), v) for k, v in amounts.items() if v))


def worker(rng: Random, number: int) -> WorkerInfo:
    name = f"w{number:02}"
    labels = {"arch": rng.choice(("amd64", "arm64")), "generation": rng.choice(("3", "5", "7", "old"))}
    zone = rng.choice(ZONES)
    if chance(rng, 85):
        labels[ZONE_TOPOLOGY] = zone
    if chance(rng, 70):
        labels[RACK] = rng.choice(("r1", "r2", "r3"))
    if chance(rng, 50):
        labels[HOSTNAME_TOPOLOGY] = name
    pool = rng.choice(POOLS)
    tags = labels | ({"tier": rng.choice(("gold", "silver"))} if chance(rng, 60) else {})
    gpu = None
    allocatable = {
        "cpu": rng.choice((4000, 8000, 16000, 15890)),
        "memory": rng.choice((16, 32, 64)) * GIB - rng.choice((0, 0, 4096 * rng.randrange(5000))),
        "pods": rng.choice((3, 8, 20)),
        "disk": rng.choice((0, 2, 5)),
    }
    if chance(rng, 45):
        kind = rng.choice((NVIDIA, NVIDIA, AMD))
        count = rng.choice((1, 2, 4, 8))
        model, size = rng.choice((("A100", 40), ("H100", 80), ("a100", 80), ("T4", 0)))
        gpu = Gpu(model, count if chance(rng, 85) else rng.choice((0, count + 1, max(count - 1, 1))), size * GIB, kind)
        allocatable["nvidia" if kind == NVIDIA else "amd"] = count
        if chance(rng, 10):
            allocatable["amd"] = allocatable["nvidia"] = count
    elif chance(rng, 5):
        allocatable["nvidia"] = 1
    return WorkerInfo(
        name=name,
        pool=pool,
        labels=sorted_labels(labels),
        tags=sorted_labels(tags),
        allocatable=quantities(**allocatable),
        capabilities=frozenset(some(rng, CAPABILITIES, 70)),
        compliance=frozenset(some(rng, REGIMES, 60)),
        region=zone[:-3],
        zone=zone,
        gpu=gpu,
        taints=tuple(t for t in TAINTS if chance(rng, 8)),
        slots=rng.choice((None, None, 2, 4, 10)),
        ready=not chance(rng, 5),
        cordoned=chance(rng, 5),
        strategy=Strategy.SPREAD if pool == "gpu-b" else Strategy.PACK,
        customers=rng.choice(CUSTOMER_LISTS) if chance(rng, 20) else None,
    )


def sorted_labels(labels: dict[str, str]) -> Labels:
    return tuple(sorted(labels.items()))


def subject(rng: Random) -> Subject:
    labels = {"app": rng.choice(("web", "db", "job"))}
    if chance(rng, 40):
        labels["rank"] = rng.choice(("1", "2", "10"))
    return Subject(
        namespace=rng.choice(("ns1", "ns2")),
        customer=rng.choice(("acme", "bolt")),
        type=rng.choice(("", "video", "training")),
        labels=sorted_labels(labels),
    )


def selector(rng: Random) -> Selector:
    expressions = (
        Expression("app", Op.IN, rng.choice((("web",), ("db", "job"), ()))),
        Expression("app", Op.NOT_IN, ("db",)),
        Expression("rank", Op.EXISTS),
        Expression("rank", Op.DOES_NOT_EXIST),
        Expression("rank", Op.GT, ("1",)),
        Expression("rank", Op.LT, ("10",)),
    )
    return Selector(
        types=rng.choice(((), (), ("video",), ("training", ""))),
        customers=rng.choice(((), (), ("acme",))),
        labels=tuple(rng.sample(expressions, rng.choice((0, 1, 1, 2)))),
    )


def peer_term(rng: Random) -> PeerTerm:
    return PeerTerm(selector(rng), rng.choice((HOSTNAME_TOPOLOGY, HOSTNAME_TOPOLOGY, ZONE_TOPOLOGY, RACK)),
                    rng.choice(tuple(Scope)))  # fmt: skip


def expression(rng: Random) -> Expression:
    return rng.choice(
        (
            Expression("arch", Op.IN, ("amd64",)),
            Expression("arch", Op.NOT_IN, ("arm64",)),
            Expression("tier", Op.NOT_IN, ("gold",)),
            Expression("tier", Op.EXISTS),
            Expression("tier", Op.DOES_NOT_EXIST),
            Expression("generation", Op.GT, ("3",)),
            Expression("generation", Op.LT, ("7",)),
            Expression("generation", Op.LT, ("old",)),
        )
    )


def matcher(rng: Random, percent: int) -> Matcher:
    """A matcher in which each part is set with a probability of about `percent`."""
    return Matcher(
        node_names=tuple(f"w{rng.randrange(14):02}" for _ in range(4)) if chance(rng, percent // 3) else (),
        pools=some(rng, POOLS, 60) if chance(rng, percent // 2) else (),
        regions=some(rng, ("eu-west", "us-east"), 60) if chance(rng, percent) else (),
        zones=some(rng, ZONES, 60) if chance(rng, percent // 2) else (),
        compliance=some(rng, REGIMES, 50) if chance(rng, percent) else (),
        capabilities=some(rng, CAPABILITIES, 40) if chance(rng, percent) else (),
        gpu_models=rng.choice((("A100",), ("h100", "A100"), ("T4",))) if chance(rng, percent // 2) else (),
        gpu_min_memory=rng.choice((40, 60)) * GIB if chance(rng, percent // 3) else 0,
        tags=tuple(expression(rng) for _ in range(rng.choice((1, 2)))) if chance(rng, percent) else (),
    )


def node_term(rng: Random) -> NodeTerm:
    fields = Expression("metadata.name", rng.choice((Op.IN, Op.NOT_IN)), ("w01", "w03", "w04"))
    other = Expression("metadata.namespace", Op.IN, ("x",))
    return rng.choice(
        (
            NodeTerm(),
            NodeTerm((expression(rng),)),
            NodeTerm((expression(rng), expression(rng))),
            NodeTerm((), (fields,)),
            NodeTerm((expression(rng),), (fields,)),
            NodeTerm((), (other,)),
        )
    )


def toleration(rng: Random) -> Toleration:
    return rng.choice(
        (
            Toleration(exists=True),
            Toleration("gpu", exists=True),
            Toleration("gpu", value="only", effect="NoSchedule"),
            Toleration("gpu", value="none"),
            Toleration("spot", exists=True, effect="NoExecute"),
            Toleration("team", value="red"),
            Toleration("node.kubernetes.io/unschedulable", exists=True),
        )
    )


def host_port(rng: Random) -> HostPort:
    address = rng.choice(("0.0.0.0", "10.0.0.1", "10.0.0.2"))
    return HostPort(rng.choice((80, 443)), rng.choice(("TCP", "TCP", "UDP")), address)


def soft_term(rng: Random) -> SoftTerm:
    if chance(rng, 30):
        return SoftTerm(rng.randint(1, 100), node=node_term(rng))
    return SoftTerm(rng.choice((10, 50, 100, rng.randint(1, 100))), matcher=matcher(rng, 30))


def topology(rng: Random) -> Topology:
    return Topology(rng.choice((ZONE_TOPOLOGY, RACK, HOSTNAME_TOPOLOGY)), chance(rng, 60))


def requirements(rng: Random) -> Requirements:
    amounts = {"cpu": rng.choice((100, 500, 2000, 4000)), "memory": rng.choice((1, 2, 8)) * GIB, "pods": 1}
    gpu_count = 0
    if chance(rng, 30):
        ask = rng.randrange(4)
        if ask == 0:
            amounts[rng.choice(("nvidia", "nvidia", "amd"))] = rng.choice((1, 2))
        elif ask == 1:
            amounts["nvidia"], gpu_count = 1, 1
        else:
            gpu_count = rng.choice((1, 1, 2, 4))
    if chance(rng, 8):
        amounts["disk"] = 1
    if chance(rng, 2):
        amounts["example.com/unheard-of"] = 1
    return Requirements(
        requests=quantities(**amounts),
        hard=matcher(rng, rng.choice((0, 10, 30))),
        node_selector=(("arch", "amd64"),) if chance(rng, 10) else (),
        node_terms=tuple(node_term(rng) for _ in range(2)) if chance(rng, 12) else (),
        soft=tuple(soft_term(rng) for _ in range(rng.randint(1, 3))) if chance(rng, 40) else (),
        anti=tuple(peer_term(rng) for _ in range(rng.choice((1, 1, 2)))) if chance(rng, 35) else (),
        near=tuple(peer_term(rng) for _ in range(rng.choice((1, 1, 2)))) if chance(rng, 20) else (),
        topology=topology(rng) if chance(rng, 25) else None,
        tolerations=tuple(toleration(rng) for _ in range(rng.choice((0, 0, 1, 2)))),
        host_ports=tuple(host_port(rng) for _ in range(rng.choice((1, 2)))) if chance(rng, 12) else (),
        gpu_count=gpu_count,
        wants_gpu=chance(rng, 5),
    )


def charge(rng: Random, number: int, workers: int) -> Charge:
    ours = chance(rng, 70)
    amounts = {"cpu": rng.choice((100, 1000, 3000)), "memory": rng.choice((1, 4, 12)) * GIB, "pods": 1}
    gpu_count = rng.choice((0, 0, 0, 1, 2))
    if chance(rng, 8):
        amounts[rng.choice(("nvidia", "amd", "disk"))] = 1
    return Charge(
        key=f"c{number:03}",
        worker=f"w{rng.randrange(workers):02}",
        requests=quantities(**amounts),
        gpu_count=gpu_count if ours else 0,
        host_ports=(host_port(rng),) if chance(rng, 10) else (),
        subject=subject(rng) if ours else None,
        anti=(peer_term(rng),) if ours and chance(rng, 25) else (),
    )


def world(rng: Random) -> World:
    count = rng.randint(5, 12)
    workers = tuple(worker(rng, number) for number in range(count))
    charges = tuple(charge(rng, number, count + 2) for number in range(rng.randrange(0, count * 3)))
    left = worker(rng, count)
    classes = [requirements(rng) for _ in range(rng.randint(1, 6))]
    subjects = [subject(rng) for _ in range(rng.randint(1, 4))]
    pending = tuple(
        PendingWorkload(
            id=f"p{number}",
            version=number,
            attempt=1 + number % 3,
            subject=rng.choice(subjects),
            requirements=rng.choice(classes),
            replicas=rng.choice((1, 1, 1, 2, 3)),
            queued_at=number,
            excluded=frozenset({f"w{rng.randrange(count):02}"}) if chance(rng, 8) else frozenset(),
        )
        for number in range(rng.randint(3, 10))
    )
    return World(workers, charges, pending, (ChargedNode(left.name, left.labels),) if chance(rng, 70) else ())
