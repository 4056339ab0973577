"""Hard constraints as sets of workers with reason codes, one function per concern, in the order of `Reason`.

`static_checks` lists every check that depends only on the workers themselves. Deciding folds it into the mask of a
requirement class (`static_mask`), explaining counts by it; `checks` adds the checks that depend on running pods.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from niyanta.engine.snapshot.bitset import Bits, minus
from niyanta.engine.snapshot.worker_index import WorkerIndex
from niyanta.engine.types import Expression, Matcher, NodeTerm, Op, Reason, Requirements, Taint, Toleration

Check = tuple[Reason, str, Bits]
"""Reason, detail, and the workers that pass."""

_UNSCHEDULABLE = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")
_NAME_FIELD = "metadata.name"
_MAX_TOLERATION_SETS = 1024


# --- one function per concern ----------------------------------------------------------------------------------------


def tolerates(tolerations: tuple[Toleration, ...], taint: Taint) -> bool:
    """True when a toleration covers the taint. An empty key needs `exists`, and then covers every key."""
    for toleration in tolerations:
        if toleration.effect and toleration.effect != taint.effect:
            continue
        if not toleration.key:
            if toleration.exists:
                return True
        elif toleration.key == taint.key and (toleration.exists or toleration.value == taint.value):
            return True
    return False


def named_workers(index: WorkerIndex, wanted: Iterable[str]) -> Bits:
    """Workers with any of the names; names of unknown workers are ignored."""
    found = 0
    for name in wanted:
        worker = index.by_name.get(name)
        if worker is not None:
            found |= 1 << worker
    return found


def any_of(table: dict[str, Bits], values: Iterable[str]) -> Bits:
    """Workers that have any of the values."""
    found = 0
    for value in values:
        found |= table.get(value, 0)
    return found


def all_of(table: dict[str, Bits], values: Iterable[str], alive: Bits) -> Bits:
    """Workers that have all of the values."""
    found = alive
    for value in values:
        found &= table.get(value, 0)
    return found


def gpu_models(index: WorkerIndex, models: Iterable[str]) -> Bits:
    """Workers whose full GPU model name equals one of the names, ignoring case."""
    return any_of(index.gpu_models, (model.lower() for model in models))


def gpu_memory(index: WorkerIndex, minimum: int) -> Bits:
    """Workers whose devices have at least this many bytes; unknown memory (0) never matches."""
    found = 0
    for memory, workers in index.gpu_memory.items():
        if memory >= minimum:
            found |= workers
    return found


def tags(index: WorkerIndex, expressions: Iterable[Expression]) -> Bits:
    """Workers whose tags satisfy all expressions."""
    found = index.alive
    for expression in expressions:
        found &= index.tags.matching(expression, index.alive)
    return found


def node_term(index: WorkerIndex, term: NodeTerm) -> Bits:
    """Workers that satisfy a node selector term; an empty term matches none, as in Kubernetes."""
    if not term.expressions and not term.fields:
        return 0
    found = index.alive
    for expression in term.expressions:
        found &= index.labels.matching(expression, index.alive)
    for field in term.fields:
        if field.key != _NAME_FIELD or field.op not in (Op.IN, Op.NOT_IN):
            return 0
        named = named_workers(index, field.values)
        found = found & named if field.op is Op.IN else minus(found, named)
    return found


def node_affinity(index: WorkerIndex, requirements: Requirements) -> Bits:
    """Workers that the template's nodeSelector (all labels) and required node affinity (any term) allow."""
    found = index.alive
    for key, value in requirements.node_selector:
        found &= index.labels.values.get(key, {}).get(value, 0)
    if requirements.node_terms:
        either = 0
        for term in requirements.node_terms:
            either |= node_term(index, term)
        found &= either
    return found


def matching(index: WorkerIndex, matcher: Matcher) -> Bits:
    """Workers that match all given parts of a matcher (soft terms; for hard ones `static_checks` goes part by part)."""
    found = index.alive
    for _, _, passing in _matcher_checks(index, matcher, needs_gpu=False):
        found &= passing
    if matcher.gpu_models or matcher.gpu_min_memory:
        found &= index.gpu
    return found


def is_gpu_resource(index: WorkerIndex, name: str) -> bool:
    """True when a resource is a GPU: some worker's GPUs have this name, or the name ends in /gpu."""
    return name in index.gpu_resources or name.endswith("/gpu")


