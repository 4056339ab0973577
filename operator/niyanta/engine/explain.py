"""Explanations for workloads without a worker: one line of text, and the workers that come closest.

Computed only for workloads that were not placed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from niyanta.engine.expedited.lane_state import LaneState
from niyanta.engine.placement.checks import all_checks
from niyanta.engine.placement.feasibility import named_workers
from niyanta.engine.placement.overlay import Options, Overlay
from niyanta.engine.queue.order import MINUTE_US
from niyanta.engine.sizing.pool_fit import EmptyPool, FitKind, PoolFit
from niyanta.engine.snapshot.bitset import Bits, minus, to_bool
from niyanta.engine.snapshot.snapshot import Snapshot
from niyanta.engine.types import CPU, MEMORY, PendingWorkload, Reason, Rejection, Requirements

# --- text ------------------------------------------------------------------------------------------------------------


def summary(
    rejection: Rejection,
    requirements: Requirements | None = None,
    running: Mapping[str, tuple[int, int]] | None = None,
) -> str:
    """One line such as "0/500 workers: 310 GPU model is not A100, 120 not in region eu-west".

    With `requirements` the text names the requested values. `running`: customer with a limit -> (workloads it runs,
    workloads it may run). Deterministic: the order is the rejection's.
    """
    if not rejection.workers:
        return "no workers"
    if rejection.counts[0][0] is Reason.CONCURRENCY:
        customer = rejection.counts[0][1]
        if running is None or customer not in running:
            return _BY_DETAIL[Reason.CONCURRENCY].format(customer)
        runs, limit = running[customer]
        return f"customer {customer} runs {runs} of its {limit} concurrent workloads"
    if rejection.counts[0][0] is Reason.TERM_LIMIT:
        return _BY_DETAIL[Reason.TERM_LIMIT].format(rejection.counts[0][1])
    parts = [f"{count} {_text(reason, detail, requirements)}" for reason, detail, count in rejection.counts]
    return f"0/{rejection.workers} workers: " + ", ".join(parts)


_PLAIN = {
    Reason.NOT_READY: "not ready",
    Reason.CORDONED: "cordoned",
    Reason.EXCLUDED: "rejected a pod of this workload within the last minute",
    Reason.POOL_NOT_FOR_CUSTOMER: "in pools that are not for this customer",
    Reason.REJECTING: "closed for now, because they rejected pods",
    Reason.NODE_NAME: "not among the named workers",
    Reason.POOL: "not in a requested pool",
    Reason.REGION: "not in a requested region",
    Reason.ZONE: "not in a requested zone",
    Reason.COMPLIANCE: "lack compliance",
    Reason.CAPABILITY: "lack a capability",
    Reason.GPU_MODEL: "GPU model does not match",
    Reason.GPU_MEMORY: "GPU memory too small",
    Reason.TAG: "tags do not match",
    Reason.NODE_AFFINITY: "node selector or node affinity does not match",
    Reason.SLOTS: "no free slot",
    Reason.HOST_PORT: "host port taken",
    Reason.NEAR: "not near a required running workload",
    Reason.GROUP: "have room for one replica but not for all replicas together",
    Reason.RESERVED: "held for work that has waited longer",
}

_BY_DETAIL = {
    Reason.TAINT: "untolerated taint {}",
    Reason.TOPOLOGY: "without the label {}",
    Reason.TOO_SMALL: "too small for the requested {}",
    Reason.RESOURCE: "insufficient {}",
    Reason.ANTI: "anti-affinity on {}",
    Reason.CONCURRENCY: "customer {} is at its limit of concurrent workloads",
    Reason.TERM_LIMIT: "customer {} has too many anti and near terms in use that name neither a type nor label values",
}


def _text(reason: Reason, detail: str, requirements: Requirements | None) -> str:
    if reason is Reason.TOO_SMALL and requirements is not None:
        return f"have less than {_requested(detail, requirements)}"
    if reason in _BY_DETAIL:
        return _BY_DETAIL[reason].format(detail)
    if reason is Reason.GROUP and detail:
        return f"have room for one replica, but not for all replicas in one domain of {detail}"
    if requirements is None:
        return _PLAIN[reason]
    hard = requirements.hard
    if reason is Reason.GPU_MODEL:
        return f"GPU model is not {_either(hard.gpu_models)}" if hard.gpu_models else "without GPU"
    if reason is Reason.GPU_MEMORY:
        return f"GPU memory under {-(-hard.gpu_min_memory >> 20)} MiB"
    wanted = {
        Reason.POOL: ("not in pool ", hard.pools),
        Reason.REGION: ("not in region ", hard.regions),
        Reason.ZONE: ("not in zone ", hard.zones),
        Reason.COMPLIANCE: ("lack compliance ", hard.compliance),
        Reason.CAPABILITY: ("lack capability ", hard.capabilities),
        Reason.HOST_PORT: ("host port taken: ", tuple(str(port.port) for port in requirements.host_ports)),
        Reason.GROUP: ("", ()),
    }.get(reason, ("", ()))
    joined = " and " if reason in (Reason.COMPLIANCE, Reason.CAPABILITY) else " or "
    return wanted[0] + _either(wanted[1], joined) if wanted[1] else _PLAIN[reason]


def _either(values: tuple[str, ...], joined: str = " or ") -> str:
    shown = values[:3]
    return joined.join(shown) + (f" (or {len(values) - 3} more)" if len(values) > 3 else "")


def _requested(resource: str, requirements: Requirements) -> str:
    """The amount of a resource that one pod requests, such as "64Gi memory"."""
    requests = dict(requirements.requests)
    amount = requests.get(resource, 0)
    if resource not in requests or resource.endswith("/gpu"):
        amount += requirements.gpu_count
    if resource == CPU:
        return f"{amount / 1000:g} {resource}"
    if resource == MEMORY or resource.endswith("storage") or resource.startswith("hugepages-"):
        for unit, size in (("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)):
            if amount % size == 0:
                return f"{amount // size}{unit} {resource}"
    return f"{amount} {resource}"


# --- workers that would have to be there ------------------------------------------------------------------------------

LASTING = frozenset(
    {
        Reason.POOL_NOT_FOR_CUSTOMER,
        Reason.NOT_READY,
        Reason.CORDONED,
        Reason.TAINT,
        Reason.NODE_NAME,
        Reason.POOL,
        Reason.REGION,
        Reason.ZONE,
        Reason.COMPLIANCE,
        Reason.CAPABILITY,
        Reason.GPU_MODEL,
        Reason.GPU_MEMORY,
        Reason.TAG,
        Reason.NODE_AFFINITY,
        Reason.TOPOLOGY,
        Reason.TOO_SMALL,
    }
)
"""Reasons that only a change of workers or pools removes: no workload's end and no time does."""


