"""Converts a WorkerPool's spec to the fields that select its workers and determine their capacity."""

from __future__ import annotations

from collections.abc import Iterable

from niyanta.cluster.state.worker_info import PoolGpuInfo, PoolInfo
from niyanta.containment import Boundary, contained
from niyanta.engine.types import MEMORY, Expression, Op, Strategy
from niyanta.resources.models.worker_pool import WorkerPool
from niyanta.resources.quantity import base_units


def pool_infos(pools: Iterable[WorkerPool]) -> list[PoolInfo]:
    """One PoolInfo for each pool, in the same order; a pool whose conversion fails is left out."""
    infos = []
    for pool in pools:
        with contained(Boundary.POOL, pool.metadata.name):
            infos.append(pool_info(pool))
    return infos


def pool_info(pool: WorkerPool) -> PoolInfo:
    """The PoolInfo of a pool."""
    spec = pool.spec
    gpu = None
    if spec.gpu is not None:
        memory = base_units(MEMORY, str(spec.gpu.memory), field="spec.gpu.memory") if spec.gpu.memory else 0
        gpu = PoolGpuInfo(model=spec.gpu.model, count=spec.gpu.count, memory=memory, resource=spec.gpu.resource)
    return PoolInfo(
        name=pool.metadata.name,
        created=pool.metadata.creation_timestamp,
        match_labels=tuple(sorted(spec.node_selector.match_labels.items())),
        match_expressions=tuple(
            Expression(e.key, Op(e.operator.value), tuple(e.values)) for e in spec.node_selector.match_expressions
        ),
        region=spec.region or "",
        zones=tuple(spec.zones),
        tags=tuple(sorted(spec.tags.items())),
        capabilities=frozenset(spec.capabilities),
        compliance=frozenset(spec.compliance),
        gpu=gpu,
        slots_per_worker=spec.slots_per_worker,
        strategy=Strategy(spec.strategy.value),
        customers=frozenset(spec.customers) or None,
    )