def needs_gpu(index: WorkerIndex, requirements: Requirements) -> bool:
    """True when a workload may only be placed on workers with a GPU."""
    if requirements.wants_gpu or requirements.gpu_count:
        return True
    if requirements.hard.gpu_models or requirements.hard.gpu_min_memory:
        return True
    for name, _ in requirements.requests:
        if name != "cpu" and name != "memory" and name != "pods" and is_gpu_resource(index, name):
            return True
    return False


# --- in order --------------------------------------------------------------------------------------------------------


def static_checks(
    index: WorkerIndex, requirements: Requirements, *, closed: Bits = 0, excluded: Bits = 0
) -> Iterator[Check]:
    """Every check that depends only on the workers themselves; parts that the workload does not set are skipped.

    `closed` are the workers that the customer may not use, or not for now. A worker that rejects pods counts as such
    even where its pool is not for the customer.
    """
    if minus(closed, index.rejecting):
        yield Reason.POOL_NOT_FOR_CUSTOMER, "", minus(index.alive, minus(closed, index.rejecting))
    if closed & index.rejecting:
        yield Reason.REJECTING, "", minus(index.alive, closed & index.rejecting)
    yield from _state_checks(index, requirements.tolerations, excluded)
    yield from _requirement_checks(index, requirements)


def static_mask(index: WorkerIndex, requirements: Requirements) -> Bits:
    """Workers that pass all of `static_checks` with no worker closed or excluded."""
    mask = index.usable.get(requirements.tolerations)
    if mask is None:
        mask = index.alive
        for _, _, passing in _state_checks(index, requirements.tolerations, 0):
            mask &= passing
        if len(index.usable) >= _MAX_TOLERATION_SETS:
            index.usable.clear()
        index.usable[requirements.tolerations] = mask
    for _, _, passing in _requirement_checks(index, requirements):
        mask &= passing
    return mask


def _requirement_checks(index: WorkerIndex, requirements: Requirements) -> list[Check]:
    checks = list(_matcher_checks(index, requirements.hard, needs_gpu=needs_gpu(index, requirements)))
    if requirements.node_selector or requirements.node_terms:
        checks.append((Reason.NODE_AFFINITY, "", node_affinity(index, requirements)))
    topology = requirements.topology
    if topology is not None and topology.required:
        checks.append((Reason.TOPOLOGY, topology.key, index.with_domain(topology.key) & index.alive))
    return checks


def _state_checks(index: WorkerIndex, tolerations: tuple[Toleration, ...], excluded: Bits) -> Iterator[Check]:
    alive = index.alive
    if index.not_ready:
        yield Reason.NOT_READY, "", minus(alive, index.not_ready)
    if index.cordoned and not tolerates(tolerations, _UNSCHEDULABLE):
        yield Reason.CORDONED, "", minus(alive, index.cordoned)
    if excluded:
        yield Reason.EXCLUDED, "", minus(alive, excluded)
    if index.taints:
        yield from _taint_checks(index, tolerations)


def _taint_checks(index: WorkerIndex, tolerations: tuple[Toleration, ...]) -> Iterator[Check]:
    # By key, so that a worker with several untolerated taints is counted under the same one every time.
    refused: dict[str, Bits] = {}
    for taint, workers in index.taints.items():
        if not tolerates(tolerations, taint):
            refused[taint.key] = refused.get(taint.key, 0) | workers
    for key, workers in sorted(refused.items()):
        yield Reason.TAINT, key, minus(index.alive, workers)


def _matcher_checks(index: WorkerIndex, matcher: Matcher, *, needs_gpu: bool) -> Iterator[Check]:
    if matcher.node_names:
        yield Reason.NODE_NAME, "", named_workers(index, matcher.node_names)
    if matcher.pools:
        yield Reason.POOL, "", any_of(index.pools, matcher.pools)
    if matcher.regions:
        yield Reason.REGION, "", any_of(index.regions, matcher.regions)
    if matcher.zones:
        yield Reason.ZONE, "", any_of(index.zones, matcher.zones)
    if matcher.compliance:
        yield Reason.COMPLIANCE, "", all_of(index.compliance, matcher.compliance, index.alive)
    if matcher.capabilities:
        yield Reason.CAPABILITY, "", all_of(index.capabilities, matcher.capabilities, index.alive)
    if matcher.gpu_models:
        yield Reason.GPU_MODEL, "", gpu_models(index, matcher.gpu_models)
    elif needs_gpu:
        yield Reason.GPU_MODEL, "", index.gpu
    if matcher.gpu_min_memory:
        yield Reason.GPU_MEMORY, "", gpu_memory(index, matcher.gpu_min_memory)
    if matcher.tags:
        yield Reason.TAG, "", tags(index, matcher.tags)