def needs(rejection: Rejection, requirements: Requirements, fit: PoolFit | None = None) -> tuple[str, ...]:
    """Properties of the worker that has to be there before the workload can start, such as "in region eu-west" or "with
    at least 64 cpu". Empty if some worker may take it without being changed, when work of Niyanta ends.

    They are those that the present workers lack: a new worker needs the others as well. `fit` Nowhere, from sizing: no
    worker would have room without Niyanta's pods either, and no pool's empty worker; so a lack of room is lasting too.
    """
    lasting = LASTING | {Reason.RESOURCE} if fit is not None and fit.fit is FitKind.NOWHERE else LASTING
    if any(reason not in lasting for reason, _, _ in rejection.counts):
        return ()
    short = {detail for reason, detail, _ in rejection.counts if reason is Reason.RESOURCE}
    named = [(r, detail) for r, detail, _ in rejection.counts if r is not Reason.TOO_SMALL or detail not in short]
    ordered = sorted(named, key=lambda item: (_ORDER[item[0]], item[1]))
    return tuple(_need(reason, detail, requirements) for reason, detail in ordered)


def _need(reason: Reason, detail: str, requirements: Requirements) -> str:
    hard = requirements.hard
    texts = {
        Reason.POOL_NOT_FOR_CUSTOMER: "in a pool that is for this customer",
        Reason.NOT_READY: "that is ready",
        Reason.CORDONED: "that is not cordoned",
        Reason.TAINT: f"without the taint {detail}",
        Reason.NODE_NAME: f"named {_either(hard.node_names)}",
        Reason.POOL: f"in pool {_either(hard.pools)}",
        Reason.REGION: f"in region {_either(hard.regions)}",
        Reason.ZONE: f"in zone {_either(hard.zones)}",
        Reason.COMPLIANCE: f"with compliance {_either(hard.compliance, ' and ')}",
        Reason.CAPABILITY: f"with capability {_either(hard.capabilities, ' and ')}",
        Reason.GPU_MODEL: f"with GPU model {_either(hard.gpu_models)}" if hard.gpu_models else "with a GPU",
        Reason.GPU_MEMORY: f"with GPU memory of at least {-(-hard.gpu_min_memory >> 20)} MiB",
        Reason.TAG: "with the requested tags",
        Reason.NODE_AFFINITY: "with labels that the node selector and node affinity match",
        Reason.TOPOLOGY: f"with the label {detail}",
        Reason.TOO_SMALL: f"with at least {_requested(detail, requirements)}",
        Reason.RESOURCE: f"with {_requested(detail, requirements)} beside the pods that are not Niyanta's",
    }
    return texts[reason]


