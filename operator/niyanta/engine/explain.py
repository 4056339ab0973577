"""Why a workload has no worker: counts by reason, one line of text, and the workers that come closest.

Nothing here runs for workloads that are placed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from niyanta.engine.expedited.lane_state import LaneState
from niyanta.engine.placement.feasibility import Check, names, static_checks
from niyanta.engine.placement.overlay import Options, Overlay, SubjectView
from niyanta.engine.placement.requirement_class import Counts, RequirementClass
from niyanta.engine.queue import MINUTE
from niyanta.engine.sizing.pool_fit import EmptyPool, FitKind, PoolFit
from niyanta.engine.snapshot.affinity_terms import AffinityTerm
from niyanta.engine.snapshot.bitset import Bits, from_bool, minus, to_bool
from niyanta.engine.snapshot.snapshot import DEVICES_ROW, SLOTS_ROW, Snapshot
from niyanta.engine.types import PendingWorkload, Reason, Rejection, Requirements

_ORDER = {reason: number for number, reason in enumerate(Reason)}


def all_checks(
    fork: Overlay,
    asked: RequirementClass,
    view: SubjectView,
    anti: tuple[AffinityTerm, ...],
    near: tuple[AffinityTerm, ...],
    excluded: Bits,
) -> Iterator[Check]:
    """Every check that a pod of the class has to pass now, in the order of `Reason`, for one replica."""
    alive = fork.index.alive
    yield from static_checks(fork.index, asked.requirements, excluded)
    yield from _resource_checks(fork, asked)
    yield Reason.SLOTS, "", from_bool(fork.free[SLOTS_ROW] >= 1) & alive
    if asked.requirements.host_ports:
        yield Reason.HOST_PORT, "", minus(alive, fork.port_rows(asked.requirements))
    # Own terms first in the order given, then the carriers' by topology: whatever order terms were interned in.
    blocked: dict[str, Bits] = {}
    for term in anti:
        blocked[term.topology] = blocked.get(term.topology, 0) | fork.peer_bits[term.id]
    for term in sorted(fork.matched(view), key=lambda term: term.topology):
        blocked[term.topology] = blocked.get(term.topology, 0) | fork.carrier_bits[term.id]
    for topology, rows in blocked.items():
        yield Reason.ANTI, topology, minus(alive, rows)
    if anti and fork.held:
        yield Reason.RESERVED, "", minus(alive, fork.held)
    if near:
        allowed, starting = fork.near_rows(near, view)
        yield Reason.NEAR, "", allowed & fork.starting_rows(starting)


def _resource_checks(fork: Overlay, asked: RequirementClass) -> Iterator[Check]:
    """Named resources in the order of the request (by name), then GPU devices under the worker's own resource name."""
    alive = fork.index.alive
    for (name, amount), (column, _) in zip(asked.requirements.requests, asked.needs, strict=True):
        yield Reason.RESOURCE, name, from_bool(fork.free[column] >= amount) & alive if column >= 0 else 0
    for resource, rows in sorted(fork.index.gpu_resources.items()):
        amount = asked.devices_of[resource]
        if amount:
            enough = from_bool(fork.free[DEVICES_ROW] >= amount)
            yield Reason.RESOURCE, resource, alive ^ minus(rows, enough)


def count_reasons(
    fork: Overlay,
    asked: RequirementClass,
    view: SubjectView,
    anti: tuple[AffinityTerm, ...],
    near: tuple[AffinityTerm, ...],
    excluded: Bits,
) -> Counts:
    """Each worker once, under the first check that refuses it; those that could take one replica count as GROUP."""
    left = fork.index.alive
    counts: dict[tuple[Reason, str], int] = {}
    for reason, detail, passing in all_checks(fork, asked, view, anti, near, excluded):
        passed = left & passing
        refused = left ^ passed
        if refused:
            counts[reason, detail] = counts.get((reason, detail), 0) + refused.bit_count()
            left = passed
            if not left:
                break
    if left:
        counts[Reason.GROUP, ""] = left.bit_count()
    ordered = sorted(counts.items(), key=lambda item: (-item[1], _ORDER[item[0][0]], item[0][1]))
    return tuple([(reason, detail, count) for (reason, detail), count in ordered])


# --- text ------------------------------------------------------------------------------------------------------------


def summary(
    rejection: Rejection,
    requirements: Requirements | None = None,
    running: Mapping[str, tuple[int, int]] | None = None,
) -> str:
    """One line such as "0/500 workers: 310 GPU model is not A100, 120 not in region eu-west".

    With `requirements` the text names what was asked for. `running`: by customer with a limit, how many workloads it
    runs and may run. Deterministic: the order is the rejection's.
    """
    if not rejection.workers:
        return "no workers"
    if rejection.counts[0][0] is Reason.CONCURRENCY:
        customer = rejection.counts[0][1]
        if running is None or customer not in running:
            return _BY_DETAIL[Reason.CONCURRENCY].format(customer)
        runs, limit = running[customer]
        return f"customer {customer} runs {runs} of its {limit} concurrent workloads"
    parts = [f"{count} {_text(reason, detail, requirements)}" for reason, detail, count in rejection.counts]
    return f"0/{rejection.workers} workers: " + ", ".join(parts)


