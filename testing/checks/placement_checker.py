"""An independent checker of placements: finds the rules that running pods break, and workloads that wait beside room.

Reads nodes and pods from the API server and nothing else; requests and pools are the manifests of the test itself.
Shares no code with the operator, on purpose: it is slow, works per object, and is meant to be read.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

from testing.checks.kubernetes_rules import host_ports, ports_collide, selected, taken_by
from testing.checks.observed_cluster import HOSTNAME, BoundPod, ObservedCluster, RequestedWorkload, Worker
from testing.cluster.api_client import JSON

# Violations


def violations(seen: ObservedCluster) -> list[str]:
    """A sentence for every rule that running pods break; empty when all rules hold."""
    return [
        *_capacity(seen),
        *_workers(seen),
        *_counts(seen),
        *_ports(seen),
        *_anti(seen),
        *_near(seen),
        *_topology(seen),
    ]


def _capacity(seen: ObservedCluster) -> list[str]:
    found = []
    for worker in seen.workers.values():
        found += [f"{worker.name}: {-left} {name} too many" for name, left in seen.free(worker).items() if left < 0]
        slots = seen.slots_left(worker)
        if slots is not None and slots < 0:
            found.append(f"{worker.name}: {-slots} pods more than slots")
    return found


def _workers(seen: ObservedCluster) -> list[str]:
    unmanaged = (pod for pod in seen.bound if pod.owner in seen.requested and pod.node not in seen.workers)
    found = [f"{pod.name} is on {pod.node}, which no pool selects" for pod in unmanaged]
    for pod, workload, worker in seen.placed:
        if why := workload.rejection_by(worker):
            found.append(f"{pod.name} on {worker.name}: {why}")
        takes = taken_by(pod.pod["spec"])
        for name, value in workload.needs(worker).items():
            if takes.get(name, Decimal(0)) < value:
                found.append(f"{pod.name} takes {takes.get(name, 0)} {name}, asked for {value}")
    return found


def _counts(seen: ObservedCluster) -> list[str]:
    found = []
    for key, workload in seen.requested.items():
        pods, wanted = seen.pods_of.get(key, []), workload.spec.get("replicas", 1)
        indexes = Counter(pod.index for pod in pods)
        if twice := sorted(index for index, times in indexes.items() if times > 1):
            found.append(f"{'/'.join(key)}: indexes {twice} live more than once")
        if pods and len(pods) != wanted:
            found.append(f"{'/'.join(key)}: {len(pods)} of {wanted} pods, all or none was asked for")
    return found


def _ports(seen: ObservedCluster) -> list[str]:
    found = []
    for worker in seen.workers:
        pods = [(pod, host_ports(pod.pod["spec"])) for pod in seen.pods_on.get(worker, [])]
        for number, (pod, ports) in enumerate(pods):
            for other, others in pods[:number]:
                if ports_collide(ports, others):
                    found.append(f"{pod.name} and {other.name} share a host port of {worker}")
    return found


def _term_matches(
    term: JSON, carrier: RequestedWorkload, carrier_customer: str, pod: BoundPod, other: RequestedWorkload
) -> bool:
    """True when the term of `carrier` selects the pod of `other`."""
    scope = term.get("scope", "Namespace")
    if scope == "Namespace" and carrier.key[0] != other.key[0]:
        return False
    if scope == "Customer" and carrier_customer != pod.customer:
        return False
    if term.get("types") and other.spec.get("type") not in term["types"]:
        return False
    if term.get("customers") and pod.customer not in term["customers"]:
        return False
    return selected(term.get("workloadSelector"), other.labels)


def _anti(seen: ObservedCluster) -> list[str]:
    found = []
    carriers = [entry for entry in seen.placed if entry[1].affinity.get("anti")]
    for pod, workload, worker in carriers:
        for term in workload.affinity["anti"]:
            topology = term.get("topologyKey", HOSTNAME)
            domain = worker.domain(topology)
            for other, other_workload, other_worker in seen.placed:
                if other.name == pod.name or domain is None or other_worker.domain(topology) != domain:
                    continue
                if _term_matches(term, workload, pod.customer, other, other_workload):
                    found.append(f"{pod.name} keeps away from {other.name}, and both are in {topology}={domain}")
    return found


def _near(seen: ObservedCluster) -> list[str]:
    found = []
    for pod, workload, worker in seen.placed:
        for term in workload.hard.get("near", []):
            domain = worker.domain(term.get("topologyKey", HOSTNAME))
            others = (entry for entry in seen.placed if entry[0].name != pod.name)
            if domain is None or not any(_is_near(term, workload, entry, domain) for entry in others):
                found.append(f"{pod.name} on {worker.name} is not near a pod that its near term selects")
    return found


def _is_near(
    term: JSON, workload: RequestedWorkload, peer: tuple[BoundPod, RequestedWorkload, Worker], domain: str
) -> bool:
    pod, other, worker = peer
    same = worker.domain(term.get("topologyKey", HOSTNAME)) == domain
    return same and _term_matches({**term, "scope": "Namespace"}, workload, pod.customer, pod, other)


def _topology(seen: ObservedCluster) -> list[str]:
    """Workloads whose pods must share a domain and don't."""
    domains: dict[tuple[tuple[str, str], str], set[str | None]] = {}
    for _, workload, worker in seen.placed:
        topology = workload.spec.get("topology") or {"mode": "Preferred"}
        if topology.get("mode", "Required") == "Required":
            domains.setdefault((workload.key, topology["key"]), set()).add(worker.domain(topology["key"]))
    return [
        f"{'/'.join(key)} is not in one domain of {topology}"
        for (key, topology), found in domains.items()
        if len(found) > 1 or None in found
    ]


# Needless waits


def needlessly_waiting(seen: ObservedCluster) -> list[str]:
    """Pending workloads of one pod that fit on a worker, with that worker; ignores anti and near terms."""
    found = []
    room = {name: (worker, seen.free(worker)) for name, worker in seen.workers.items() if worker.schedulable}
    for key, workload in seen.requested.items():
        if seen.pods_of.get(key) or workload.spec.get("replicas", 1) != 1 or workload.spec.get("suspend"):
            continue
        for name, (worker, free) in room.items():
            enough = all(free.get(resource, Decimal(0)) >= need for resource, need in workload.needs(worker).items())
            slots = seen.slots_left(worker)
            if enough and (slots is None or slots > 0) and workload.rejection_by(worker) is None:
                found.append(f"{'/'.join(key)} waits, and {name} could take it")
                break
    return found