_ORDER = {reason: number for number, reason in enumerate(Reason)}


def lane_note(state: LaneState, workload_id: str) -> str:
    """Text on a workload's place in the expedited lane; empty outside the lane. Changes only with lane actions."""
    member = state.members.get(workload_id)
    if member is None:
        return ""
    minutes = member.since // MINUTE_US
    text = f"in the expedited lane since {minutes // 60 % 24:02}:{minutes % 60:02} UTC"
    for reservation in state.reservations:
        if reservation.id == workload_id:
            workers = list(dict.fromkeys(reservation.workers))
            text += f"; reserved worker{'s' if len(workers) > 1 else ''} {_either(tuple(workers), ', ')}"
    return text


def fit_note(
    pool_fit: PoolFit,
    pool: EmptyPool | None,
    replicas: int = 1,
    requirements: Requirements | None = None,
    *,
    all_known: bool = True,
) -> str:
    """Text about pools that could hold the workload, such as "would fit on an empty worker of pool gpu-a100"; or "".

    `pool` is the pool that `pool_fit` names. `all_known`: the capacity of an empty worker is known for every pool.
    """
    if pool_fit.fit is FitKind.EMPTY:
        alone = replicas == 1 and requirements is not None and not requirements.near and not requirements.anti
        return f"would fit on an empty worker of pool {pool_fit.pool}" if alone else ""
    if pool_fit.fit in (FitKind.NEW, FitKind.FULL):
        text = f"would fit on {'an empty worker' if replicas == 1 else 'empty workers'} of pool {pool_fit.pool}"
        if pool_fit.fit is FitKind.NEW or pool is None:
            return text
        if pool.fixed:
            return f"{text}, whose number of workers is fixed"
        return f"{text}, which is at its maximum of {pool.max_workers} worker{'' if pool.max_workers == 1 else 's'}"
    if pool_fit.fit is FitKind.NOWHERE and pool_fit.closest:
        lacks = " and ".join(_text(reason, detail, requirements) for reason, detail in pool_fit.lacks)
        if not all_known:
            return f"of the pools whose worker capacity is known, {pool_fit.closest} comes closest: {lacks}"
        return f"does not fit on an empty worker of any pool; pool {pool_fit.closest} comes closest: {lacks}"
    return ""


# --- nearest miss ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A worker and every check it fails for one replica; without failed checks it could take one."""

    worker: str
    failed: tuple[tuple[Reason, str], ...]


def nearest_miss(
    snapshot: Snapshot, workload: PendingWorkload, *, limit: int = 3, options: Options | None = None
) -> tuple[NearMiss, ...]:
    """The workers that fail the fewest checks (ties by name), at most `limit`, in the snapshot as it is.

    Workers of pools that the customer may not use are left out.
    """
    overlay = Overlay(snapshot, options or Options())
    requirement_class = overlay.class_of(workload.requirements, workload.subject.customer)
    view = overlay.view(workload.subject)
    anti, near = overlay.terms_of(requirement_class, view)
    excluded = named_workers(overlay.index, workload.excluded)
    failing: list[tuple[Reason, str, Bits]] = []
    failures = to_bool(0, snapshot.capacity).astype(int)
    for reason, detail, passing in all_checks(overlay, requirement_class, view, anti, near, excluded):
        refused = minus(overlay.index.alive, passing)
        failing.append((reason, detail, refused))
        failures += to_bool(refused, snapshot.capacity)
    ordered = sorted(
        (int(failures[worker]), name, worker)
        for name, worker in overlay.index.by_name.items()
        if not requirement_class.closed >> worker & 1
    )
    return tuple(
        NearMiss(name, tuple((reason, detail) for reason, detail, refused in failing if refused >> worker & 1))
        for _, name, worker in ordered[:limit]
    )