_PLAIN = {
    Reason.NOT_READY: "not ready",
    Reason.CORDONED: "cordoned",
    Reason.EXCLUDED: "turned a pod of this workload away a moment ago",
    Reason.WORKER_ID: "not among the named workers",
    Reason.POOL: "not in the wanted pool",
    Reason.REGION: "not in the wanted region",
    Reason.ZONE: "not in the wanted zone",
    Reason.COMPLIANCE: "lack compliance",
    Reason.CAPABILITY: "lack a capability",
    Reason.GPU_MODEL: "GPU model does not match",
    Reason.GPU_MEMORY: "GPU memory too small",
    Reason.TAG: "tags do not match",
    Reason.NODE_AFFINITY: "node selector or node affinity does not match",
    Reason.SLOTS: "no free slot",
    Reason.HOST_PORT: "host port taken",
    Reason.NEAR: "not near a running workload that is asked for",
    Reason.GROUP: "fit one replica but not all together",
    Reason.RESERVED: "reserved for a workload in the expedited lane",
}

_BY_DETAIL = {
    Reason.TAINT: "untolerated taint {}",
    Reason.RESOURCE: "insufficient {}",
    Reason.ANTI: "anti-affinity on {}",
    Reason.CONCURRENCY: "customer {} runs as many workloads as it may",
}


def _text(reason: Reason, detail: str, requirements: Requirements | None) -> str:
    if reason in _BY_DETAIL:
        return _BY_DETAIL[reason].format(detail)
    if requirements is None:
        return _PLAIN[reason]
    hard = requirements.hard
    if reason is Reason.GPU_MODEL:
        return f"GPU model is not {_either(hard.gpu_models)}" if hard.gpu_models else "without GPU"
    if reason is Reason.GPU_MEMORY:
        return f"GPU memory under {-(-hard.gpu_min_memory >> 20)} MiB"
    asked = {
        Reason.POOL: ("not in pool ", hard.pools),
        Reason.REGION: ("not in region ", hard.regions),
        Reason.ZONE: ("not in zone ", hard.zones),
        Reason.COMPLIANCE: ("lack compliance ", hard.compliance),
        Reason.CAPABILITY: ("lack capability ", hard.capabilities),
        Reason.HOST_PORT: ("host port taken: ", tuple(str(port.port) for port in requirements.host_ports)),
        Reason.GROUP: ("", ()),
    }.get(reason, ("", ()))
    joined = " and " if reason in (Reason.COMPLIANCE, Reason.CAPABILITY) else " or "
    return asked[0] + _either(asked[1], joined) if asked[1] else _PLAIN[reason]


def _either(values: tuple[str, ...], joined: str = " or ") -> str:
    shown = values[:3]
    return joined.join(shown) + (f" (or {len(values) - 3} more)" if len(values) > 3 else "")


def lane_note(state: LaneState, workload_id: str) -> str:
    """What the expedited lane does for a workload; empty when it isn't in the lane. Changes only with what is done."""
    member = state.members.get(workload_id)
    if member is None:
        return ""
    minutes = member.since // MINUTE
    text = f"in the expedited lane since {minutes // 60 % 24:02}:{minutes % 60:02} UTC"
    for reservation in state.reservations:
        if reservation.id == workload_id:
            workers = list(dict.fromkeys(reservation.workers))
            text += f"; reserved worker{'s' if len(workers) > 1 else ''} {_either(tuple(workers), ', ')}"
    return text


def fit_note(
    verdict: PoolFit,
    pool: EmptyPool | None,
    replicas: int = 1,
    requirements: Requirements | None = None,
    *,
    all_known: bool = True,
) -> str:
    """Whether new workers would help, such as "would fit on an empty worker of pool gpu-a100"; empty: nothing to say.

    `pool` is the verdict's. `all_known`: of every pool it is known what an empty worker offers.
    """
    if verdict.fit in (FitKind.NEW, FitKind.FULL):
        text = f"would fit on {'an empty worker' if replicas == 1 else 'empty workers'} of pool {verdict.pool}"
        if verdict.fit is FitKind.NEW or pool is None:
            return text
        if pool.fixed:
            return f"{text}, to which nobody adds workers"
        return f"{text}, which is at its maximum of {pool.most} worker{'' if pool.most == 1 else 's'}"
    if verdict.fit is FitKind.NOWHERE and verdict.closest:
        lacks = " and ".join(_text(reason, detail, requirements) for reason, detail in verdict.lacks)
        if not all_known:
            return f"of the pools whose workers are known {verdict.closest} comes closest: {lacks}"
        return f"no pool's empty worker could hold it, pool {verdict.closest} comes closest: {lacks}"
    return ""


# --- nearest miss ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A worker and every check that keeps it from taking one replica; none: it could take one."""

    worker: str
    failed: tuple[tuple[Reason, str], ...]


def nearest_miss(
    snapshot: Snapshot, workload: PendingWorkload, *, limit: int = 3, options: Options | None = None
) -> tuple[NearMiss, ...]:
    """The workers that fail the fewest checks (ties by name), at most `limit`, as the snapshot stands."""
    fork = Overlay(snapshot, options or Options())
    asked = fork.requirements_class(workload.requirements)
    view = fork.view(workload.subject)
    anti, near = fork.terms_of(asked, view)
    excluded = names(fork.index, workload.excluded)
    failing: list[tuple[Reason, str, Bits]] = []
    failures = to_bool(0, snapshot.capacity).astype(int)
    for reason, detail, passing in all_checks(fork, asked, view, anti, near, excluded):
        refused = minus(fork.index.alive, passing)
        failing.append((reason, detail, refused))
        failures += to_bool(refused, snapshot.capacity)
    ordered = sorted((int(failures[row]), name, row) for name, row in fork.index.rows.items())
    return tuple(
        NearMiss(name, tuple((reason, detail) for reason, detail, refused in failing if refused >> row & 1))
        for _, name, row in ordered[:limit]
    )
